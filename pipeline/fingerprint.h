/* What decides the results of a run, as lines "key = value": an interrupted run is taken up by one
 * with the same lines only. Its text is the record "fingerprint" of the run's state (io/state.h),
 * its sum the owner of the other records. */
#ifndef FPTQ_PIPELINE_FINGERPRINT_H
#define FPTQ_PIPELINE_FINGERPRINT_H

#include <stdbool.h>
#include <stdio.h>

#include "io/model_source.h"
#include "io/status.h"
#include "kernels/path.h"

/* Lines of a text of pipeline/config.h, each with its section: "calibration.samples = 16". keys: of
 * these alone ("calibration.samples"), a list that ends with NULL; or NULL: all. Changes the text.
 */
void fingerprint_add_settings(FILE *out, char *toml, const char *const *keys);
/* The model's files, samples of its weights, and the instructions that compute with them. */
enum status fingerprint_add_model(FILE *out, const struct model_source *source,
                                  enum kernel_path path, struct error *error);

/* *same: an interrupted run with this text has left its state beside `output`; false when there is
 * none. STATUS_INPUT naming the first line that differs when it was another run. */
enum status fingerprint_compare(const char *output, const char *text, bool *same,
                                struct error *error);
/* The owner of the state; with `same` false the record is written. */
enum status fingerprint_take(const char *output, const char *text, bool same, char owner[65],
                             struct error *error);

#endif
