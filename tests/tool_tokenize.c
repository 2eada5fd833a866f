/* Print token ids, one line a document: for comparisons with other tokenizers
 * (compare_tokenizers.py).
 *
 *   tool_tokenize [-s] TOKENIZER.json FILE.jsonl      documents
 *   tool_tokenize [-s] -l TOKENIZER.json FILE         each line of any file, without its newline
 * -s: with the post-processor's tokens (BOS). TOKENIZER.json may also be a model: a folder or a
 * GGUF file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/corpus.h"
#include "io/model_source.h"
#include "io/tokenizer.h"

static void stop_on(enum status status, const struct error *error) {
    if (status == STATUS_OK)
        return;
    fflush(stdout);
    fprintf(stderr, "%s\n", error->message);
    exit((int)status);
}

static char *read_whole(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(STATUS_INPUT);
    }
    *length = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*length + 1);
    if (!data || fread(data, 1, *length, file) != *length) {
        perror(path);
        exit(STATUS_FAILED);
    }
    fclose(file);
    return data;
}

static char *read_tokenizer(const char *path, size_t *length) {
    size_t count = strlen(path);
    if (count > 5 && strcmp(path + count - 5, ".json") == 0)
        return read_whole(path, length);
    struct model_source *source;
    struct error error;
    char *json;
    stop_on(model_source_open(path, &source, &error), &error);
    stop_on(model_source_tokenizer_json(source, &json, length, &error), &error);
    model_source_close(source);
    return json;
}

static void print_ids(struct tokenizer *tokenizer, const char *text, size_t length, int special,
                      struct token_list *list) {
    struct error error;
    list->count = 0;
    stop_on(tokenizer_encode(tokenizer, text, length, special, list, &error), &error);
    for (size_t i = 0; i < list->count; i++)
        printf("%s%d", i ? " " : "", (int)list->ids[i]);
    putchar('\n');
}

static void print_documents(struct tokenizer *tokenizer, const char *path, int special,
                            struct token_list *list) {
    struct error error;
    struct corpus *corpus;
    stop_on(corpus_open(&path, 1, &corpus, &error), &error);
    for (;;) {
        struct corpus_document document;
        int found;
        stop_on(corpus_next(corpus, &document, &found, &error), &error);
        if (!found)
            break;
        print_ids(tokenizer, document.text, document.length, special, list);
    }
    corpus_close(corpus);
}

static void print_lines(struct tokenizer *tokenizer, const char *path, int special,
                        struct token_list *list) {
    size_t length;
    char *text = read_whole(path, &length);
    for (size_t begin = 0; begin < length;) {
        const char *newline = memchr(text + begin, '\n', length - begin);
        size_t end = newline ? (size_t)(newline - text) : length;
        print_ids(tokenizer, text + begin, end - begin, special, list);
        begin = end + 1;
    }
    free(text);
}

int main(int count, char **arguments) {
    int special = 0, lines = 0;
    for (int option; (option = getopt(count, arguments, "sl")) != -1;) {
        if (option == '?')
            return STATUS_USAGE;
        special |= option == 's';
        lines |= option == 'l';
    }
    if (count - optind != 2) {
        fprintf(stderr, "usage: %s [-s] [-l] TOKENIZER.json FILE\n", arguments[0]);
        return STATUS_USAGE;
    }
    struct error error;
    struct tokenizer *tokenizer;
    struct token_list list = {0};
    size_t length;
    char *json = read_tokenizer(arguments[optind], &length);
    stop_on(tokenizer_create(json, length, arguments[optind], &tokenizer, &error), &error);
    free(json);
    (lines ? print_lines : print_documents)(tokenizer, arguments[optind + 1], special, &list);
    token_list_free(&list);
    tokenizer_destroy(tokenizer);
    return STATUS_OK;
}
