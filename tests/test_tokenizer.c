/* The tokenizer: each supported step by hand-made cases, merging against a plain loop, faults and
 * their messages, spoilt files, and (with FPTQ_TEST_DATA) LLaMA-2's test vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/tokenizer.h"
#include "tests/random.h"

/* JSON with ' for ", so that it can be read; within "" a ' is a '. */
static char *json_text(const char *text) {
    char *json = strdup(text);
    assert_non_null(json);
    bool quoted = false;
    for (char *byte = json; *byte; byte++) {
        quoted ^= *byte == '"';
        if (*byte == '\'' && !quoted)
            *byte = '"';
    }
    return json;
}

static enum status create(const char *text, struct tokenizer **tokenizer, struct error *error) {
    char *json = json_text(text);
    memset(error, 0, sizeof *error);
    enum status status = tokenizer_create(json, strlen(json), "t.json", tokenizer, error);
    free(json);
    return status;
}

static struct tokenizer *created(const char *text) {
    struct tokenizer *tokenizer;
    struct error error;
    if (create(text, &tokenizer, &error) != STATUS_OK)
        fail_msg("%s", error.message);
    return tokenizer;
}

/* The text's ids are `expected`, written "1 2 3". */
static void gives(struct tokenizer *tokenizer, const char *text, size_t length, int special,
                  const char *expected) {
    struct token_list list = {0};
    struct error error;
    char found[4000] = "";
    size_t used = 0;
    if (tokenizer_encode(tokenizer, text, length, special, &list, &error) != STATUS_OK)
        fail_msg("%s", error.message);
    for (size_t i = 0; i < list.count && used < sizeof found - 20; i++)
        used += (size_t)snprintf(found + used, 20, "%s%d", i ? " " : "", (int)list.ids[i]);
    token_list_free(&list);
    if (strcmp(found, expected) != 0)
        fail_msg("\"%.*s\" gives %s, not %s", (int)length, text, found, expected);
}

static void check(const char *json, const char *text, int special, const char *expected) {
    struct tokenizer *tokenizer = created(json);
    gives(tokenizer, text, strlen(text), special, expected);
    tokenizer_destroy(tokenizer);
}

/* The JSON is refused, and the message has `words` in it. */
static void refused(const char *json, const char *words) {
    struct tokenizer *tokenizer;
    struct error error;
    assert_int_equal(create(json, &tokenizer, &error), STATUS_INPUT);
    assert_null(tokenizer);
    if (!strstr(error.message, words) || !strstr(error.message, "t.json"))
        fail_msg("\"%s\" is not in \"%s\"", words, error.message);
}

#define LLAMA                                                                                        \
    "{'version': '1.0', 'truncation': null, 'padding': null, 'added_tokens': ["                      \
    "{'id': 0, 'content': '<unk>', 'special': true, 'normalized': false},"                           \
    "{'id': 1, 'content': '<s>', 'special': true, 'normalized': false},"                             \
    "{'id': 2, 'content': '</s>', 'special': true, 'normalized': false}],"                           \
    "'normalizer': {'type': 'Sequence', 'normalizers': [{'type': 'Prepend', 'prepend': '▁'},"      \
    "{'type': 'Replace', 'pattern': {'String': ' '}, 'content': '▁'}]}, 'pre_tokenizer': null,"    \
    "'post_processor': {'type': 'TemplateProcessing', 'single': ["                                   \
    "{'SpecialToken': {'id': '<s>', 'type_id': 0}}, {'Sequence': {'id': 'A', 'type_id': 0}}],"       \
    "'pair': [], 'special_tokens': {'<s>': {'id': '<s>', 'ids': [1], 'tokens': ['<s>']}}},"          \
    "'decoder': {'type': 'Fuse'}, 'model': {'type': 'BPE', 'dropout': null,"                         \
    "'unk_token': '<unk>', 'continuing_subword_prefix': null, 'end_of_word_suffix': null,"           \
    "'fuse_unk': true, 'byte_fallback': true, 'vocab': {'<unk>': 0, '<s>': 1, '</s>': 2,"            \
    "'<0xC3>': 3, '<0xA9>': 4, '▁': 5, 'a': 6, 'b': 7, '▁a': 8, 'ab': 9, '▁ab': 10, 'ba': 11," \
    "'<0xE4>': 12}, 'merges': ['b a', '▁ a', '▁a b', 'a b']}}"

