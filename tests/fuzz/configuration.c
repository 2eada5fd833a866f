/* A configuration in TOML, and an override: what follows the first NUL. The texts of one that is
 * accepted are accepted themselves. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/config.h"
#include "tests/fuzz/fuzz.h"

static void check_full_text(const struct config *config) {
    struct config again;
    struct error error;
    char *text, *text_again;
    fuzz_require(config_full_text(config, &text, &error) == STATUS_OK, "a full text");
    fuzz_require(config_parse(&again, text, strlen(text), "again.toml", NULL, 0, &error) ==
                     STATUS_OK,
                 error.message);
    fuzz_require(config_full_text(&again, &text_again, &error) == STATUS_OK &&
                     strcmp(text, text_again) == 0,
                 "the full text of the full text is the same");
    free(text);
    free(text_again);
    config_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = size ? memchr(data, '\0', size) : NULL;
    const size_t length = end ? (size_t)(end - data) : size;
    char *override = end ? strndup((const char *)end + 1, size - length - 1) : NULL;
    struct config config;
    struct error error;
    char *text;
    fuzz_memory_begin();
    if (config_parse(&config, (const char *)data, length, "dir/run.toml",
                     (const char *const *)&override, override ? 1 : 0, &error) == STATUS_OK) {
        fuzz_require(config_canonical_text(&config, &text, &error) == STATUS_OK, "a text");
        free(text);
        check_full_text(&config);
        config_free(&config);
    }
    fuzz_memory_end((1 << 20) + 2000 * size);
    free(override);
    return 0;
}
