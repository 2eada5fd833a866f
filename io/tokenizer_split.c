/* Pre-tokenizers: cutting a text into words.
 *
 * Each step hands its pieces to the next one as it finds them, so nothing grows with the number of
 * pieces. A step that changes the text writes the new one into its own buffer, which stays until
 * the piece is done. */
#include <string.h>

#include "io/tokenizer_internal.h"

struct run {
    struct tokenizer *tokenizer;
    struct token_list *list;
    struct error *error;
};

static enum status run_step(struct run *run, size_t step, const char *text, size_t length,
                            bool at_start);

static enum status out_of_memory(struct error *error) {
    return error_set(error, STATUS_FAILED, "out of memory in the tokenizer");
}

/* Pieces of one text on their way to the next step: one is held back, since the next may join it.
 */
struct pieces {
    struct run *run;
    const struct splitter *splitter;
    size_t next_step;
    const char *text;
    bool at_start;
    bool held, held_is_match;
    size_t begin, end;
};

static enum status flush_piece(struct pieces *pieces) {
    if (!pieces->held)
        return STATUS_OK;
    pieces->held = false;
    return run_step(pieces->run, pieces->next_step, pieces->text + pieces->begin,
                    pieces->end - pieces->begin, pieces->at_start && pieces->begin == 0);
}

/* Does a piece join the one before it? */
static bool joins(const struct pieces *pieces, bool is_match) {
    switch (pieces->splitter->behavior) {
    case SPLIT_MERGED_WITH_PREVIOUS:
        return pieces->held && is_match && !pieces->held_is_match;
    case SPLIT_MERGED_WITH_NEXT:
        return pieces->held && !is_match && pieces->held_is_match;
    case SPLIT_CONTIGUOUS:
        return pieces->held && is_match == pieces->held_is_match;
    default:
        return false;
    }
}

static enum status add_piece(struct pieces *pieces, size_t begin, size_t end, bool is_match) {
    is_match ^= pieces->splitter->invert;
    if (pieces->splitter->behavior == SPLIT_REMOVED && is_match)
        return STATUS_OK;
    enum status status = STATUS_OK;
    if (joins(pieces, is_match)) {
        pieces->end = end;
    } else {
        status = flush_piece(pieces);
        pieces->held = true;
        pieces->begin = begin;
        pieces->end = end;
    }
    pieces->held_is_match = is_match;
    return status;
}

static enum status split_pattern(struct run *run, const struct splitter *splitter, size_t next_step,
                                 const char *text, size_t length, bool at_start) {
    struct pieces pieces = {.run = run,
                            .splitter = splitter,
                            .next_step = next_step,
                            .text = text,
                            .at_start = at_start};
    size_t from = 0, covered = 0;
    bool matched = false;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && from <= length) {
        bool found;
        size_t begin, end;
        status = regex_find(splitter->regex, text, length, from, &found, &begin, &end, run->error);
        if (status != STATUS_OK || !found)
            break;
        if (begin == end && matched && end == covered) { /* nothing, right after a match: go on */
            do
                from++;
            while (from < length && ((unsigned char)text[from] & 0xc0) == 0x80);
            continue;
        }
        if (begin > covered)
            status = add_piece(&pieces, covered, begin, false);
        if (status == STATUS_OK)
            status = add_piece(&pieces, begin, end, true);
        from = covered = end;
        matched = true;
    }
    if (status == STATUS_OK && covered < length)
        status = add_piece(&pieces, covered, length, false);
    return status == STATUS_OK ? flush_piece(&pieces) : status;
}

static enum status prefix_space(struct run *run, struct splitter *splitter, size_t next_step,
                                const char *text, size_t length, bool at_start) {
    if (text[0] == ' ')
        return run_step(run, next_step, text, length, at_start);
    splitter->scratch.length = 0;
    if (!text_buffer_append(&splitter->scratch, " ", 1) ||
        !text_buffer_append(&splitter->scratch, text, length))
        return out_of_memory(run->error);
    return run_step(run, next_step, splitter->scratch.data, length + 1, at_start);
}

/* GPT-2's map of bytes to printable characters: those that are printable in Latin-1 stand for
 * themselves, the others follow from U+0100 on. */
static unsigned byte_character(unsigned byte) {
    if (byte < 0x21)
        return 0x100 + byte;
    if (byte < 0x7f)
        return byte;
    if (byte < 0xa1)
        return 0x100 + 0x21 + (byte - 0x7f);
    return byte == 0xad ? 0x143 : byte;
}

static enum status bytes_to_characters(struct run *run, struct splitter *splitter, size_t next_step,
                                       const char *text, size_t length, bool at_start) {
    splitter->scratch.length = 0;
    if (length > INT32_MAX / 2 || !text_buffer_reserve(&splitter->scratch, 2 * length))
        return out_of_memory(run->error);
    char *output = splitter->scratch.data;
    for (size_t i = 0; i < length; i++) {
        unsigned character = byte_character((unsigned char)text[i]);
        if (character < 0x80) {
            *output++ = (char)character;
        } else {
            *output++ = (char)(0xc0 | character >> 6);
            *output++ = (char)(0x80 | (character & 0x3f));
        }
    }
    splitter->scratch.length = (size_t)(output - splitter->scratch.data);
    return run_step(run, next_step, splitter->scratch.data, splitter->scratch.length, at_start);
}

static enum status metaspace(struct run *run, struct splitter *splitter, size_t next_step,
                             const char *text, size_t length, bool at_start) {
    struct text_buffer *output = &splitter->scratch;
    const char *replacement = splitter->replacement;
    size_t size = splitter->replacement_length;
    bool starts = text[0] == ' ' || (length >= size && memcmp(text, replacement, size) == 0);
    bool prepend = !starts && (splitter->prepend == PREPEND_ALWAYS ||
                               (splitter->prepend == PREPEND_FIRST && at_start));
    output->length = 0;
    bool good = !prepend || text_buffer_append(output, replacement, size);
    for (size_t at = 0; good && at < length;) {
        const char *space = memchr(text + at, ' ', length - at);
        size_t count = space ? (size_t)(space - text) - at : length - at;
        good = text_buffer_append(output, text + at, count) &&
               (!space || text_buffer_append(output, replacement, size));
        at += count + (space != NULL);
    }
    if (!good)
        return out_of_memory(run->error);
    return run_step(run, next_step, output->data, output->length, at_start);
}

static enum status run_step(struct run *run, size_t step, const char *text, size_t length,
                            bool at_start) {
    if (length == 0)
        return STATUS_OK;
    if (step == run->tokenizer->splitter_count)
        return bpe_encode(&run->tokenizer->bpe, text, length, run->list, run->error);
    struct splitter *splitter = &run->tokenizer->splitters[step];
    switch (splitter->kind) {
    case SPLIT_PATTERN:
        return split_pattern(run, splitter, step + 1, text, length, at_start);
    case SPLIT_PREFIX_SPACE:
        return prefix_space(run, splitter, step + 1, text, length, at_start);
    case SPLIT_BYTES:
        return bytes_to_characters(run, splitter, step + 1, text, length, at_start);
    case SPLIT_METASPACE:
        return metaspace(run, splitter, step + 1, text, length, at_start);
    }
    return STATUS_OK;
}

enum status split_and_encode(struct tokenizer *tokenizer, const char *text, size_t length,
                             bool at_start, struct token_list *list, struct error *error) {
    struct run run = {.tokenizer = tokenizer, .list = list, .error = error};
    return run_step(&run, 0, text, length, at_start);
}
