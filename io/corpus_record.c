/* Reading JSON (RFC 8259) for one string: everything is checked, nothing else is kept. A library's
 * tree of the line would take many times its memory, and refuses numbers that are of no interest
 * here. */
#include "io/corpus_record.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

enum { DEEPEST = 500 };

struct reader {
    const char *at, *end;
    const char *fault; /* what is wrong at `at`; NULL: nothing yet */
    bool out_of_memory;
};

static bool fail(struct reader *reader, const char *fault) {
    if (!reader->fault)
        reader->fault = fault;
    return false;
}

static void skip_space(struct reader *reader) {
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\t' ||
                                        *reader->at == '\r' || *reader->at == '\n'))
        reader->at++;
}

static bool take(struct reader *reader, char byte) {
    if (reader->at == reader->end || *reader->at != byte)
        return false;
    reader->at++;
    return true;
}

static bool keep(struct reader *reader, struct text_buffer *output, const char *bytes,
                 size_t count) {
    if (output && !text_buffer_append(output, bytes, count)) {
        reader->out_of_memory = true;
        return fail(reader, "out of memory");
    }
    return true;
}

static bool read_hex4(struct reader *reader, unsigned *value) {
    *value = 0;
    if (reader->end - reader->at < 4)
        return fail(reader, "bad \\u escape");
    for (int i = 0; i < 4; i++) {
        int digit = (unsigned char)reader->at[i];
        if (!isxdigit(digit))
            return fail(reader, "bad \\u escape");
        *value = *value << 4 | (unsigned)(isdigit(digit) ? digit - '0' : (digit | 0x20) - 'a' + 10);
    }
    reader->at += 4;
    return true;
}

/* After \u: a character, or the two halves of one above U+FFFF. */
static bool read_unicode_escape(struct reader *reader, struct text_buffer *output) {
    unsigned character, low;
    const char *begin = reader->at;
    if (!read_hex4(reader, &character))
        return false;
    if (character >= 0xd800 && character < 0xe000) {
        bool paired = character < 0xdc00 && take(reader, '\\') && take(reader, 'u') &&
                      read_hex4(reader, &low) && low >= 0xdc00 && low < 0xe000;
        if (!paired) {
            reader->at = begin;
            return fail(reader, "half of a surrogate pair");
        }
        character = 0x10000 + ((character - 0xd800) << 10) + (low - 0xdc00);
    }
    char bytes[4];
    size_t count = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    static const unsigned char leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = count; i-- > 1; character >>= 6)
        bytes[i] = (char)(0x80 | (character & 0x3f));
    bytes[0] = (char)(leads[count] | character);
    return keep(reader, output, bytes, count);
}

static bool read_escape(struct reader *reader, struct text_buffer *output) {
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (reader->at == reader->end)
        return fail(reader, "the line ends within a string");
    if (take(reader, 'u'))
        return read_unicode_escape(reader, output);
    const char *letter = *reader->at ? strchr(letters, *reader->at) : NULL;
    if (!letter)
        return fail(reader, "unknown escape in a string");
    reader->at++;
    return keep(reader, output, &values[letter - letters], 1);
}

/* A string, its text appended to `output` unless that is NULL. */
static bool read_string(struct reader *reader, struct text_buffer *output) {
    if (!take(reader, '"'))
        return fail(reader, "a string is expected");
    for (;;) {
        const char *begin = reader->at;
        while (reader->at < reader->end && *reader->at != '"' && *reader->at != '\\' &&
               (unsigned char)*reader->at >= 0x20)
            reader->at++;
        if (!keep(reader, output, begin, (size_t)(reader->at - begin)))
            return false;
        if (reader->at == reader->end)
            return fail(reader, "the line ends within a string");
        if (take(reader, '"'))
            return true;
        if (!take(reader, '\\'))
            return fail(reader, "control character in a string");
        if (!read_escape(reader, output))
            return false;
    }
}

static bool skip_digits(struct reader *reader) {
    const char *begin = reader->at;
    while (reader->at < reader->end && isdigit((unsigned char)*reader->at))
        reader->at++;
    return reader->at > begin || fail(reader, "bad number");
}

