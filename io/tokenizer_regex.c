/* Running patterns: PCRE2 in UTF mode, compiled to machine code where the system allows it. */
#include "io/tokenizer_regex.h"

#include <stdint.h>
#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct regex {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

enum { JIT_STACK_START = 32 << 10, JIT_STACK_LIMIT = 32 << 20, LEAST_MATCH_LIMIT = 10000000 };

static enum status out_of_memory(struct error *error) {
    return error_set(error, STATUS_FAILED, "out of memory for a tokenizer's pattern");
}

static enum status compile(struct regex *regex, const char *pattern, size_t length, bool literal,
                           const char *origin, const char *key, struct error *error) {
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return out_of_memory(error);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    uint32_t options =
        PCRE2_UTF |
        (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    int code;
    PCRE2_SIZE offset;
    regex->code = pcre2_compile((PCRE2_SPTR)pattern, length, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!regex->code) {
        char reason[200] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return error_set(error, STATUS_INPUT, "%s: %s: bad pattern at byte %zu of \"%.*s\": %s",
                         origin, key, (size_t)offset, (int)(length < 300 ? length : 300), pattern,
                         reason);
    }
    return STATUS_OK;
}

enum status regex_create(const char *pattern, size_t length, bool literal, const char *origin,
                         const char *key, struct regex **result, struct error *error) {
    *result = NULL;
    struct regex *regex = calloc(1, sizeof *regex);
    if (!regex)
        return out_of_memory(error);
    enum status status;
    if (literal) {
        status = compile(regex, pattern, length, true, origin, key, error);
    } else {
        char *translated;
        size_t translated_length;
        status =
            regex_translate(pattern, length, origin, key, &translated, &translated_length, error);
        if (status == STATUS_OK)
            status = compile(regex, translated, translated_length, false, origin, key, error);
        free(translated);
    }
    if (status != STATUS_OK) {
        regex_destroy(regex);
        return status;
    }
    regex->match = pcre2_match_data_create(1, NULL);
    regex->context = pcre2_match_context_create(NULL);
    if (!regex->match || !regex->context) {
        regex_destroy(regex);
        return out_of_memory(error);
    }
    /* Where machine code is not allowed, pcre2_match interprets: slower, with the same result. */
    if (pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0) {
        regex->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_LIMIT, NULL);
        if (regex->stack)
            pcre2_jit_stack_assign(regex->context, NULL, regex->stack);
    }
    *result = regex;
    return STATUS_OK;
}

void regex_destroy(struct regex *regex) {
    if (!regex)
        return;
    pcre2_jit_stack_free(regex->stack);
    pcre2_match_context_free(regex->context);
    pcre2_match_data_free(regex->match);
    pcre2_code_free(regex->code);
    free(regex);
}

enum status regex_find(struct regex *regex, const char *text, size_t length, size_t from,
                       bool *found, size_t *begin, size_t *end, struct error *error) {
    *found = false;
    *begin = *end = 0;
    /* A run of white space may be walked back over once: the limit grows with the text, so that
     * only patterns that are worse than linear meet it. */
    size_t limit = length > LEAST_MATCH_LIMIT / 8 ? length * 8 : LEAST_MATCH_LIMIT;
    pcre2_set_match_limit(regex->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    int code = pcre2_match(regex->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK,
                           regex->match, regex->context);
    if (code == PCRE2_ERROR_NOMATCH)
        return STATUS_OK;
    if (code < 0) {
        char reason[200] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return error_set(error, STATUS_INPUT,
                         "a pattern of the tokenizer fails at byte %zu of a text of %zu bytes: %s",
                         from, length, reason);
    }
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(regex->match);
    *found = true;
    *begin = ends[0];
    *end = ends[1];
    return STATUS_OK;
}
