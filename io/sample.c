#include "io/sample.h"

#include <endian.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "io/digest.h"
#include "io/random.h"

enum { BUFFER_DOCUMENTS = 1024, BUFFER_BYTES = 64 << 20 };

struct held_document {
    char *text;
    size_t length;
    const char *file; /* the corpus's */
    int64_t line;
};

/* The documents among which the next one is drawn. */
struct shuffle {
    struct corpus *corpus;
    struct random_state random;
    struct held_document held[BUFFER_DOCUMENTS];
    size_t count, bytes;
    bool at_end;
};

static enum status allocate(int64_t samples, int64_t sequence_length, int64_t vocabulary_size,
                            struct sample_windows *windows, struct error *error) {
    *windows = (struct sample_windows){0};
    if (samples < 1 || sequence_length < 1 || vocabulary_size < 1 || vocabulary_size > INT32_MAX)
        return error_set(
            error, STATUS_INPUT,
            "samples (%lld), sequence_length (%lld) and the vocabulary (%lld) are not all positive",
            (long long)samples, (long long)sequence_length, (long long)vocabulary_size);
    int32_t *ids = NULL;
    if (samples <= INT64_MAX / 4 / sequence_length)
        ids = malloc((size_t)(samples * sequence_length) * sizeof *ids);
    if (!ids)
        return error_set(error, STATUS_FAILED, "out of memory for %lld windows of %lld tokens",
                         (long long)samples, (long long)sequence_length);
    *windows =
        (struct sample_windows){.ids = ids, .samples = samples, .sequence_length = sequence_length};
    return STATUS_OK;
}

static enum status digest_ids(struct sample_windows *windows, struct error *error) {
    struct digest *digest = digest_create();
    if (!digest)
        return error_set(error, STATUS_FAILED, "out of memory for a digest");
    for (int64_t i = 0; i < windows->samples * windows->sequence_length; i++) {
        uint32_t id = htole32((uint32_t)windows->ids[i]);
        digest_update(digest, &id, sizeof id);
    }
    digest_finish(digest, windows->digest);
    return STATUS_OK;
}

static enum status hold(struct shuffle *shuffle, const struct corpus_document *document,
                        struct error *error) {
    char *text = malloc(document->length);
    if (!text)
        return error_set(error, STATUS_FAILED, "%s: out of memory for a document", document->file);
    memcpy(text, document->text, document->length);
    shuffle->held[shuffle->count++] = (struct held_document){
        .text = text, .length = document->length, .file = document->file, .line = document->line};
    shuffle->bytes += document->length;
    return STATUS_OK;
}

static enum status fill(struct shuffle *shuffle, struct error *error) {
    enum status status = STATUS_OK;
    while (status == STATUS_OK && !shuffle->at_end && shuffle->count < BUFFER_DOCUMENTS &&
           shuffle->bytes < BUFFER_BYTES) {
        struct corpus_document document;
        int found;
        status = corpus_next(shuffle->corpus, &document, &found, error);
        if (status == STATUS_OK && !found)
            shuffle->at_end = true;
        else if (status == STATUS_OK && document.length > 0)
            status = hold(shuffle, &document, error);
    }
    return status;
}

static struct held_document draw(struct shuffle *shuffle) {
    size_t index = (size_t)random_below(&shuffle->random, shuffle->count);
    struct held_document document = shuffle->held[index];
    shuffle->held[index] = shuffle->held[--shuffle->count];
    shuffle->bytes -= document.length;
    return document;
}