static void test_sentencepiece_style(void **state) {
    (void)state;
    struct tokenizer *tokenizer = created(LLAMA);
    assert_int_equal(tokenizer_size(tokenizer), 13);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_int_equal(tokenizer_find(tokenizer, "▁ab"), 10);
    assert_int_equal(tokenizer_find(tokenizer, "none"), -1);
    gives(tokenizer, "", 0, 1, "1");
    gives(tokenizer, "ab", 2, 1, "1 10");
    gives(tokenizer, "ab ab", 5, 0, "10 10");
    gives(tokenizer, "abab", 4, 0, "8 11 7");    /* b a has the lowest rank */
    gives(tokenizer, "aé", 3, 0, "8 3 4");       /* bytes before merging */
    gives(tokenizer, "a中b", 5, 0, "8 0 7");     /* not all of its bytes are there */
    gives(tokenizer, "a中中", 7, 0, "8 0");      /* fused */
    gives(tokenizer, "a</s>b", 6, 0, "8 2 5 7"); /* Prepend works on each part */
    gives(tokenizer, "a\xff\xc3", 3, 0, "8 0");  /* two bad bytes, both U+FFFD */
    gives(tokenizer, "\0", 1, 0, "5 0");
    tokenizer_destroy(tokenizer);
}

#define BYTE_LEVEL(steps, added)                                                                   \
    "{'added_tokens': [" added "], 'pre_tokenizer': " steps ", 'model': {'type': 'BPE', 'vocab':"  \
    "{'a': 0, 'b': 1, 'Ġ': 2, 'Ċ': 3, '1': 4, \"'\": 5, 's': 6, 'Ã': 7, '©': 8, 'Ġa': 9,"     \
    "'ĠĠ': 10, '11': 11, \"'s\": 12, 'Ã©': 13, 'ab': 14, 'ĊĊ': 15, 'Ċa': 16},"              \
    "'merges': [['Ġ', 'a'], ['Ġ', 'Ġ'], ['1', '1'], [\"'\", 's'], ['Ã', '©'], ['a', 'b'],"    \
    "['Ċ', 'Ċ'], ['Ċ', 'a']]}}"
#define BYTES "{'type': 'ByteLevel', 'add_prefix_space': false, 'use_regex': false}"
#define GPT2 "{'type': 'ByteLevel', 'add_prefix_space': false, 'trim_offsets': true}"
#define SEQUENCE(a, b) "{'type': 'Sequence', 'pretokenizers': [" a ", " b "]}"

static void test_byte_level_style(void **state) {
    (void)state;
    check(BYTE_LEVEL(GPT2, ""), "a a's  a", 0, "0 9 12 2 9");
    check(BYTE_LEVEL(GPT2, ""), "é11\n\n1", 0, "13 11 3 3 4"); /* \s+(?!\S) leaves one for \s+ */
    check(BYTE_LEVEL(BYTES, ""), "é11\n\na", 0, "13 11 15 0");
    check(BYTE_LEVEL("{'type': 'ByteLevel', 'add_prefix_space': true}", ""), "a", 0, "9");
    check(BYTE_LEVEL("{'type': 'ByteLevel', 'add_prefix_space': true}", ""), " a", 0, "9");
    check(BYTE_LEVEL(SEQUENCE("{'type': 'Digits', 'individual_digits': true}", GPT2), ""), "\n\n11",
          0, "15 4 4");
    check(BYTE_LEVEL(SEQUENCE("{'type': 'Digits'}", GPT2), ""), "a11a", 0, "0 11 0");
    check(BYTE_LEVEL(BYTES, ""), "xyz", 0, ""); /* no unk_token: dropped, as in the library */
}

