/* What an interrupted run has left, as the same run reads it when it starts again. The first byte
 * says what the rest is: 0 the file of the record of ranges, 1 and 2 its data in a file with the
 * right sum (2: after the head of one that fits), 3 the data of a layer's record, 4 the file of the
 * fingerprint. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "io/state.h"
#include "pipeline/log.h"
#include "pipeline/resume.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/small_model.h"

enum { SAMPLES = 3, TOKENS = 2 };

static struct config config;
static struct sample_windows windows = {.samples = SAMPLES, .sequence_length = 8};
static struct site_sample sample = {.tokens = TOKENS};
static char owner[65];

static struct resume_run make_run(bool restart) {
    return (struct resume_run){.config = &config,
                               .model = fuzz_small_model(),
                               .windows = &windows,
                               .layer_end = 1,
                               .sample = &sample,
                               .restart = restart};
}

static void read_state(bool restart) {
    const struct resume_run run = make_run(restart);
    struct resume_found found = {0};
    struct error error;
    char read_owner[65] = "";
    const enum status status = resume_read(&run, read_owner, &found, &error);
    fuzz_require(status == STATUS_OK || !restart, error.message);
    if (status == STATUS_OK)
        memcpy(owner, read_owner, sizeof owner);
    resume_found_free(&found);
}

static void start(void) {
    static const char format[] = "model.path = \"m\"\n"
                                 "calibration = {data = \"random-tokens\", samples = %d, "
                                 "sequence_length = 8, sample_tokens = %d}\n"
                                 "quantization.static_scale = \"least-squares\"\n"
                                 "output.checkpoint = \"%s\"\n";
    char toml[sizeof format + 400];
    struct error error;
    snprintf(toml, sizeof toml, format, SAMPLES, TOKENS, fuzz_path("s.h5"));
    if (config_parse(&config, toml, strlen(toml), "c.toml", NULL, 0, &error) != STATUS_OK)
        fuzz_require(0, error.message);
    log_set_speaker(false);
    mkdir(fuzz_path("s.parts"), 0700);
}

static void write_ranges(const uint8_t *data, size_t size, bool with_head) {
    const struct resume_ranges head = {0, 1, model_layer_channels(fuzz_small_model()), SAMPLES,
                                       TOKENS};
    const struct state_piece pieces[] = {{&head, with_head ? sizeof head : 0}, {data, size}};
    state_write_pieces(config.output.checkpoint, "ranges-0001-00000", owner, pieces, 2, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    if (!*owner)
        start();
    if (!*owner || *data % 5 == 4)
        read_state(true);
    switch (*data++ % 5) {
    case 0:
        fuzz_file("s.parts/ranges-0001-00000.state", data, size - 1);
        break;
    case 1:
        write_ranges(data, size - 1, false);
        break;
    case 2:
        write_ranges(data, size - 1, true);
        break;
    case 3:
        state_write(config.output.checkpoint, "layer-00000", owner, data, size - 1, NULL);
        break;
    default:
        fuzz_file("s.parts/fingerprint.state", data, size - 1);
    }
    fuzz_memory_begin();
    read_state(false);
    fuzz_memory_end(65536 + 4 * size);
    return 0;
}
