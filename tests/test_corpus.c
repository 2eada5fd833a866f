/* Documents from files: random ones written in every form and read back; every fault with its
 * message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include <cmocka.h>

#include "io/corpus.h"
#include "io/text_buffer.h"
#include "io/utf8.h"
#include "tests/random.h"

struct folder {
    char path[64];
    char file[200]; /* the last one written */
};

static int make_folder(void **state) {
    struct folder *folder = calloc(1, sizeof *folder);
    assert_non_null(folder);
    strcpy(folder->path, "/tmp/test_corpus.XXXXXX");
    assert_non_null(mkdtemp(folder->path));
    *state = folder;
    return 0;
}

static int remove_folder(void **state) {
    struct folder *folder = *state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", folder->path);
    int result = system(command);
    free(folder);
    return result;
}

static const char *put(struct folder *folder, const char *name, const void *data, size_t length) {
    snprintf(folder->file, sizeof folder->file, "%s/%s", folder->path, name);
    unlink(folder->file); /* a file that is written over is flushed to the disk, which takes long */
    FILE *file = fopen(folder->file, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    return folder->file;
}

static void append(struct text_buffer *buffer, const void *data, size_t length) {
    assert_true(text_buffer_append(buffer, data, length));
}

/* One frame with a checksum. */
static void append_frame(struct text_buffer *output, const void *data, size_t length) {
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    assert_true(text_buffer_reserve(output, ZSTD_compressBound(length)));
    size_t count = ZSTD_compress2(context, output->data + output->length,
                                  output->capacity - output->length, data, length);
    assert_false(ZSTD_isError(count));
    output->length += count;
    ZSTD_freeCCtx(context);
}

static void append_skippable_frame(struct text_buffer *output) {
    append(output, "\x53\x2a\x4d\x18\x05\x00\x00\x00hello", 13);
}

/* Read all of one file; the texts joined with '|', and the status. */
static enum status read_all(const char *path, struct text_buffer *joined, struct error *error) {
    struct corpus *corpus;
    memset(error, 0, sizeof *error);
    joined->length = 0;
    enum status status = corpus_open(&path, 1, &corpus, error);
    if (status != STATUS_OK)
        return status;
    for (;;) {
        struct corpus_document document;
        int found;
        status = corpus_next(corpus, &document, &found, error);
        if (status != STATUS_OK || !found)
            break;
        assert_int_equal(utf8_valid_prefix(document.text, document.length), document.length);
        append(joined, document.text, document.length);
        append(joined, "|", 1);
    }
    corpus_close(corpus);
    return status;
}

static void reads(struct folder *folder, const char *name, const char *data, size_t length,
                  const char *expected, size_t expected_length) {
    struct text_buffer joined = {0};
    struct error error;
    if (read_all(put(folder, name, data, length), &joined, &error) != STATUS_OK)
        fail_msg("%s", error.message);
    assert_int_equal(joined.length, expected_length);
    assert_memory_equal(joined.data, expected, expected_length);
    text_buffer_free(&joined);
}

/* The message has the file's name and `words` in it. */
static void refused(struct folder *folder, const char *name, const void *data, size_t length,
                    const char *words) {
    struct text_buffer joined = {0};
    struct error error;
    assert_int_equal(read_all(put(folder, name, data, length), &joined, &error), STATUS_INPUT);
    if (!strstr(error.message, words) || !strstr(error.message, name))
        fail_msg("\"%s\" is not in \"%s\"", words, error.message);
    text_buffer_free(&joined);
}

#define READS(name, data, expected)                                                                \
    reads(*state, name, data, sizeof(data) - 1, expected, sizeof(expected) - 1)
#define REFUSED(name, data, words) refused(*state, name, data, sizeof(data) - 1, words)

static void test_lines(void **state) {
    READS("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n", "one|two|");
    READS("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}", "one|two|");
    READS("a.jsonl", "\xef\xbb\xbf{\"text\": \"one\"}\r\n\r\n \t\n{\"text\": \"\"}\r\n", "one||");
    READS("a.jsonl",
          "{\"meta\": {\"a\": [1, -2.5e+3, {}, [], true, null]}, \"text\": \"x\", \"b\": 1e999}",
          "x|");
    READS("a.jsonl", "{\"meta\": \"\\u007b\", \"te\\u0078t\": \"x\"}", "x|");
    READS("a.jsonl", "{\"text\": 5, \"text\": \"last\"}", "last|");
    READS("a.jsonl",
          "{\"text\": "
          "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00e9\\u4e2d\\ud83d\\ude00\xf0\x9f\x98\x80\"}",
          "\"\\/\b\f\n\r\t\0\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\xf0\x9f\x98\x80|");
    READS("a.txt", "one\r\ntwo\n", "one\r\ntwo\n|");
    READS("a.txt", "\xef\xbb\xbfone", "one|");
}

static void test_faults(void **state) {
    REFUSED("a.jsonl", "", "holds no document");
    REFUSED("a.jsonl", "\n\n", "holds no document");
    REFUSED("a.txt", "", "holds no document");
    REFUSED("a.jsonl.zst", "", "holds no document");
    REFUSED("a.jsonl", "{\"text\": \"a\"}\n{\"meta\": 1}\n", "line 2: \"text\" is missing");
    REFUSED("a.jsonl", "{\"text\": null}", "line 1: \"text\" is not a string");
    REFUSED("a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \"a}\n", "line 3: bad JSON at byte 13");
    REFUSED("a.jsonl", "[\"text\"]", "not a JSON object");
    REFUSED("a.jsonl", "{\"text\": \"a\"} x", "line 1: bad JSON at byte 15: more after the object");
    REFUSED("a.jsonl", "{\"text\": \"a\",}", "bad JSON");
    REFUSED("a.jsonl", "{\"text\": \"\\ud800\"}", "surrogate");
    REFUSED("a.jsonl", "{\"text\": \"\\ud800\\u0041\"}", "surrogate");
    REFUSED("a.jsonl", "{\"text\": \"\\x\"}", "escape");
    REFUSED("a.jsonl", "{\"text\": \"a\tb\"}", "control character");
    REFUSED("a.jsonl", "{\"text\": \"a\", \"b\": 01}", "bad JSON");
    REFUSED("a.jsonl", "{\"text\": \"a\", \"b\": 1.}", "bad number");
    REFUSED("a.jsonl", "{\"text\": \"a\", \"b\": nul}", "a value");
    REFUSED("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xc3\x28\"}\n", "line 2: byte 11 (0xc3)");
    REFUSED("a.jsonl", "{\"text\": \"\xed\xa0\x80\"}", "UTF-8");     /* a surrogate */
    REFUSED("a.jsonl", "{\"text\": \"\xc0\x80\"}", "UTF-8");         /* overlong */
    REFUSED("a.jsonl", "{\"text\": \"\xf4\x90\x80\x80\"}", "UTF-8"); /* above U+10FFFF */
    REFUSED("a.txt", "one\ntw\xff", "line 2: byte 3 (0xff)");
    REFUSED("a.csv", "x", "should end in");
    char deep[3000];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"b\": ", 6);
    refused(*state, "a.jsonl", deep, sizeof deep, "nested too deep");
}