static bool skip_number(struct reader *reader) {
    take(reader, '-');
    if (!take(reader, '0') && !skip_digits(reader))
        return false;
    if (take(reader, '.') && !skip_digits(reader))
        return false;
    if (!take(reader, 'e') && !take(reader, 'E'))
        return true;
    if (!take(reader, '+'))
        take(reader, '-');
    return skip_digits(reader);
}

static bool skip_word(struct reader *reader) {
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(reader->end - reader->at) >= length &&
            memcmp(reader->at, words[i], length) == 0) {
            reader->at += length;
            return true;
        }
    }
    return fail(reader, "a value is expected");
}

static bool skip_value(struct reader *reader, int depth);

/* After '[' or '{'. */
static bool skip_members(struct reader *reader, bool object, int depth) {
    char closing = object ? '}' : ']';
    if (depth == DEEPEST)
        return fail(reader, "nested too deep");
    skip_space(reader);
    if (take(reader, closing))
        return true;
    do {
        if (object) {
            skip_space(reader);
            if (!read_string(reader, NULL))
                return false;
            skip_space(reader);
            if (!take(reader, ':'))
                return fail(reader, "':' is expected");
        }
        if (!skip_value(reader, depth + 1))
            return false;
        skip_space(reader);
    } while (take(reader, ','));
    return take(reader, closing) ||
           fail(reader, object ? "',' or '}' is expected" : "',' or ']' is expected");
}

static bool skip_value(struct reader *reader, int depth) {
    skip_space(reader);
    if (reader->at == reader->end)
        return fail(reader, "the line ends too early");
    char first = *reader->at;
    if (first == '"')
        return read_string(reader, NULL);
    if (first == '{' || first == '[') {
        reader->at++;
        return skip_members(reader, first == '{', depth);
    }
    return first == '-' || isdigit((unsigned char)first) ? skip_number(reader) : skip_word(reader);
}

/* One member of the record: the text is kept. *is_text: it was "text"; *is_string: and a string. */
static bool read_member(struct reader *reader, struct text_buffer *key, struct text_buffer *text,
                        bool *found, bool *is_string) {
    skip_space(reader);
    key->length = 0;
    if (!read_string(reader, key))
        return false;
    skip_space(reader);
    if (!take(reader, ':'))
        return fail(reader, "':' is expected");
    if (key->length != 4 || memcmp(key->data, "text", 4) != 0)
        return skip_value(reader, 0);
    skip_space(reader);
    *found = true;
    *is_string = reader->at < reader->end && *reader->at == '"';
    text->length = 0;
    return *is_string ? read_string(reader, text) : skip_value(reader, 0);
}

static bool read_record(struct reader *reader, struct text_buffer *key, struct text_buffer *text,
                        bool *found, bool *is_string) {
    skip_space(reader);
    if (!take(reader, '{'))
        return fail(reader, "not a JSON object");
    skip_space(reader);
    if (!take(reader, '}')) {
        do {
            if (!read_member(reader, key, text, found, is_string))
                return false;
            skip_space(reader);
        } while (take(reader, ','));
        if (!take(reader, '}'))
            return fail(reader, reader->at == reader->end ? "the line ends too early"
                                                          : "',' or '}' is expected");
    }
    skip_space(reader);
    return reader->at == reader->end || fail(reader, "more after the object");
}

enum status corpus_record_read(const char *line, size_t length, const char *file, int64_t number,
                               struct text_buffer *text, struct error *error) {
    struct reader reader = {.at = line, .end = line + length};
    struct text_buffer key = {0};
    bool found = false, is_string = false;
    text->length = 0;
    bool good = read_record(&reader, &key, text, &found, &is_string);
    text_buffer_free(&key);
    if (!good)
        return error_set(error, reader.out_of_memory ? STATUS_FAILED : STATUS_INPUT,
                         "%s: line %lld: bad JSON at byte %zu: %s", file, (long long)number,
                         (size_t)(reader.at - line) + 1, reader.fault);
    if (!is_string)
        return error_set(error, STATUS_INPUT, "%s: line %lld: \"text\" is %s", file,
                         (long long)number, found ? "not a string" : "missing");
    return STATUS_OK;
}
