/* Oniguruma's patterns (its Ruby syntax, Unicode) in PCRE2's words.
 *
 * What differs, and is translated: nested classes ([a[bc]], a union); \s (PCRE2 adds U+180E), \w,
 * \d; \p{Script} (PCRE2 takes script extensions); \v (a vertical tab, PCRE2: a class); \uHHHH;
 * {,n}. What is not listed here is an error: better none than another reading.
 *
 * What stays different: characters newer than PCRE2's Unicode (14 in 10.42) belong to no class
 * here; under (?i: PCRE2 folds single characters only (Oniguruma also matches ss with ß). */
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/text_buffer.h"
#include "io/tokenizer_regex.h"
#include "io/utf8.h"

struct translation {
    const char *pattern, *origin, *key;
    size_t length, at;
    struct text_buffer out;
    struct error *error;
};

/* One member of a class, or one atom: a character, or text for PCRE2 (to be put inside [...]). */
struct item {
    bool is_class;
    uint32_t character;
    char text[80];
    bool negated; /* of a class: all but text */
};

#define WORD "\\p{Alphabetic}\\p{M}\\p{N}\\p{Pc}"

static enum status unsupported(struct translation *t, const char *what) {
    return error_set(t->error, STATUS_INPUT, "%s: %s: %s is not supported (byte %zu of \"%.*s\")",
                     t->origin, t->key, what, t->at, (int)(t->length < 300 ? t->length : 300),
                     t->pattern);
}

static enum status emit(struct translation *t, const char *text, size_t length) {
    if (!text_buffer_append(&t->out, text, length))
        return error_set(t->error, STATUS_FAILED, "out of memory for a tokenizer's pattern");
    return STATUS_OK;
}

static enum status emit_text(struct translation *t, const char *text) {
    return emit(t, text, strlen(text));
}

static enum status emit_character(struct translation *t, uint32_t character) {
    char text[16];
    snprintf(text, sizeof text, "\\x{%x}", (unsigned)character);
    return emit_text(t, text);
}

static bool next_is(const struct translation *t, const char *text) {
    size_t length = strlen(text);
    return t->length - t->at >= length && memcmp(t->pattern + t->at, text, length) == 0;
}

static uint32_t read_character(struct translation *t) {
    const unsigned char *bytes = (const unsigned char *)t->pattern + t->at;
    size_t count = utf8_character(t->pattern + t->at, t->length - t->at);
    t->at += count ? count : 1;
    if (count < 2)
        return bytes[0];
    uint32_t character = bytes[0] & (0x7fu >> count);
    for (size_t i = 1; i < count; i++)
        character = character << 6 | (bytes[i] & 0x3f);
    return character;
}

static void set_class(struct item *item, const char *text, bool negated) {
    *item = (struct item){.is_class = true, .negated = negated};
    snprintf(item->text, sizeof item->text, "%s", text);
}

/* Hexadecimal digits at t->at: between least and most of them. */
static bool read_hex(struct translation *t, int least, int most, uint32_t *value) {
    int digits = 0;
    *value = 0;
    while (digits < most && t->at < t->length && isxdigit((unsigned char)t->pattern[t->at])) {
        char digit[2] = {t->pattern[t->at++], 0};
        *value = *value << 4 | (uint32_t)strtoul(digit, NULL, 16);
        digits++;
    }
    return digits >= least && *value <= 0x10ffff;
}

/* {NAME} or {^NAME} after \p: a general category, one of three properties, or a script by name. */
static enum status read_property(struct translation *t, bool negated, struct item *item) {
    static const char properties[] =
        " C Cc Cf Cn Co L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi "
        "Po Ps S Sc Sk Sm So Z Zl Zp Zs Alphabetic Join_Control White_Space ";
    if (!next_is(t, "{"))
        return unsupported(t, "\\p without braces");
    t->at++;
    if (next_is(t, "^")) {
        t->at++;
        negated = !negated;
    }
    char name[40] = " ";
    size_t count = 1;
    while (t->at < t->length && count < sizeof name - 2 &&
           (isalpha((unsigned char)t->pattern[t->at]) || t->pattern[t->at] == '_'))
        name[count++] = t->pattern[t->at++];
    if (!next_is(t, "}") || count == 1)
        return unsupported(t, "this property");
    t->at++;
    name[count] = ' ';
    name[count + 1] = 0;
    bool is_script = !strstr(properties, name);
    name[count] = 0;
    char text[80];
    snprintf(text, sizeof text, "\\p{%s%s}", is_script ? "sc:" : "", name + 1);
    set_class(item, text, negated);
    return STATUS_OK;
}

