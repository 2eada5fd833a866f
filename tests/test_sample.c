/* Calibration windows: the documented order, done again by a plain loop; and its faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/digest.h"
#include "io/random.h"
#include "io/sample.h"
#include "tests/random.h"

/* Letters are 0 .. 25, BOS is 30, </s> is 31. */
static struct tokenizer *letters(bool ends) {
    char json[2000], *at = json;
    struct tokenizer *tokenizer;
    struct error error;
    at += sprintf(at, "{\"model\": {\"merges\": [], \"vocab\": {");
    for (int i = 0; i < 26; i++)
        at += sprintf(at, "%s\"%c\": %d", i ? ", " : "", 'a' + i, i);
    at += sprintf(at, "%s}}", ends ? ", \"</s>\": 31" : "");
    if (ends)
        at +=
            sprintf(at, ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
                        "[{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}], "
                        "\"special_tokens\": {\"<s>\": {\"ids\": [30]}}}");
    sprintf(at, "}");
    assert_int_equal(tokenizer_create(json, strlen(json), "letters", &tokenizer, &error),
                     STATUS_OK);
    return tokenizer;
}

/* `count` documents of random letters in a file; document i is texts[i]. Some are empty. */
static void write_documents(struct random *random, const char *path, int count, char (*texts)[64]) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < count; i++) {
        int length = (int)random_integer(random, 0, 63);
        for (int j = 0; j < length; j++)
            texts[i][j] = (char)random_integer(random, 'a', 'z');
        texts[i][length] = 0;
        fprintf(file, "{\"text\": \"%s\"}\n", texts[i]);
    }
    assert_int_equal(fclose(file), 0);
}

static enum status sample(const char *path, struct tokenizer *tokenizer, int64_t samples,
                          int64_t length, uint64_t seed, int64_t vocabulary,
                          struct sample_windows *windows, struct error *error) {
    struct corpus *corpus;
    assert_int_equal(corpus_open(&path, 1, &corpus, error), STATUS_OK);
    memset(error, 0, sizeof *error);
    enum status status =
        sample_from_corpus(corpus, tokenizer, samples, length, seed, vocabulary, windows, error);
    corpus_close(corpus);
    return status;
}

/* The first `wanted` ids as io/sample.h describes them; returns how many documents it took. */
static int expected_ids(char (*texts)[64], int count, uint64_t seed, bool ends, int32_t *ids,
                        int64_t wanted) {
    struct random_state random = {seed};
    int *held = malloc((size_t)count * sizeof *held), holding = 0, next = 0, documents = 0;
    int64_t made = 0;
    assert_non_null(held);
    while (made < wanted) {
        for (; holding < 1024 && next < count; next++)
            if (texts[next][0])
                held[holding++] = next;
        assert_true(holding > 0);
        int index = (int)random_below(&random, (uint64_t)holding);
        const char *text = texts[held[index]];
        held[index] = held[--holding];
        documents++;
        if (ends && made < wanted)
            ids[made++] = 30;
        for (; *text && made < wanted; text++)
            ids[made++] = *text - 'a';
        if (ends && made < wanted)
            ids[made++] = 31;
    }
    free(held);
    return documents;
}

static void test_documented_order(void **state) {
    const char *path = *state;
    struct random random = random_start();
    enum { DOCUMENTS = 3000 };
    static char texts[DOCUMENTS][64];
    write_documents(&random, path, DOCUMENTS, texts);
    for (int round = 0; round < 20; round++) {
        bool ends = round % 2;
        struct tokenizer *tokenizer = letters(ends);
        const int64_t samples = random_integer(&random, 1, 40);
        const int64_t length = random_integer(&random, 1, 1500);
        const uint64_t seed = random_bits(&random);
        struct sample_windows windows;
        struct error error;
        if (sample(path, tokenizer, samples, length, seed, 32, &windows, &error) != STATUS_OK)
            fail_msg("%s", error.message);
        int32_t *expected = malloc((size_t)(samples * length) * sizeof *expected);
        assert_non_null(expected);
        int documents = expected_ids(texts, DOCUMENTS, seed, ends, expected, samples * length);
        assert_int_equal(windows.samples, samples);
        assert_int_equal(windows.sequence_length, length);
        assert_int_equal(windows.documents, documents);
        assert_memory_equal(windows.ids, expected, (size_t)(samples * length) * sizeof *expected);
        char digest[65]; /* on a little-endian machine, the ids as they lie */
        digest_bytes(expected, (size_t)(samples * length) * sizeof *expected, digest);
        assert_string_equal(windows.digest, digest);
        free(expected);
        sample_free(&windows);
        assert_null(windows.ids);
        tokenizer_destroy(tokenizer);
    }
}