static void test_added_tokens(void **state) {
    (void)state;
    check(BYTE_LEVEL(BYTES, "{'id': 20, 'content': '<x>'}, {'id': 21, 'content': '<x>y'}"),
          "a<x>yb<x>", 0, "0 21 1 20");
    check(BYTE_LEVEL(BYTES, "{'id': 20, 'content': 'x', 'lstrip': true}"), "a x a", 0, "0 20 9");
    check(BYTE_LEVEL(BYTES, "{'id': 20, 'content': 'x', 'rstrip': true}"), "a x  a", 0, "0 2 20 0");
    check(BYTE_LEVEL(BYTES, "{'id': 20, 'content': 'bb', 'single_word': true}"), "bb abb bbé bb", 0,
          "20 9 1 1 2 1 1 13 2 20");
}

/* ignore_merges makes pieces visible: each that is in the vocabulary is one id. */
#define PIECES(split)                                                                                        \
    "{'pre_tokenizer': " split ", 'model': {'ignore_merges': true, 'merges': [], 'vocab':"                   \
    "{'the': 1, 'final': 2, 'countdown': 3, '-': 4, '--': 5, 'the-': 6, 'final-': 7,"                        \
    "'-final': 8, '-countdown': 9, '▁the': 10, '▁': 11, '▁▁the': 12, '中文': 13, '，': 14, ' ': " \
    "15}}}"
#define SPLIT(pattern, behavior, invert)                                                           \
    "{'type': 'Split', 'pattern': {" pattern "}, 'behavior': '" behavior "', 'invert': " invert "}"

static void test_split_behaviors(void **state) {
    (void)state;
    const char *text = "the-final--countdown"; /* the library's own example */
    check(PIECES(SPLIT("'String': '-'", "Removed", "false")), text, 0, "1 2 3");
    check(PIECES(SPLIT("'String': '-'", "Isolated", "false")), text, 0, "1 4 2 4 4 3");
    check(PIECES(SPLIT("'String': '-'", "MergedWithPrevious", "false")), text, 0, "6 7 4 3");
    check(PIECES(SPLIT("'String': '-'", "MergedWithNext", "false")), text, 0, "1 8 4 9");
    check(PIECES(SPLIT("'String': '-'", "Contiguous", "false")), text, 0, "1 4 2 5 3");
    check(PIECES(SPLIT("'Regex': '[a-z]+'", "Removed", "true")), text, 0, "1 2 3");
    check(PIECES("{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'always'}"),
          "the the", 0, "10 10");
    check(PIECES("{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'never'}"),
          "the  the", 0, "1 11 10");
    check(PIECES("{'type': 'Metaspace', 'replacement': '▁', 'split': false}"), "  the", 0, "12");
    check(PIECES("{'type': 'Metaspace', 'replacement': '▁', 'add_prefix_space': false}"), "the", 0,
          "1");
}

static void test_patterns(void **state) {
    (void)state;
    /* BLOOM's: a class within a class, with a parenthesis and a bar in it */
    check(PIECES(SPLIT("'Regex': ' ?[^(\\\\s|[.,!?…。，、।۔،])]+'", "Isolated", "false")),
          "中文，中文", 0, "13 14 13");
    check(PIECES(SPLIT("'Regex': '\\\\p{Han}+'", "Removed", "true")), "中文，中文", 0, "13 13");
    check(PIECES(SPLIT("'Regex': '[a-c[h[tu]-]e]+'", "Isolated", "false")), "the-", 0, "6");
    /* U+180E is white space for PCRE2, but not for Oniguruma */
    check(PIECES(SPLIT("'Regex': '\\\\s'", "Removed", "true")), "\xe1\xa0\x8e \xc2\x85", 0, "15");
    static const char *const not_supported[][2] = {{"[a&&b]", "intersection"},
                                                   {"[[:alpha:]]", "POSIX"},
                                                   {"[a[^b]]", "negated class"},
                                                   {"\\\\h", "escape"},
                                                   {"(?<name>a)", "group"},
                                                   {"(?i)a", "group"},
                                                   {"\\\\1", "escape"},
                                                   {"a{2}?", "interval"},
                                                   {"a{2,3}+", "interval"},
                                                   {"[]a]", "first member"},
                                                   {"\\\\p{Nonsense}", "bad pattern"},
                                                   {"(a", "bad pattern"},
                                                   {"[a", "end"},
                                                   {"\\\\x{110000}", "\\x"},
                                                   {"\\\\K", "escape"}};
    for (size_t i = 0; i < sizeof not_supported / sizeof not_supported[0]; i++) {
        char json[2000];
        snprintf(json, sizeof json, PIECES(SPLIT("'Regex': '%s'", "Isolated", "false")),
                 not_supported[i][0]);
        refused(json, not_supported[i][1]);
        refused(json, "pre_tokenizer");
    }
}