/* After a backslash. */
static enum status read_escape(struct translation *t, struct item *item) {
    static const char letters[] = "nrtfvae", values[] = "\n\r\t\f\v\a\033";
    *item = (struct item){0};
    if (t->at == t->length)
        return unsupported(t, "a backslash at the end");
    uint32_t character = read_character(t);
    if (character == 's' || character == 'S')
        set_class(item, "\\p{White_Space}", character == 'S');
    else if (character == 'd' || character == 'D')
        set_class(item, "\\p{Nd}", character == 'D');
    else if (character == 'w' || character == 'W')
        set_class(item, WORD, character == 'W');
    else if (character == 'p' || character == 'P')
        return read_property(t, character == 'P', item);
    else if (character == 'u') {
        if (!read_hex(t, 4, 4, &item->character))
            return unsupported(t, "this \\u escape");
    } else if (character == 'x') {
        bool braces = next_is(t, "{");
        t->at += braces;
        if (!read_hex(t, braces ? 1 : 2, braces ? 6 : 2, &item->character) ||
            (braces && !next_is(t, "}")) ||
            (!braces && item->character >= 0x80)) /* Oniguruma takes \x80 as a bare byte */
            return unsupported(t, "this \\x escape");
        t->at += braces;
    } else if (character < 0x80 && isalnum((int)character)) {
        const char *letter = strchr(letters, (int)character);
        if (!letter)
            return unsupported(t, "this escape");
        item->character = (unsigned char)values[letter - letters];
    } else {
        item->character = character;
    }
    if (!item->is_class && item->character >= 0xd800 && item->character < 0xe000)
        return unsupported(t, "a surrogate");
    return STATUS_OK;
}

static bool at_posix_bracket(const struct translation *t) {
    size_t at = t->at + 2;
    if (!next_is(t, "[:"))
        return false;
    while (at < t->length && (isalpha((unsigned char)t->pattern[at]) || t->pattern[at] == '^'))
        at++;
    return at + 1 < t->length && t->pattern[at] == ':' && t->pattern[at + 1] == ']';
}

static enum status read_class_item(struct translation *t, struct item *item) {
    *item = (struct item){0};
    if (next_is(t, "\\")) {
        t->at++;
        return read_escape(t, item);
    }
    item->character = read_character(t);
    return STATUS_OK;
}

/* A member of a class, or a range of characters. */
static enum status translate_class_member(struct translation *t) {
    struct item item, last;
    enum status status = read_class_item(t, &item);
    if (status != STATUS_OK)
        return status;
    if (item.is_class) {
        if (!item.negated)
            return emit_text(t, item.text);
        if (strncmp(item.text, "\\p", 2) != 0 || strchr(item.text + 1, '\\'))
            return unsupported(t, "\\W in a class");
        item.text[1] = 'P';
        return emit_text(t, item.text);
    }
    status = emit_character(t, item.character);
    if (status != STATUS_OK || !next_is(t, "-") || t->length - t->at < 2 ||
        t->pattern[t->at + 1] == ']')
        return status;
    t->at++;
    if (next_is(t, "["))
        return unsupported(t, "a range that ends in a class");
    status = read_class_item(t, &last);
    if (status != STATUS_OK)
        return status;
    if (last.is_class)
        return unsupported(t, "a range that ends in a class");
    status = emit_text(t, "-");
    return status == STATUS_OK ? emit_character(t, last.character) : status;
}

/* After '[': nested classes that are not negated are a union, so their members join the outer ones.
 */