static void test_files(void **state) {
    struct folder *folder = *state;
    char pattern[200], literal[200], missing[200], path[200];
    put(folder, "b-2.jsonl", "{\"text\": \"2\"}", 13);
    put(folder, "b-10.jsonl", "{\"text\": \"10\"}", 14);
    put(folder, "c[1].txt", "c", 1);
    snprintf(pattern, sizeof pattern, "%s/b-*.jsonl", folder->path);
    snprintf(literal, sizeof literal, "%s/c[1].txt", folder->path);
    snprintf(missing, sizeof missing, "%s/none*.jsonl", folder->path);
    const char *patterns[] = {literal, pattern, missing};
    struct corpus *corpus;
    struct error error;
    assert_int_equal(corpus_open(patterns, 2, &corpus, &error), STATUS_OK);
    assert_int_equal(corpus_file_count(corpus), 3);
    assert_string_equal(corpus_file(corpus, 0), literal);
    snprintf(path, sizeof path, "%s/b-10.jsonl", folder->path);
    assert_string_equal(corpus_file(corpus, 1), path);
    assert_int_equal(corpus_file_size(corpus, 1), 14);
    static const char *const texts[] = {"c", "10", "2"};
    struct corpus_document document;
    int found;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(corpus_next(corpus, &document, &found, &error), STATUS_OK);
        assert_true(found);
        assert_int_equal(document.length, strlen(texts[i]));
        assert_memory_equal(document.text, texts[i], document.length);
        assert_string_equal(document.file, corpus_file(corpus, i));
        assert_int_equal(document.line, i > 0);
    }
    for (int i = 0; i < 2; i++) { /* the end stays the end */
        assert_int_equal(corpus_next(corpus, &document, &found, &error), STATUS_OK);
        assert_false(found);
    }
    corpus_close(corpus);
    assert_int_equal(corpus_open(patterns, 3, &corpus, &error), STATUS_INPUT);
    assert_null(corpus);
    assert_non_null(strstr(error.message, "none*.jsonl"));
    const char *directory = folder->path;
    assert_int_equal(corpus_open(&directory, 1, &corpus, &error), STATUS_INPUT);
    assert_int_equal(corpus_open(NULL, 0, &corpus, &error), STATUS_INPUT);
}

