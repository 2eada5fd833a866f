/* The checkpoint: what is written is read back, in both layouts and compressions; bytes and
 * manifest repeat; faults while writing leave nothing. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/digest.h"
#include "tests/checkpoint_model.h"

/* What checkpoint_read_rows() hands on, put together. */
struct rows_read {
    int64_t columns, rows;
    bool packed;
    unsigned char *data;
};

static void take_rows(void *context, int64_t row_begin, int64_t rows, const void *data) {
    struct rows_read *read = context;
    const size_t element = read->packed ? 1 : 2;
    const size_t first = (size_t)(row_begin * read->columns) * element;
    const size_t count = (size_t)(rows * read->columns) * element;
    assert_int_equal(row_begin, read->rows);
    read->rows += rows;
    if (!read->packed) {
        memcpy(read->data + first, data, count);
        return;
    }
    assert_int_equal(row_begin % 2, 0);
    for (size_t i = 0; i < count; i++) {
        const unsigned byte = ((const unsigned char *)data)[i / 2];
        const unsigned nibble = i % 2 ? byte & 15 : byte >> 4;
        read->data[first + i] = (unsigned char)((nibble ^ 8) - 8);
    }
}

/* By rows: 4-bit integers packed, others of two bytes. */
static void expect_rows(const struct checkpoint *checkpoint, const char *path, bool packed,
                        int64_t rows, int64_t columns, const void *data) {
    struct error error;
    const size_t bytes = (size_t)(rows * columns) * (packed ? 1 : 2);
    struct rows_read read = {columns, 0, packed, malloc(bytes)};
    CHECK(checkpoint_read_rows(checkpoint, path, take_rows, &read, &error));
    assert_int_equal(read.rows, rows);
    assert_memory_equal(read.data, data, bytes);
    free(read.data);
    assert_true(checkpoint_has(checkpoint, path));
}

static void expect_data(const struct checkpoint *checkpoint, const char *path,
                        enum checkpoint_type type, const void *data, size_t bytes) {
    struct error error;
    struct checkpoint_dataset dataset;
    CHECK(checkpoint_describe(checkpoint, path, &dataset, &error));
    assert_int_equal(dataset.type, type);
    assert_int_equal(dataset.bytes, bytes);
    void *read = malloc(bytes);
    CHECK(checkpoint_read(checkpoint, path, read, &error));
    assert_memory_equal(read, data, bytes);
    free(read);
    char sum[65];
    digest_bytes(data, bytes, sum);
    size_t line = 0;
    while (line < checkpoint_line_count(checkpoint) &&
           strcmp(checkpoint_line_path(checkpoint, line), path) != 0)
        line++;
    assert_in_range(line, 0, checkpoint_line_count(checkpoint) - 1);
    assert_string_equal(checkpoint_line_sum(checkpoint, line), sum);
}