static void test_runaway_pattern_is_an_error(void **state) {
    (void)state;
    struct tokenizer *tokenizer =
        created(PIECES(SPLIT("'Regex': '(?:a|a|aa)+[bc]'", "Isolated", "false")));
    struct token_list list = {0};
    struct error error;
    char text[1000];
    memset(text, 'a', sizeof text);
    assert_int_equal(tokenizer_encode(tokenizer, text, sizeof text, 0, &list, &error),
                     STATUS_INPUT);
    assert_int_equal(list.count, 0);
    assert_non_null(strstr(error.message, "pattern"));
    token_list_free(&list);
    tokenizer_destroy(tokenizer);
}

#define NORMALIZED(normalizer, vocab)                                                              \
    "{'normalizer': " normalizer                                                                   \
    ", 'model': {'ignore_merges': true, 'merges': [], 'vocab': {" vocab "}}}"

static void test_normalizers(void **state) {
    (void)state;
    check(NORMALIZED("{'type': 'NFC'}", "'é': 1"), "e\xcc\x81", 0, "1");
    check(NORMALIZED("{'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': '_'}",
                     "'a_b': 1"),
          "a    b", 0, "1");
    check(NORMALIZED("{'type': 'Prepend', 'prepend': '_'}", "'_a': 1"), "a", 0, "1");
    /* a normalized token is looked for in the form the normalizer gives it */
    check("{'normalizer': {'type': 'NFC'}, 'added_tokens': [{'id': 7, 'content': 'e\xcc\x81', "
          "'normalized': true}], 'model': {'vocab': {'a': 1}, 'merges': []}}",
          "aéa", 0, "1 7 1");
}

static void test_template_and_ends(void **state) {
    (void)state;
    const char *json =
        "{'post_processor': {'type': 'Sequence', 'processors': [{'type': 'ByteLevel'}, {'type': "
        "'TemplateProcessing', 'single': [{'SpecialToken': {'id': 'x', 'type_id': 0}}, "
        "{'Sequence': "
        "{'id': 'A', 'type_id': 0}}, {'SpecialToken': {'id': 'y', 'type_id': 0}}], "
        "'special_tokens': "
        "{'x': {'ids': [8, 9]}, 'y': {'ids': [7]}}}]}, 'model': {'vocab': {'a': 1, "
        "'<|endoftext|>': "
        "5}, 'merges': []}}";
    struct tokenizer *tokenizer = created(json);
    gives(tokenizer, "a", 1, 1, "8 9 1 7");
    gives(tokenizer, "a", 1, 0, "1");
    assert_int_equal(tokenizer_bos(tokenizer), 8);
    assert_int_equal(tokenizer_eos(tokenizer), 5);
    tokenizer_destroy(tokenizer);
}

