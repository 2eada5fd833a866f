#include "pipeline/fingerprint.h"

#include <stdlib.h>
#include <string.h>

#include "io/digest.h"
#include "io/state.h"

/* The record has no owner: it is what tells whose the others are. */
static const char no_owner[65] = "0000000000000000000000000000000000000000000000000000000000000000";
static const char record[] = "fingerprint";

/* The start, middle and end of every tensor: a model that was trained further has the same headers.
 */
static void digest_weights(const struct model_source *source, char sum[65]) {
    enum { PIECE = 4096 };
    struct digest *digest = digest_create();
    sum[0] = '\0';
    if (!digest)
        return;
    for (int64_t i = 0; i < model_source_tensor_count(source); i++) {
        const struct tensor *tensor = model_source_tensor(source, i);
        const size_t piece = tensor->bytes < PIECE ? tensor->bytes : PIECE;
        digest_update(digest, tensor->data, piece);
        digest_update(digest, tensor->data + (tensor->bytes - piece) / 2, piece);
        digest_update(digest, tensor->data + tensor->bytes - piece, piece);
        tensor_release(tensor);
    }
    digest_finish(digest, sum);
}

static bool is_wanted(const char *section, const char *line, const char *const *keys) {
    char key[128];
    snprintf(key, sizeof key, "%s.%.*s", section, (int)strcspn(line, " "), line);
    for (; keys && *keys; keys++)
        if (strcmp(*keys, key) == 0)
            return true;
    return !keys;
}

void fingerprint_add_settings(FILE *out, char *toml, const char *const *keys) {
    char section[64] = "";
    char *rest = toml;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (line[0] == '[')
            snprintf(section, sizeof section, "%.*s", (int)strcspn(line + 1, "]"), line + 1);
        else if (line[0] && is_wanted(section, line, keys))
            fprintf(out, "%s.%s\n", section, line);
}

enum status fingerprint_add_model(FILE *out, const struct model_source *source,
                                  enum kernel_path path, struct error *error) {
    char files[65], weights[65];
    const enum status status = model_source_fingerprint(source, files, error);
    if (status)
        return status;
    digest_weights(source, weights);
    fprintf(out, "run.isa = \"%s\"\n", kernel_path_name(path));
    fprintf(out, "the model's files = %s\nthe model's weights = %s\n", files, weights);
    return STATUS_OK;
}

/* The first line that differs of two texts with the same lines in the same order. */
static enum status refuse(const char *output, char *before, char *now, struct error *error) {
    char *old = NULL, *new = NULL;
    do {
        old = strsep(&before, "\n");
        new = strsep(&now, "\n");
    } while (old && new &&strcmp(old, new) == 0);
    const char *value = new ? strstr(new, " = ") : NULL;
    return error_set(error, STATUS_INPUT,
                     "%s: an interrupted run has left its state, but was another one: %s there, %s "
                     "here. Repeat it as it was to go on with it, or add --restart to begin anew",
                     output, old ? old : "less", value ? value + 3 : "less");
}

enum status fingerprint_compare(const char *output, const char *text, bool *same,
                                struct error *error) {
    void *data;
    size_t bytes;
    *same = false;
    enum status status = state_read(output, record, no_owner, &data, &bytes, error);
    if (status) {
        struct error cause = *error;
        return error_set(error, status, "%s; add --restart to begin anew", cause.message);
    }
    *same = data != NULL;
    if (!data)
        return STATUS_OK;
    char *before = strndup(data, bytes), *now = strdup(text);
    free(data);
    if (!before || !now)
        status = error_set(error, STATUS_FAILED, "no memory for the fingerprint");
    else if (strcmp(before, now) != 0)
        status = refuse(output, before, now, error);
    free(before);
    free(now);
    return status;
}

enum status fingerprint_take(const char *output, const char *text, bool same, char owner[65],
                             struct error *error) {
    digest_bytes(text, strlen(text), owner);
    return same ? STATUS_OK : state_write(output, record, no_owner, text, strlen(text), error);
}
