/* What the parts of the configuration share: messages with the place of a value, the checks that no
 * single key shows. */
#ifndef FPTQ_PIPELINE_CONFIG_INTERNAL_H
#define FPTQ_PIPELINE_CONFIG_INTERNAL_H

#include "pipeline/config.h"

/* Where a value comes from, for messages and for relative paths. */
struct config_origin {
    const char *name; /* the configuration file's; NULL for an override */
    const char *text; /* an override's own text */
    int line;
    int folder_length; /* of the part of `name` up to its last '/', with it */
};

/* error_set with the place in front: STATUS_USAGE for an override, else STATUS_INPUT. */
enum status config_fault(const struct config_origin *origin, struct error *error,
                         const char *format, ...) __attribute__((format(printf, 3, 4)));
/* NULL: there is none. */
const struct config_key *config_find_key(const char *section, const char *name);

/* STATUS_INPUT with the reason. quantization: data and output are there, and what is asked for goes
 * together; evaluation: there is something to evaluate. */
enum status config_check_model(const struct config *config, const struct config_origin *origin,
                               struct error *error);
enum status config_check_quantization(const struct config *config,
                                      const struct config_origin *origin, struct error *error);
enum status config_check_evaluation(const struct config *config, const struct config_origin *origin,
                                    struct error *error);

#endif