static void test_faults(void **state) {
    (void)state;
    refused("{", "JSON");
    refused("[]", "object");
    refused("{}", "model");
    refused("{'model': {'type': 'Unigram'}}", "Unigram");
    refused("{'model': {'vocab': {}, 'merges': []}}", "vocab");
    refused("{'model': {'vocab': {'a': -1}, 'merges': []}}", "\"a\"");
    refused("{'model': {'vocab': {'a': 1.5}, 'merges': []}}", "\"a\"");
    refused("{'model': {'vocab': {'a': 0}, 'merges': ['a b']}}", "merges[0]");
    refused("{'model': {'vocab': {'a': 0}, 'merges': ['a']}}", "merges[0]");
    refused("{'model': {'vocab': {'a': 0}, 'merges': [['a']]}}", "merges[0]");
    refused("{'model': {'vocab': {'a': 0}, 'merges': [], 'dropout': 0.1}}", "dropout");
    refused("{'model': {'vocab': {'a': 0}, 'merges': [], 'end_of_word_suffix': '</w>'}}", "suffix");
    refused("{'model': {'vocab': {'a': 0}, 'merges': [], 'colour': 1}}", "colour");
    refused("{'colour': 1, 'model': {'vocab': {'a': 0}, 'merges': []}}", "colour");
    refused("{'version': '2.0', 'model': {'vocab': {'a': 0}, 'merges': []}}", "version");
    refused("{'normalizer': {'type': 'Lowercase'}, 'model': {'vocab': {'a': 0}, 'merges': []}}",
            "Lowercase");
    refused(PIECES("{'type': 'Whitespace'}"), "Whitespace");
    refused(PIECES("{'type': 'Digits', 'colour': 1}"), "colour");
    refused(PIECES(SPLIT("'Regex': 'a'", "Nonsense", "false")), "Nonsense");
    refused(PIECES("{'type': 'Sequence', 'pretokenizers': [{'type': 'X'}]}"), "pretokenizers[0]");
    refused("{'post_processor': {'type': 'BertProcessing'}, 'model': {'vocab': {'a': 0}, 'merges': "
            "[]}}",
            "BertProcessing");
    refused(
        "{'added_tokens': [{'id': 3, 'content': 'a'}], 'model': {'vocab': {'a': 0}, 'merges': []}}",
        "added_tokens[0]");
}

/* --- merging against a plain loop --- */

enum { LETTERS = 3, MERGES = 40 };
struct plain {
    char contents[LETTERS + MERGES][64];
    int left[MERGES], right[MERGES];
    int count; /* merges; merge i makes token LETTERS + i */
};

/* Random merges of tokens that are there already. */
static char *random_model(struct random *random, struct plain *plain) {
    char *json = malloc(20000), *at = json;
    assert_non_null(json);
    plain->count = 0;
    for (int i = 0; i < LETTERS; i++)
        snprintf(plain->contents[i], 64, "%c", 'a' + i);
    for (int attempt = 0; attempt < MERGES; attempt++) {
        int tokens = LETTERS + plain->count;
        int left = (int)random_integer(random, 0, tokens - 1),
            right = (int)random_integer(random, 0, tokens - 1);
        char both[128];
        snprintf(both, sizeof both, "%s%s", plain->contents[left], plain->contents[right]);
        bool known = strlen(both) > 20;
        for (int i = 0; i < tokens; i++)
            known = known || strcmp(both, plain->contents[i]) == 0;
        if (known)
            continue;
        snprintf(plain->contents[tokens], 64, "%.63s", both);
        plain->left[plain->count] = left;
        plain->right[plain->count++] = right;
    }
    at += sprintf(at, "{'model': {'vocab': {");
    for (int i = 0; i < LETTERS + plain->count; i++)
        at += sprintf(at, "%s'%s': %d", i ? ", " : "", plain->contents[i], i);
    at += sprintf(at, "}, 'merges': [");
    for (int i = 0; i < plain->count; i++)
        at += sprintf(at, "%s['%s', '%s']", i ? ", " : "", plain->contents[plain->left[i]],
                      plain->contents[plain->right[i]]);
    sprintf(at, "]}}");
    return json;
}

/* The merge of lowest rank anywhere, the leftmost of it, again and again. */
static int merge_plainly(const struct plain *plain, const char *word, int length, int *ids) {
    for (int i = 0; i < length; i++)
        ids[i] = word[i] - 'a';
    for (;;) {
        int best = plain->count, place = -1;
        for (int i = 0; i + 1 < length; i++)
            for (int merge = 0; merge < best; merge++)
                if (plain->left[merge] == ids[i] && plain->right[merge] == ids[i + 1]) {
                    best = merge;
                    place = i;
                }
        if (place < 0)
            return length;
        ids[place] = LETTERS + best;
        length--;
        for (int i = place + 1; i < length; i++)
            ids[i] = ids[i + 1];
    }
}