/* Random text as a JSON string, some characters escaped; the text itself joins `plain`. */
static void append_random_string(struct random *random, int64_t length, struct text_buffer *json,
                                 struct text_buffer *plain) {
    static const char *const pieces[][2] = {{"\\n", "\n"},
                                            {"\\\"", "\""},
                                            {"\\\\", "\\"},
                                            {"\xc3\xa9", "\xc3\xa9"},
                                            {"\\u00e9", "\xc3\xa9"},
                                            {"\\t", "\t"},
                                            {"}{", "}{"},
                                            {"\\uD83d\\uDE00", "\xf0\x9f\x98\x80"},
                                            {"\\u0000", "\0"}};
    append(json, "\"", 1);
    for (int64_t i = 0; i < length; i++) {
        int64_t kind = random_integer(random, 0, 40);
        if (kind < 9) {
            append(json, pieces[kind][0], strlen(pieces[kind][0]));
            append(plain, pieces[kind][1], kind == 8 ? 1 : strlen(pieces[kind][1]));
        } else {
            char letter = (char)random_integer(random, 'a', 'z');
            append(json, &letter, 1);
            append(plain, &letter, 1);
        }
    }
    append(json, "\"", 1);
}

static void append_random_record(struct random *random, int64_t longest, struct text_buffer *json,
                                 struct text_buffer *plain) {
    static const char *const fronts[] = {"{\"text\":",
                                         "{\"meta\": {\"text\": [\"no\"]}, \"text\" : "};
    static const char *const backs[] = {"}", ", \"meta\": \"x\"}",
                                        ", \"meta\": {\"pile_set_name\": \"ArXiv\"} } "};
    static const char *const ends[] = {"\n", "\r\n", "\n\n"};
    const char *front = fronts[random_integer(random, 0, 1)];
    const char *back = backs[random_integer(random, 0, 2)],
               *end = ends[random_integer(random, 0, 2)];
    append(json, front, strlen(front));
    append_random_string(random, random_integer(random, 0, longest), json, plain);
    append(plain, "|", 1);
    append(json, back, strlen(back));
    append(json, end, strlen(end));
}

/* The same lines as they are and in random frames, some of them skippable or empty. */
static void test_round_trip(void **state) {
    struct random random = random_start();
    static const int64_t longest[] = {20, 3000, 200000};
    for (int round = 0; round < 60; round++) {
        struct text_buffer json = {0}, plain = {0}, packed = {0};
        for (int64_t count = random_integer(&random, 1, 20); count > 0; count--)
            append_random_record(&random, longest[round % 20 == 0 ? 2 : round % 2], &json, &plain);
        reads(*state, "r.jsonl", json.data, json.length, plain.data, plain.length);
        for (size_t at = 0, count; at < json.length; at += count) {
            count = (size_t)random_integer(&random, 0, (int64_t)(json.length - at));
            if (random_integer(&random, 0, 3) == 0)
                append_skippable_frame(&packed);
            append_frame(&packed, json.data + at, count);
        }
        reads(*state, "r.jsonl.zst", packed.data, packed.length, plain.data, plain.length);
        text_buffer_free(&json);
        text_buffer_free(&plain);
        text_buffer_free(&packed);
    }
}

