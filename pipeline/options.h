/* The command line: fptq-pipeline [VERB] [OPTION...] CONFIG.toml | CHECKPOINT.h5 */
#ifndef FPTQ_PIPELINE_OPTIONS_H
#define FPTQ_PIPELINE_OPTIONS_H

#include <stdbool.h>

#include "io/status.h"
#include "pipeline/log.h"

enum verb {
    VERB_QUANTIZE,
    VERB_PLAN,
    VERB_EVAL,
    VERB_VERIFY,
    VERB_EXPORT,
    VERB_REPORT,
    VERB_COUNT
};

struct options {
    enum verb verb;
    bool verb_given;
    bool help, version;   /* nothing else matters then */
    const char *argument; /* the configuration file, or the checkpoint for verify */
    char **arguments;     /* (argument_count) the first is `argument`; report takes several */
    int argument_count;
    const char **overrides; /* (override_count) the texts of --set, in order */
    int override_count;
    enum log_level level;
    const char *json; /* file for the report, or NULL */
    bool restart;     /* forget the saved state of an earlier run */
    bool measure;     /* plan with rates measured here */
    int simulate;     /* ranks to simulate, or 0 */
};

/* Read the command line. Strings point into argv. STATUS_USAGE where it is wrong, also for a verb
 * that this version does not have yet. options_free releases the list of overrides. */
enum status options_parse(struct options *options, int argc, char **argv, struct error *error);
void options_free(struct options *options);

/* Text of --help for the verb given (or for all), with the configuration keys, on standard output.
 */
void options_print_help(const struct options *options);
void options_print_version(void);

#endif