static void test_merging_against_plain_loop(void **state) {
    (void)state;
    struct random random = random_start();
    for (int round = 0; round < 300; round++) {
        struct plain plain;
        char *json = random_model(&random, &plain), word[200];
        struct tokenizer *tokenizer = created(json);
        struct token_list list = {0};
        struct error error;
        int expected[200], length = (int)random_integer(&random, 0, 199);
        for (int i = 0; i < length; i++)
            word[i] = (char)('a' + random_integer(&random, 0, LETTERS - 1));
        assert_int_equal(tokenizer_encode(tokenizer, word, (size_t)length, 1, &list, &error),
                         STATUS_OK);
        int count = merge_plainly(&plain, word, length, expected);
        assert_int_equal(list.count, count);
        for (int i = 0; i < count; i++)
            assert_int_equal(list.ids[i], expected[i]);
        token_list_free(&list);
        tokenizer_destroy(tokenizer);
        free(json);
    }
}

/* 4 MB as one word: with a quadratic method this would take hours. */
static void test_long_word(void **state) {
    (void)state;
    const size_t length = (size_t)4 << 20;
    struct tokenizer *tokenizer = created(
        "{'model': {'vocab': {'a': 0, 'aa': 1, 'aaaa': 2}, 'merges': [['a', 'a'], ['aa', 'aa']]}}");
    struct token_list list = {0};
    struct error error;
    char *text = malloc(length);
    assert_non_null(text);
    memset(text, 'a', length);
    assert_int_equal(tokenizer_encode(tokenizer, text, length, 1, &list, &error), STATUS_OK);
    assert_int_equal(list.count, length / 4);
    for (size_t i = 0; i < list.count; i++)
        assert_int_equal(list.ids[i], 2);
    free(text);
    token_list_free(&list);
    tokenizer_destroy(tokenizer);
}

/* --- spoilt files --- */

static void spoil(struct random *random, char *json, size_t *length) {
    static const char *const pieces[] = {
        "[",  "]",     "{",    "}",    "\"",       ",",         ":",    "null",
        "-1", "1e999", "true", "\"\"", "\\u0000",  "\\ud800",   "\xff", "99999999999999999999",
        "(",  "*",     "+",    "\\\\", "Sequence", "4294967295"};
    for (int64_t changes = random_integer(random, 1, 4); changes > 0 && *length > 40; changes--) {
        size_t at = (size_t)random_integer(random, 0, (int64_t)*length - 30);
        size_t count = (size_t)random_integer(random, 1, 20);
        const char *piece = pieces[random_integer(random, 0, sizeof pieces / sizeof pieces[0] - 1)];
        switch (random_integer(random, 0, 3)) {
        case 0:
            json[at] = (char)random_integer(random, 0, 255);
            break;
        case 1: /* take some out */
            memmove(json + at, json + at + count, *length - at - count);
            *length -= count;
            break;
        case 2: /* write over */
            memcpy(json + at, piece, strlen(piece));
            break;
        default: /* copy from elsewhere */
            memmove(json + at, json + random_integer(random, 0, (int64_t)*length - 30), count);
        }
    }
}

static void test_spoilt_files(void **state) {
    (void)state;
    static const char *const originals[] = {
        LLAMA,
        "{'added_tokens': [{'id': 20, 'content': '<x>', 'single_word': true, 'lstrip': true}], "
        "'normalizer': {'type': 'NFC'}, 'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': ["
        "{'type': 'Digits', 'individual_digits': true}, {'type': 'Split', 'pattern': {'Regex': "
        "'(?i:x|y)|[^\\\\r\\\\n\\\\p{L}[a-c]]?\\\\p{L}+|\\\\p{N}{1,3}|\\\\s+(?!\\\\S)|\\\\s+'}, "
        "'behavior': "
        "'MergedWithNext', 'invert': true}, {'type': 'Metaspace', 'replacement': '_', "
        "'prepend_scheme': 'always'}, {'type': 'ByteLevel', 'add_prefix_space': true}]}, 'model': "
        "{'type': 'BPE', 'vocab': {'a': 0, 'b': 1, 'ab': 2, '_': 3}, 'merges': [['a', 'b']]}}"};
    static const char text[] = "ab <x> 12 é中\n\n  \xff ababab</s>";
    struct random random = random_start();
    int accepted = 0;
    for (int round = 0; round < 4000; round++) {
        char *json = json_text(originals[round % 2]);
        size_t length = strlen(json);
        spoil(&random, json, &length);
        struct tokenizer *tokenizer;
        struct token_list list = {0};
        struct error error = {0};
        enum status status = tokenizer_create(json, length, "t.json", &tokenizer, &error);
        assert_true(status == STATUS_OK ? tokenizer != NULL
                                        : tokenizer == NULL && error.message[0]);
        if (status == STATUS_OK) {
            accepted++;
            (void)tokenizer_encode(tokenizer, text, sizeof text, 1, &list, &error);
        }
        token_list_free(&list);
        tokenizer_destroy(tokenizer);
        free(json);
    }
    assert_true(accepted > 0);
}