static void expect_model(const struct model *model, const char *path) {
    struct error error;
    struct checkpoint *checkpoint;
    CHECK(checkpoint_open(path, &checkpoint, &error));
    expect_data(checkpoint, "/model/embed_tokens/weight", CHECKPOINT_BF16, model->embedding,
                sizeof model->embedding);
    expect_rows(checkpoint, "/model/embed_tokens/weight", false, VOCABULARY, WIDTH,
                model->embedding);
    assert_false(checkpoint_has(checkpoint, "/model/embed_tokens/nothing"));
    expect_data(checkpoint, "/config_json", CHECKPOINT_TEXT, model->config, strlen(model->config));
    expect_data(checkpoint, "/empty", CHECKPOINT_TEXT, "", 1);
    for (int i = 0; i < LAYERS; i++) {
        const struct layer *layer = &model->layer[i];
        char linear[100], dataset[200];
        snprintf(linear, sizeof linear, "/model/layers/%d/self_attn/q_proj", i);
        snprintf(dataset, sizeof dataset, "%s/weight", linear);
        expect_data(checkpoint, dataset, CHECKPOINT_INT4, layer->weight, sizeof layer->weight);
        expect_rows(checkpoint, dataset, true, ROWS, COLUMNS, layer->weight);
        snprintf(dataset, sizeof dataset, "%s/weight_zero_point", linear);
        expect_data(checkpoint, dataset, CHECKPOINT_INT4, layer->zero_point,
                    sizeof layer->zero_point);
        snprintf(dataset, sizeof dataset, "%s/weight_scale", linear);
        expect_data(checkpoint, dataset, CHECKPOINT_F16, layer->scale, sizeof layer->scale);
        expect_rows(checkpoint, dataset, false, ROWS, 4, layer->scale);
        snprintf(dataset, sizeof dataset, "%s/input_absmax", linear);
        expect_data(checkpoint, dataset, CHECKPOINT_F32, layer->absmax, sizeof layer->absmax);
        snprintf(dataset, sizeof dataset, "%s/input_scale", linear);
        expect_data(checkpoint, dataset, CHECKPOINT_F32, &layer->input_scale, 4);
        snprintf(dataset, sizeof dataset, "%s/extra", linear);
        expect_data(checkpoint, dataset, CHECKPOINT_INT8, layer->extra, sizeof layer->extra);
        char *policy;
        float range;
        int64_t group_size;
        CHECK(checkpoint_attribute_text(checkpoint, linear, "input_policy", &policy, &error));
        CHECK(checkpoint_attribute_float(checkpoint, linear, "input_range", &range, &error));
        CHECK(checkpoint_attribute_integer(checkpoint, linear, "group_size", &group_size, &error));
        assert_string_equal(policy, "static");
        assert_memory_equal(&range, &layer->range, sizeof range);
        assert_int_equal(group_size, 128);
        free(policy);
    }
    char *lines;
    CHECK(checkpoint_attribute_lines(checkpoint, "/", &lines, &error));
    assert_string_equal(lines, "format=fptq-checkpoint\nformat_version=1\nmethod=fptq\n");
    free(lines);
    int64_t ranks;
    CHECK(checkpoint_attribute_integer(checkpoint, "/run", "ranks", &ranks, &error));
    assert_int_equal(ranks, 4);
    checkpoint_close(checkpoint);
}

/* What is not there, or is something else than what is asked for. */
static void expect_refusals(const char *path) {
    static const char linear[] = "/model/layers/0/self_attn/q_proj";
    static const char scale[] = "/model/layers/0/self_attn/q_proj/input_scale";
    struct error error;
    struct checkpoint *checkpoint;
    struct checkpoint_dataset dataset;
    char *text;
    int64_t integer;
    float number;
    CHECK(checkpoint_open(path, &checkpoint, &error));
    const enum status refused[] = {
        checkpoint_describe(checkpoint, "/nothing", &dataset, &error),
        checkpoint_describe(checkpoint, linear, &dataset, &error),
        checkpoint_read(checkpoint, "/nothing", &number, &error),
        checkpoint_read_rows(checkpoint, "/nothing", take_rows, NULL, &error),
        checkpoint_read_rows(checkpoint, scale, take_rows, NULL, &error), /* no matrix */
        checkpoint_attribute_text(checkpoint, "/nothing", "method", &text, &error),
        checkpoint_attribute_text(checkpoint, linear, "nothing", &text, &error),
        checkpoint_attribute_text(checkpoint, linear, "group_size", &text, &error),
        checkpoint_attribute_integer(checkpoint, linear, "input_range", &integer, &error),
        checkpoint_attribute_float(checkpoint, linear, "input_policy", &number, &error),
        checkpoint_attribute_lines(checkpoint, "/nothing", &text, &error),
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i] != STATUS_INPUT)
            fail_msg("call %zu: status %d", i, (int)refused[i]);
    checkpoint_close(checkpoint);
}

static void expect_equal_manifests(const char *left, const char *right) {
    struct error error;
    struct checkpoint *a, *b;
    CHECK(checkpoint_open(left, &a, &error));
    CHECK(checkpoint_open(right, &b, &error));
    assert_int_equal(checkpoint_line_count(a), checkpoint_line_count(b));
    assert_int_equal(checkpoint_line_count(a), 3 + 2 + LAYERS * 8);
    for (size_t i = 0; i < checkpoint_line_count(a); i++) {
        assert_string_equal(checkpoint_line_path(a, i), checkpoint_line_path(b, i));
        assert_string_equal(checkpoint_line_sum(a, i), checkpoint_line_sum(b, i));
    }
    checkpoint_close(a);
    checkpoint_close(b);
}