/* The ids of one document; the caller's list is emptied first. */
static enum status tokenize(struct tokenizer *tokenizer, const struct held_document *document,
                            int64_t vocabulary_size, struct token_list *list, struct error *error) {
    int32_t eos = tokenizer_eos(tokenizer);
    list->count = 0;
    struct error inner;
    enum status status =
        tokenizer_encode(tokenizer, document->text, document->length, 1, list, &inner);
    if (status == STATUS_OK && eos >= 0 && (list->count == 0 || list->ids[list->count - 1] != eos))
        status = token_list_append(list, eos, &inner);
    if (status != STATUS_OK)
        return error_set(error, status, "%s: document of line %lld: %s", document->file,
                         (long long)document->line, inner.message);
    for (size_t i = 0; i < list->count; i++)
        if (list->ids[i] >= vocabulary_size)
            return error_set(error, STATUS_INPUT,
                             "the tokenizer gives token %d, but the model's vocabulary has only "
                             "%lld: they do not "
                             "belong together (%s, line %lld)",
                             (int)list->ids[i], (long long)vocabulary_size, document->file,
                             (long long)document->line);
    return STATUS_OK;
}

static enum status collect(struct shuffle *shuffle, struct tokenizer *tokenizer,
                           int64_t vocabulary_size, struct sample_windows *windows,
                           struct error *error) {
    int64_t wanted = windows->samples * windows->sequence_length, count = 0;
    struct token_list list = {0};
    enum status status = STATUS_OK;
    while (status == STATUS_OK && count < wanted) {
        status = fill(shuffle, error);
        if (status != STATUS_OK)
            break;
        if (shuffle->count == 0) {
            status = error_set(error, STATUS_INPUT,
                               "the data is too small: %lld tokens make %lld windows of %lld, and "
                               "%lld are wanted: "
                               "give more data or lower samples",
                               (long long)count, (long long)(count / windows->sequence_length),
                               (long long)windows->sequence_length, (long long)windows->samples);
            break;
        }
        struct held_document document = draw(shuffle);
        status = tokenize(tokenizer, &document, vocabulary_size, &list, error);
        free(document.text);
        if (status != STATUS_OK)
            break;
        int64_t taken = (int64_t)list.count < wanted - count ? (int64_t)list.count : wanted - count;
        if (taken > 0)
            memcpy(windows->ids + count, list.ids, (size_t)taken * sizeof *list.ids);
        count += taken;
        windows->documents++;
    }
    token_list_free(&list);
    return status;
}

enum status sample_from_corpus(struct corpus *corpus, struct tokenizer *tokenizer, int64_t samples,
                               int64_t sequence_length, uint64_t seed, int64_t vocabulary_size,
                               struct sample_windows *windows, struct error *error) {
    enum status status = allocate(samples, sequence_length, vocabulary_size, windows, error);
    if (status != STATUS_OK)
        return status;
    struct shuffle *shuffle = calloc(1, sizeof *shuffle);
    if (!shuffle) {
        sample_free(windows);
        return error_set(error, STATUS_FAILED, "out of memory for documents");
    }
    shuffle->corpus = corpus;
    shuffle->random.counter = seed;
    status = collect(shuffle, tokenizer, vocabulary_size, windows, error);
    while (shuffle->count)
        free(shuffle->held[--shuffle->count].text);
    free(shuffle);
    if (status == STATUS_OK)
        status = digest_ids(windows, error);
    if (status != STATUS_OK)
        sample_free(windows);
    return status;
}

enum status sample_random_tokens(int64_t samples, int64_t sequence_length, uint64_t seed,
                                 int64_t vocabulary_size, struct sample_windows *windows,
                                 struct error *error) {
    enum status status = allocate(samples, sequence_length, vocabulary_size, windows, error);
    if (status != STATUS_OK)
        return status;
    struct random_state random = {.counter = seed};
    for (int64_t i = 0; i < samples * sequence_length; i++)
        windows->ids[i] = (int32_t)random_below(&random, (uint64_t)vocabulary_size);
    status = digest_ids(windows, error);
    if (status != STATUS_OK)
        sample_free(windows);
    return status;
}

void sample_free(struct sample_windows *windows) {
    free(windows->ids);
    *windows = (struct sample_windows){0};
}