/* --- LLaMA-2's vectors --- */

static char *read_data(const char *name, size_t *length) {
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizers/%s", getenv("FPTQ_TEST_DATA"), name);
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s", path);
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*length + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *length, file), *length);
    data[*length] = 0;
    fclose(file);
    return data;
}

/* The vectors' inputs write a newline as \n and a space as \s. */
static size_t unescape(char *text, size_t length) {
    size_t count = 0;
    for (size_t i = 0; i < length; i++) {
        bool escape =
            text[i] == '\\' && i + 1 < length && (text[i + 1] == 'n' || text[i + 1] == 's');
        text[count++] = !escape ? text[i] : text[i + 1] == 'n' ? '\n' : ' ';
        i += escape ? 1 : 0;
    }
    return count;
}

/* One line of ids a line of text, or one for all of it. */
static void check_vectors(struct tokenizer *tokenizer, const char *input, const char *ids,
                          bool whole) {
    size_t input_length, ids_length;
    char *text = read_data(input, &input_length), *numbers = read_data(ids, &ids_length);
    struct token_list list = {0};
    struct error error;
    char *line = text, *number = numbers;
    int lines = 0;
    while (line < text + input_length) {
        size_t length = whole ? input_length : strcspn(line, "\n");
        char *next = line + length + 1;
        if (!whole)
            length = unescape(line, length);
        if (length > 0) {
            list.count = 0;
            assert_int_equal(tokenizer_encode(tokenizer, line, length, 0, &list, &error),
                             STATUS_OK);
            for (size_t i = 0; i < list.count; i++) {
                char *end;
                assert_int_equal(list.ids[i], strtol(number, &end, 10));
                assert_true(end > number);
                number = end + (*end == ',');
            }
            assert_true(*number == '\n' || *number == 0);
            number += *number == '\n';
            lines++;
        }
        line = next;
    }
    assert_int_equal(number - numbers, ids_length);
    print_message("%s: %d texts\n", ids, lines);
    token_list_free(&list);
    free(text);
    free(numbers);
}

static void test_llama2_vectors(void **state) {
    (void)state;
    if (!getenv("FPTQ_TEST_DATA")) {
        print_message("FPTQ_TEST_DATA is not set: no test vectors\n");
        skip();
    }
    struct tokenizer *tokenizer;
    struct error error = {0};
    size_t length;
    char *json = read_data("llama2/tokenizer.json", &length);
    assert_int_equal(tokenizer_create(json, length, "llama2", &tokenizer, &error), STATUS_OK);
    free(json);
    check_vectors(tokenizer, "vectors/mixed_input.txt",
                  "vectors/tokenizers__mixed_tokens_llama2.txt", false);
    check_vectors(tokenizer, "vectors/small_input.txt",
                  "vectors/tokenizers__small_tokens_llama2.txt", false);
    check_vectors(tokenizer, "vectors/sentencepiece__utf8_output_llama2.txt",
                  "vectors/tokenizers__utf8_tokens_llama2.txt", true);
    tokenizer_destroy(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentencepiece_style),
        cmocka_unit_test(test_byte_level_style),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_split_behaviors),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_runaway_pattern_is_an_error),
        cmocka_unit_test(test_normalizers),
        cmocka_unit_test(test_template_and_ends),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_merging_against_plain_loop),
        cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_spoilt_files),
        cmocka_unit_test(test_llama2_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