static void test_layouts_and_compressions(void **state) {
    const struct model *model = *state;
    const char *paths[4] = {
        model_write(model, "single-zstd.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD),
        model_write(model, "single-none.h5", CHECKPOINT_SINGLE, CHECKPOINT_NONE),
        model_write(model, "sharded-zstd.h5", CHECKPOINT_SHARDED, CHECKPOINT_ZSTD),
        model_write(model, "sharded-none.h5", CHECKPOINT_SHARDED, CHECKPOINT_NONE)};
    for (int i = 0; i < 4; i++) {
        expect_model(model, paths[i]);
        expect_refusals(paths[i]);
        model_expect_faults(paths[i], "");
        expect_equal_manifests(paths[0], paths[i]);
    }
    assert_int_not_equal(access(model_path(model, "single-zstd.parts"), F_OK), 0);
    assert_int_equal(access(model_path(model, "sharded-none.parts/run.h5"), F_OK), 0);
    struct stat zstd, none;
    assert_int_equal(stat(paths[0], &zstd) + stat(paths[1], &none), 0);
    assert_true(zstd.st_size < none.st_size);
}

/* Object times have a resolution of a second: the second file is written in another one. */
static void test_bytes_repeat(void **state) {
    const struct model *model = *state;
    const char *first = model_write(model, "first.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD);
    const time_t start = time(NULL);
    while (time(NULL) == start)
        usleep(10000);
    const char *second = model_write(model, "second.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD);
    size_t first_bytes, second_bytes;
    void *a = model_read_file(first, &first_bytes), *b = model_read_file(second, &second_bytes);
    assert_int_equal(first_bytes, second_bytes);
    assert_memory_equal(a, b, first_bytes);
    free(a);
    free(b);
}

static void test_compressed_chunks(void **state) {
    const struct model *model = *state;
    struct error error;
    const enum checkpoint_compression compressions[2] = {CHECKPOINT_NONE, CHECKPOINT_ZSTD};
    uint8_t *packed = malloc(ROWS * COLUMNS / 2 + 1);
    model_pack(packed, model->layer[0].weight, ROWS * COLUMNS);
    for (int i = 0; i < 2; i++) {
        const char *output = model_path(model, "chunks.h5");
        struct checkpoint_part *part;
        struct checkpoint_compressor *compressor;
        CHECK(checkpoint_part_create(output, "x", compressions[i], &part, &error));
        CHECK(checkpoint_compressor_create(compressions[i], &compressor, &error));
        CHECK(checkpoint_part_begin_rows(part, "/w", CHECKPOINT_INT4, ROWS, COLUMNS, &error));
        const int64_t chunk_rows = checkpoint_chunk_rows(CHECKPOINT_INT4, ROWS, COLUMNS);
        for (int64_t row = 0; row < ROWS; row += chunk_rows) {
            const void *stored, *data = packed + row * COLUMNS / 2;
            size_t bytes;
            CHECK(checkpoint_chunk_compress(compressor, CHECKPOINT_INT4, ROWS, COLUMNS, row, data,
                                            &stored, &bytes, &error));
            CHECK(checkpoint_part_write_compressed(part, row, data, stored, bytes, &error));
        }
        CHECK(checkpoint_part_end_rows(part, &error));
        CHECK(checkpoint_part_finish(part, &error));
        checkpoint_compressor_destroy(compressor);
        struct checkpoint *checkpoint;
        CHECK(checkpoint_open(model_path(model, "chunks.parts/x.h5"), &checkpoint, &error));
        expect_data(checkpoint, "/w", CHECKPOINT_INT4, model->layer[0].weight,
                    sizeof model->layer[0].weight);
        checkpoint_close(checkpoint);
    }
    free(packed);
}

static void test_misuse_is_refused(void **state) {
    const struct model *model = *state;
    struct error error;
    const char *output = model_path(model, "misuse.h5");
    const int8_t too_large[2] = {3, 8};
    const int64_t two = 2;
    struct checkpoint_part *part;
    CHECK(checkpoint_part_create(output, "x", CHECKPOINT_ZSTD, &part, &error));
    assert_int_equal(checkpoint_part_write(part, "/a", CHECKPOINT_INT4, 1, &two, too_large, &error),
                     STATUS_FAILED);
    assert_int_equal(checkpoint_part_finish(part, &error), STATUS_FAILED);

    CHECK(checkpoint_part_create(output, "x", CHECKPOINT_ZSTD, &part, &error));
    CHECK(checkpoint_part_begin_rows(part, "/a", CHECKPOINT_F32, 2, 1, &error));
    assert_int_equal(checkpoint_part_finish(part, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "/a"));

    CHECK(checkpoint_part_create(output, "x", CHECKPOINT_ZSTD, &part, &error));
    CHECK(checkpoint_part_begin_rows(part, "/a", CHECKPOINT_INT4, ROWS, COLUMNS, &error));
    assert_int_equal(checkpoint_part_end_rows(part, &error), STATUS_FAILED);
    checkpoint_part_abandon(part);

    CHECK(checkpoint_part_create(output, "x", CHECKPOINT_ZSTD, &part, &error));
    CHECK(checkpoint_part_write(part, "/a", CHECKPOINT_INT8, 1, &two, too_large, &error));
    assert_int_equal(checkpoint_part_write(part, "/a", CHECKPOINT_INT8, 1, &two, too_large, &error),
                     STATUS_FAILED);
    checkpoint_part_abandon(part);
    assert_int_equal(rmdir(model_path(model, "misuse.parts")), 0); /* nothing is left in it */
    assert_int_equal(checkpoint_part_create(model_path(model, "no/folder.h5"), "x", CHECKPOINT_NONE,
                                            &part, &error),
                     STATUS_FAILED);
    assert_null(part);
}

/* A limit on the size of files stands for the full disk: at any place of the file the message names
 * the reason, nothing is left, and the program ends as it should. */
static void test_full_disk(void **state) {
    const struct model *model = *state;
    struct error error;
    const char *output = model_path(model, "full.h5"), *part = model_path(model, "full.parts/x.h5");
    const char *parts = model_path(model, "full.parts");
    CHECK(model_write_until_full(model, output, &error));
    struct stat whole;
    assert_int_equal(stat(part, &whole), 0);
    assert_int_equal(unlink(part), 0);
    for (int i = 0; i < 50; i++) {
        const rlim_t bytes = (rlim_t)whole.st_size * (rlim_t)i / 50;
        const pid_t child = fork();
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(const struct rlimit){bytes, bytes});
            const enum status status = model_write_until_full(model, output, &error);
            const bool right = status == STATUS_FAILED && strstr(error.message, "File too large");
            exit(right ? 0 : 1); /* not _exit: HDF5 would have its say at exit */
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (status != 0)
            fail_msg("limit of %llu bytes: child's status is 0x%x", (unsigned long long)bytes,
                     status);
        assert_int_equal(rmdir(parts), 0);
    }
}

static void test_stale_and_overlapping_parts(void **state) {
    const struct model *model = *state;
    struct error error;
    const char *output = model_path(model, "overlap.h5");
    const char *const names[2] = {"x", "y"};
    const int64_t two = 2;
    assert_int_equal(mkdir(model_path(model, "overlap.parts"), 0777), 0);
    model_write_file(model_path(model, "overlap.parts/x.h5.tmp"), "stale", 5);
    for (int i = 0; i < 2; i++) {
        struct checkpoint_part *part;
        CHECK(checkpoint_part_create(output, names[i], CHECKPOINT_NONE, &part, &error));
        CHECK(checkpoint_part_write(part, "/g/a", CHECKPOINT_INT8, 1, &two, "ab", &error));
        CHECK(checkpoint_part_finish(part, &error));
    }
    assert_int_equal(checkpoint_assemble(output, names, 2, CHECKPOINT_SINGLE, NULL, &error),
                     STATUS_FAILED);
    assert_non_null(strstr(error.message, "/g/a"));
    assert_int_not_equal(access(output, F_OK), 0);
    assert_int_not_equal(access(model_path(model, "overlap.h5.tmp"), F_OK), 0);
    CHECK(checkpoint_assemble(output, names, 1, CHECKPOINT_SINGLE, NULL, &error));
    model_expect_faults(output, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts_and_compressions),
        cmocka_unit_test(test_bytes_repeat),
        cmocka_unit_test(test_compressed_chunks),
        cmocka_unit_test(test_misuse_is_refused),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_stale_and_overlapping_parts),
    };
    return cmocka_run_group_tests(tests, model_create, model_destroy);
}