static void test_faults(void **state) {
    const char *path = *state;
    struct tokenizer *tokenizer = letters(true);
    struct sample_windows windows;
    struct error error;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs("{\"text\": \"abcdef\"}\n{\"text\": \"ghijkl\"}\n", file);
    fclose(file);
    assert_int_equal(sample(path, tokenizer, 4, 4, 1, 32, &windows, &error), STATUS_OK);
    sample_free(&windows);
    assert_int_equal(sample(path, tokenizer, 6, 3, 1, 32, &windows, &error), STATUS_INPUT);
    assert_null(windows.ids);
    assert_non_null(strstr(error.message, "16 tokens make 5 windows of 3, and 6 are wanted"));
    assert_int_equal(sample(path, tokenizer, 1, 8, 1, 31, &windows, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "token 31"));
    assert_int_equal(sample(path, tokenizer, 0, 8, 1, 32, &windows, &error), STATUS_INPUT);
    assert_int_equal(sample(path, tokenizer, INT64_MAX, 8, 1, 32, &windows, &error), STATUS_FAILED);
    tokenizer_destroy(tokenizer);
}

/* SplitMix64's published numbers for the seed 1234567. */
static void test_random_numbers(void **state) {
    (void)state;
    static const uint64_t known[] = {UINT64_C(6457827717110365317), UINT64_C(3203168211198807973),
                                     UINT64_C(9817491932198370423), UINT64_C(4593380528125082431)};
    struct random_state random = {1234567};
    for (int i = 0; i < 4; i++)
        assert_true(random_next(&random) == known[i]);
    assert_true(random_below(&random, 1) == 0);
}

/* Each of 7 ids about 1/7 of the time: 70000 draws, the standard deviation is 93, 6 of them are
 * allowed. */
static void test_random_tokens(void **state) {
    (void)state;
    struct random random = random_start();
    uint64_t seed = random_bits(&random);
    struct sample_windows windows, again;
    struct error error;
    int counts[7] = {0};
    assert_int_equal(sample_random_tokens(100, 700, seed, 7, &windows, &error), STATUS_OK);
    for (int i = 0; i < 70000; i++)
        counts[windows.ids[i]]++;
    for (int i = 0; i < 7; i++)
        assert_in_range(counts[i], 10000 - 6 * 93, 10000 + 6 * 93);
    assert_int_equal(sample_random_tokens(100, 700, seed, 7, &again, &error), STATUS_OK);
    assert_string_equal(windows.digest, again.digest);
    sample_free(&again);
    assert_int_equal(sample_random_tokens(100, 700, seed + 1, 7, &again, &error), STATUS_OK);
    assert_string_not_equal(windows.digest, again.digest);
    sample_free(&again);
    sample_free(&windows);
    assert_int_equal(sample_random_tokens(100, 700, seed, 0, &windows, &error), STATUS_INPUT);
}

static int make_file(void **state) {
    char *path = strdup("/tmp/test_sample.XXXXXX.jsonl");
    assert_non_null(path);
    int descriptor = mkstemps(path, 6);
    assert_true(descriptor >= 0);
    close(descriptor);
    *state = path;
    return 0;
}

static int remove_file(void **state) {
    int result = unlink(*state);
    free(*state);
    return result;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documented_order),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_random_numbers),
        cmocka_unit_test(test_random_tokens),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