static enum status translate_class(struct translation *t) {
    bool negated = next_is(t, "^");
    t->at += negated;
    enum status status = emit_text(t, negated ? "[^" : "[");
    int depth = 1;
    bool opening = true;
    while (status == STATUS_OK) {
        if (t->at == t->length)
            return unsupported(t, "a class without its end");
        if (next_is(t, "]")) {
            if (opening)
                return unsupported(t, "] as the first member of a class");
            t->at++;
            if (--depth == 0)
                return emit_text(t, "]");
        } else if (next_is(t, "&&")) {
            return unsupported(t, "an intersection of classes");
        } else if (at_posix_bracket(t)) {
            return unsupported(t, "a POSIX class");
        } else if (next_is(t, "[")) {
            t->at++;
            depth++;
            if (next_is(t, "^"))
                return unsupported(t, "a negated class in a class");
            opening = true;
            continue;
        } else {
            status = translate_class_member(t);
        }
        opening = false;
    }
    return status;
}

/* After '(': which kind of group. */
static enum status translate_group(struct translation *t) {
    static const char *const kinds[] = {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:"};
    if (!next_is(t, "?"))
        return emit_text(t, "("); /* captures nothing that is used */
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (next_is(t, kinds[i])) {
            t->at += strlen(kinds[i]);
            enum status status = emit_text(t, "(");
            return status == STATUS_OK ? emit_text(t, kinds[i]) : status;
        }
    return unsupported(t, "this kind of group");
}

/* At '{': {n}, {n,}, {n,m}, {,m}; otherwise it stands for itself. */
static enum status translate_brace(struct translation *t) {
    size_t at = t->at + 1, digits[2] = {0, 0};
    int part = 0;
    for (; at < t->length && t->pattern[at] != '}'; at++) {
        if (t->pattern[at] == ',' && part == 0)
            part = 1;
        else if (isdigit((unsigned char)t->pattern[at]))
            digits[part]++;
        else
            break;
    }
    bool interval = at < t->length && t->pattern[at] == '}' && digits[0] + digits[1] > 0;
    if (!interval) {
        t->at++;
        return emit_text(t, "\\x{7b}");
    }
    /* Oniguruma reads x{2,3}+ as (?:x{2,3})+ and x{2}? as (?:x{2})?. */
    bool followed = at + 1 < t->length && strchr("+?", t->pattern[at + 1]);
    if (followed && (t->pattern[at + 1] == '+' || part == 0))
        return unsupported(t, "an interval followed by + or ?");
    enum status status = emit_text(t, digits[0] == 0 ? "{0" : "{");
    size_t begin = t->at + 1;
    t->at = at + 1;
    return status == STATUS_OK ? emit(t, t->pattern + begin, t->at - begin) : status;
}

static enum status translate_escape(struct translation *t) {
    static const char assertions[] = "AzZ";
    if (t->at < t->length && t->pattern[t->at] && strchr(assertions, t->pattern[t->at])) {
        const char text[3] = {'\\', t->pattern[t->at++], 0};
        return emit_text(t, text);
    }
    struct item item;
    enum status status = read_escape(t, &item);
    if (status != STATUS_OK)
        return status;
    if (!item.is_class)
        return emit_character(t, item.character);
    status = emit_text(t, item.negated ? "[^" : "[");
    if (status == STATUS_OK)
        status = emit_text(t, item.text);
    return status == STATUS_OK ? emit_text(t, "]") : status;
}

static enum status translate_atom(struct translation *t) {
    if (next_is(t, "{"))
        return translate_brace(t);
    if (next_is(t, "\\")) {
        t->at++;
        return translate_escape(t);
    }
    if (next_is(t, "[")) {
        if (at_posix_bracket(t))
            return unsupported(t, "a POSIX class");
        t->at++;
        return translate_class(t);
    }
    if (next_is(t, "(")) {
        t->at++;
        return translate_group(t);
    }
    uint32_t character = read_character(t);
    if (character && character < 0x80 && strchr(")|.^$*+?", (int)character)) {
        const char text[2] = {(char)character, 0};
        return emit_text(t, text);
    }
    return emit_character(t, character);
}

enum status regex_translate(const char *pattern, size_t length, const char *origin, const char *key,
                            char **translated, size_t *translated_length, struct error *error) {
    struct translation t = {
        .pattern = pattern, .origin = origin, .key = key, .length = length, .error = error};
    *translated = NULL;
    *translated_length = 0;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && t.at < length)
        status = translate_atom(&t);
    if (status == STATUS_OK)
        status = emit(&t, "", 1);
    if (status != STATUS_OK) {
        text_buffer_free(&t.out);
        return status;
    }
    *translated = t.out.data;
    *translated_length = t.out.length - 1;
    return STATUS_OK;
}
