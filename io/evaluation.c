#include "io/evaluation.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/evaluation_internal.h"
#include "io/mapped_file.h"

static const char *const names[EVALUATION_SET_COUNT] = {
    [EVALUATION_WIKITEXT2] = "wikitext2", [EVALUATION_PTB] = "ptb",
    [EVALUATION_PIQA] = "piqa",           [EVALUATION_HELLASWAG] = "hellaswag",
    [EVALUATION_ARC_EASY] = "arc_easy",   [EVALUATION_MMLU] = "mmlu",
    [EVALUATION_LAMBADA] = "lambada",     [EVALUATION_WINOGRANDE] = "winogrande",
};

const char *evaluation_set_name(enum evaluation_set set) {
    return names[set];
}

bool evaluation_set_is_text(enum evaluation_set set) {
    return set == EVALUATION_WIKITEXT2 || set == EVALUATION_PTB;
}

bool evaluation_next_line(struct evaluation_span *rest, struct evaluation_span *line) {
    if (!rest->length)
        return false;
    const char *end = memchr(rest->text, '\n', rest->length);
    line->text = rest->text;
    line->length = end ? (size_t)(end - rest->text) : rest->length;
    const size_t used = line->length + (end != NULL);
    rest->text += used;
    rest->length -= used;
    return true;
}

/* Bytes of the white space that a text begins with: 0 when it begins with something else. */
static size_t space_at(const char *text, size_t length) {
    static const char *const wide[] = {"\xc2\x85", "\u00a0", "\u1680", "\u2028",
                                       "\u2029",   "\u202f", "\u205f", "\u3000"};
    const unsigned char first = (unsigned char)text[0];
    if (first < 0x80)
        return (first >= '\t' && first <= '\r') || (first >= 0x1c && first <= ' ');
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        const size_t bytes = strlen(wide[i]);
        if (length >= bytes && !memcmp(text, wide[i], bytes))
            return bytes;
    }
    /* U+2000 to U+200A */
    return length >= 3 && !memcmp(text, "\xe2\x80", 2) && (unsigned char)text[2] >= 0x80 &&
                   (unsigned char)text[2] <= 0x8a
               ? 3
               : 0;
}

struct evaluation_span evaluation_strip(struct evaluation_span span) {
    size_t bytes;
    while (span.length && (bytes = space_at(span.text, span.length))) {
        span.text += bytes;
        span.length -= bytes;
    }
    while (span.length) {
        size_t start = span.length - 1;
        while (start && ((unsigned char)span.text[start] & 0xc0) == 0x80)
            start--;
        bytes = space_at(span.text + start, span.length - start);
        if (!bytes || start + bytes != span.length)
            break;
        span.length = start;
    }
    return span;
}

size_t evaluation_stripped_length(const char *text) {
    const struct evaluation_span span =
        evaluation_strip((struct evaluation_span){text, strlen(text)});
    return span.length ? (size_t)(span.text + span.length - text) : 0;
}

struct evaluation_item *evaluation_items_add(struct evaluation_items *items) {
    if (items->count == items->capacity) {
        const int64_t capacity = items->capacity ? 2 * items->capacity : 256;
        void *grown = realloc(items->items, (size_t)capacity * sizeof *items->items);
        if (!grown)
            return NULL;
        items->items = grown;
        items->capacity = capacity;
    }
    struct evaluation_item *item = &items->items[items->count++];
    memset(item, 0, sizeof *item);
    return item;
}

void evaluation_items_free(struct evaluation_items *items) {
    for (int64_t i = 0; i < items->count; i++)
        for (int choice = 0; choice < EVALUATION_CHOICES_MAX; choice++) {
            free(items->items[i].contexts[choice]);
            free(items->items[i].continuations[choice]);
        }
    free(items->items);
    *items = (struct evaluation_items){0};
}

bool evaluation_print(char **text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *printed = NULL;
    const int length = vasprintf(&printed, format, arguments);
    va_end(arguments);
    if (length < 0)
        return false;
    free(*text);
    *text = printed;
    return true;
}

bool evaluation_set_choice(struct evaluation_item *item, int index, const char *choice) {
    item->characters[index] = 0;
    for (const char *byte = choice; *byte; byte++)
        item->characters[index] += ((unsigned char)*byte & 0xc0) != 0x80;
    return evaluation_print(&item->continuations[index], " %s", choice);
}

/* One line of a text as its rule wants it, with what joins it to the ones before. */
static bool append_line(enum evaluation_set set, struct text_buffer *text, bool first,
                        struct evaluation_span line) {
    const struct evaluation_span stripped = evaluation_strip(line);
    if (set == EVALUATION_PTB)
        return (first || text_buffer_append(text, " ", 1)) &&
               text_buffer_append(text, stripped.text, stripped.length);
    if (!first && !text_buffer_append(text, "\n\n", 2))
        return false;
    return !stripped.length ||
           (text_buffer_append(text, line.text, line.length) && text_buffer_append(text, "\n", 1));
}

enum status evaluation_read_text(enum evaluation_set set, const char *path,
                                 struct text_buffer *text, struct error *error) {
    struct mapped_file file;
    enum status status = mapped_file_open(path, &file, error);
    if (status)
        return status;
    struct evaluation_span rest = {(const char *)file.data, file.size}, line;
    bool complete = true, some = false;
    for (bool first = true; complete && evaluation_next_line(&rest, &line); first = false) {
        complete = append_line(set, text, first, line);
        some |= evaluation_strip(line).length > 0;
    }
    mapped_file_close(&file);
    if (!complete)
        status = error_set(error, STATUS_FAILED, "%s: out of memory", path);
    else if (!some)
        status = error_set(error, STATUS_INPUT, "%s: there is no text in it", path);
    if (status)
        text_buffer_free(text);
    return status;
}

enum status evaluation_read_items(enum evaluation_set set, const char *path, int64_t limit,
                                  int shots, struct evaluation_items *items, struct error *error) {
    *items = (struct evaluation_items){0};
    enum status status = set == EVALUATION_MMLU
                             ? evaluation_read_mmlu(path, limit, shots, items, error)
                             : evaluation_read_lines(set, path, limit, items, error);
    if (!status && !items->count)
        status = error_set(error, STATUS_INPUT, "%s: there are no items of %s in it", path,
                           evaluation_set_name(set));
    if (status)
        evaluation_items_free(items);
    return status;
}