static void test_huge_window(void **state) {
    static char input[] = "{\"text\": \"a\"}";
    char packed[200];
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 28);
    ZSTD_inBuffer source = {input, sizeof input - 1, 0};
    ZSTD_outBuffer target = {packed, sizeof packed, 0};
    assert_false(
        ZSTD_isError(ZSTD_compressStream2(context, &target, &source, ZSTD_e_flush))); /* no size */
    assert_int_equal(ZSTD_compressStream2(context, &target, &source, ZSTD_e_end), 0);
    ZSTD_freeCCtx(context);
    refused(*state, "w.jsonl.zst", packed, target.pos, "--long");
}

/* A file cut short anywhere, or with a bit turned, is never taken for a whole one. */
static void test_spoilt_zstd(void **state) {
    struct random random = random_start();
    struct text_buffer json = {0}, plain = {0}, packed = {0}, joined = {0};
    for (int i = 0; i < 50; i++)
        append_random_record(&random, 100, &json, &plain);
    append_frame(&packed, json.data, json.length);
    for (size_t length = 1; length < packed.length; length += 1 + length / 20)
        refused(*state, "t.jsonl.zst", packed.data, length, "truncated");
    for (int round = 0; round < 300; round++) {
        size_t at = (size_t)random_integer(&random, 0, (int64_t)packed.length - 1);
        char mask = (char)(1 << random_integer(&random, 0, 7));
        struct error error;
        packed.data[at] ^= mask;
        const char *path = put(*state, "t.jsonl.zst", packed.data, packed.length);
        enum status status = read_all(path, &joined, &error);
        if (status == STATUS_OK) { /* a bit that says nothing about the content */
            assert_int_equal(joined.length, plain.length);
            assert_memory_equal(joined.data, plain.data, plain.length);
        } else {
            assert_int_equal(status, STATUS_INPUT);
            assert_non_null(strstr(error.message, "t.jsonl.zst"));
        }
        packed.data[at] ^= mask;
    }
    append(&packed, "tail", 4);
    refused(*state, "t.jsonl.zst", packed.data, packed.length, "zstd");
    text_buffer_free(&json);
    text_buffer_free(&plain);
    text_buffer_free(&packed);
    text_buffer_free(&joined);
}

/* Spoilt lines are read or refused, no more. */
static void test_spoilt_lines(void **state) {
    struct random random = random_start();
    struct text_buffer joined = {0};
    for (int round = 0; round < 1000; round++) {
        struct text_buffer json = {0}, plain = {0};
        append_random_record(&random, 30, &json, &plain);
        for (int64_t i = random_integer(&random, 1, 3); i > 0; i--)
            json.data[random_integer(&random, 0, (int64_t)json.length - 1)] =
                "{}[]\",:\\u0e-x\xff\n"[random_integer(&random, 0, 14)];
        struct error error;
        enum status status =
            read_all(put(*state, "s.jsonl", json.data, json.length), &joined, &error);
        assert_true(status == STATUS_OK || (status == STATUS_INPUT && error.message[0]));
        text_buffer_free(&json);
        text_buffer_free(&plain);
    }
    text_buffer_free(&joined);
}

/* 20 MB in one line, and a line beyond the limit: 300 MB of spaces, which compress to nothing. */
static void test_long_lines(void **state) {
    const size_t length = (size_t)20 << 20, beyond = (size_t)300 << 20;
    char *line = malloc(beyond);
    assert_non_null(line);
    memset(line, 'a', length);
    memcpy(line, "{\"text\": \"", 10);
    memcpy(line + length - 2, "\"}", 2);
    struct text_buffer joined = {0}, packed = {0};
    struct error error;
    append_frame(&packed, line, length);
    const char *path = put(*state, "l.jsonl.zst", packed.data, packed.length);
    if (read_all(path, &joined, &error) != STATUS_OK)
        fail_msg("%s", error.message);
    assert_int_equal(joined.length, length - 12 + 1);
    packed.length = 0;
    memset(line, ' ', beyond);
    append_frame(&packed, line, beyond);
    free(line);
    refused(*state, "l.jsonl.zst", packed.data, packed.length, "line 1: longer than 256 MiB");
    text_buffer_free(&joined);
    text_buffer_free(&packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_files),        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_huge_window),  cmocka_unit_test(test_spoilt_zstd),
        cmocka_unit_test(test_spoilt_lines), cmocka_unit_test(test_long_lines),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
