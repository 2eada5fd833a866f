/* The checkpoint: what is written is read back, in both layouts and compressions; bytes and
 * manifest repeat; damage is found. Random data (the seed is printed). */
#include <hdf5.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/checkpoint.h"
#include "io/checkpoint_read.h"
#include "io/digest.h"

enum { LAYERS = 3, PARTS = LAYERS + 2, ROWS = 2500, COLUMNS = 501, VOCABULARY = 3001, WIDTH = 183 };

static const char *const part_names[PARTS] = {"embedding", "layer-00000", "layer-00001",
                                              "layer-00002", "run"};

struct layer {
    int8_t weight[ROWS * COLUMNS]; /* two chunks, the second an edge, odd columns */
    uint16_t scale[ROWS * 4];
    int8_t zero_point[ROWS * 4];
    float absmax[COLUMNS];
    float input_scale, range;
    uint16_t norm[WIDTH]; /* bf16 */
    int8_t extra[3 * 3 * 5];
};

struct model {
    struct layer layer[LAYERS];
    uint16_t embedding[VOCABULARY * WIDTH]; /* bf16, chunked */
    char config[100];
};

static char folder[] = "/tmp/test_checkpoint_XXXXXX";
static struct model *model;

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void random_bytes(uint64_t *state, void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)data)[i] = (unsigned char)(next_random(state) >> 30);
}

/* Clustered around zero, as quantized weights are, so that zstd has something to do. */
static void random_int4(uint64_t *state, int8_t *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const uint64_t r = next_random(state) >> 20;
        values[i] = (int8_t)((int)(r & 7) + (int)(r >> 3 & 7) - 7 - (int)(r >> 6 & 1));
    }
}

static int make_model(void **state) {
    (void)state;
    uint64_t random = (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u | 1;
    const char *given = getenv("FPTQ_TEST_SEED");
    if (given)
        random = strtoull(given, NULL, 0);
    print_message("seed 0x%llx\n", (unsigned long long)random);
    model = calloc(1, sizeof *model);
    for (int i = 0; i < LAYERS; i++) {
        struct layer *layer = &model->layer[i];
        random_int4(&random, layer->weight, ROWS * COLUMNS);
        random_int4(&random, layer->zero_point, ROWS * 4);
        random_bytes(&random, layer->scale, sizeof layer->scale);
        random_bytes(&random, layer->norm, sizeof layer->norm);
        random_bytes(&random, layer->extra, sizeof layer->extra);
        for (int j = 0; j < COLUMNS; j++)
            layer->absmax[j] = (float)(next_random(&random) >> 40) / 65536.0f;
        layer->input_scale = (float)(next_random(&random) >> 40) / 3e5f;
        layer->range = (float)(next_random(&random) >> 40) / 7e5f;
    }
    random_bytes(&random, model->embedding, sizeof model->embedding);
    snprintf(model->config, sizeof model->config, "{\"seed\": %llu}", (unsigned long long)random);
    return mkdtemp(folder) ? 0 : -1;
}

static int free_model(void **state) {
    (void)state;
    free(model);
    char command[200];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void check(enum status status, const struct error *error) {
    if (status != STATUS_OK)
        fail_msg("%s", error->message);
}

static void pack(uint8_t *packed, const int8_t *values, size_t count) {
    memset(packed, 0, (count + 1) / 2);
    for (size_t i = 0; i < count; i++)
        packed[i / 2] = (uint8_t)(packed[i / 2] | (values[i] & 15) << (i % 2 ? 0 : 4));
}

#define CHECK(call) check(call, &error)

static void write_layer(struct checkpoint_part *part, int number) {
    struct error error;
    const struct layer *layer = &model->layer[number];
    char path[200];
    const char *const linear = "/model/layers/%d/self_attn/q_proj%s";
    uint8_t *packed = malloc(ROWS * COLUMNS / 2 + 1);
    pack(packed, layer->weight, ROWS * COLUMNS);
    snprintf(path, sizeof path, linear, number, "/weight");
    CHECK(checkpoint_part_begin_rows(part, path, CHECKPOINT_INT4, ROWS, COLUMNS, &error));
    const int64_t chunk_rows = checkpoint_chunk_rows(CHECKPOINT_INT4, ROWS, COLUMNS);
    assert_in_range(chunk_rows, 2, ROWS - 1);
    for (int64_t row = 0; row < ROWS; row += chunk_rows) {
        const int64_t rows = ROWS - row < chunk_rows ? ROWS - row : chunk_rows;
        CHECK(checkpoint_part_write_rows(part, row, rows, packed + row * COLUMNS / 2, &error));
    }
    CHECK(checkpoint_part_end_rows(part, &error));
    free(packed);

    const int64_t groups[2] = {ROWS, 4}, columns = COLUMNS, width = WIDTH;
    const int64_t cube[3] = {3, 3, 5};
    snprintf(path, sizeof path, linear, number, "/weight_scale");
    CHECK(checkpoint_part_write(part, path, CHECKPOINT_F16, 2, groups, layer->scale, &error));
    snprintf(path, sizeof path, linear, number, "/weight_zero_point");
    CHECK(checkpoint_part_write(part, path, CHECKPOINT_INT4, 2, groups, layer->zero_point, &error));
    snprintf(path, sizeof path, linear, number, "/input_absmax");
    CHECK(checkpoint_part_write(part, path, CHECKPOINT_F32, 1, &columns, layer->absmax, &error));
    snprintf(path, sizeof path, linear, number, "/input_scale");
    CHECK(checkpoint_part_write(part, path, CHECKPOINT_F32, 0, NULL, &layer->input_scale, &error));
    snprintf(path, sizeof path, linear, number, "/extra");
    CHECK(checkpoint_part_write(part, path, CHECKPOINT_INT8, 3, cube, layer->extra, &error));
    snprintf(path, sizeof path, linear, number, "");
    CHECK(checkpoint_part_attribute_text(part, path, "input_policy", "static", &error));
    CHECK(checkpoint_part_attribute_float(part, path, "input_range", layer->range, &error));
    CHECK(checkpoint_part_attribute_integer(part, path, "group_size", 128, &error));
    snprintf(path, sizeof path, "/model/layers/%d/input_layernorm/weight", number);
    CHECK(checkpoint_part_write(part, path, CHECKPOINT_BF16, 1, &width, layer->norm, &error));
}

static void write_embedding(struct checkpoint_part *part) {
    struct error error;
    CHECK(checkpoint_part_attribute_text(part, "/", "method", "fptq", &error));
    CHECK(checkpoint_part_attribute_integer(part, "/model/layers", "count", LAYERS, &error));
    CHECK(checkpoint_part_write_text(part, "/config_json", model->config, strlen(model->config),
                                     &error));
    CHECK(checkpoint_part_write_text(part, "/empty", "", 0, &error));
    CHECK(checkpoint_part_begin_rows(part, "/model/embed_tokens/weight", CHECKPOINT_BF16,
                                     VOCABULARY, WIDTH, &error));
    CHECK(checkpoint_part_write_rows(part, 0, VOCABULARY, model->embedding, &error));
    CHECK(checkpoint_part_end_rows(part, &error));
}

static void write_run(struct checkpoint_part *part) {
    struct error error;
    CHECK(checkpoint_part_write_text(part, "/run/hosts", "a\nb\n", 4, &error));
    CHECK(checkpoint_part_attribute_integer(part, "/run", "ranks", 4, &error));
}

static void write_parts(const char *output, enum checkpoint_compression compression) {
    struct error error;
    for (int i = 0; i < PARTS; i++) {
        struct checkpoint_part *part;
        CHECK(checkpoint_part_create(output, part_names[i], compression, &part, &error));
        if (i == 0)
            write_embedding(part);
        else if (i == PARTS - 1)
            write_run(part);
        else
            write_layer(part, i - 1);
        assert_false(checkpoint_part_exists(output, part_names[i]));
        CHECK(checkpoint_part_finish(part, &error));
        assert_true(checkpoint_part_exists(output, part_names[i]));
    }
}

static char *output_path(const char *name) {
    static char path[8][200];
    static int next;
    next = (next + 1) % 8;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static const char *write_checkpoint(const char *name, enum checkpoint_layout layout,
                                    enum checkpoint_compression compression) {
    struct error error;
    const char *output = output_path(name);
    write_parts(output, compression);
    CHECK(checkpoint_assemble(output, part_names, PARTS, layout, NULL, &error));
    return output;
}

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

static void expect_model(const char *path) {
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

struct faults {
    int count;
    char text[4000];
};

static void note_fault(void *context, const char *dataset, const char *what) {
    struct faults *faults = context;
    faults->count++;
    const size_t used = strlen(faults->text);
    snprintf(faults->text + used, sizeof faults->text - used, "%s: %s\n", dataset, what);
}

static void expect_faults(const char *path, const char *text) {
    struct error error;
    struct faults faults = {0, ""};
    int64_t checked, bad;
    CHECK(checkpoint_verify(path, note_fault, &faults, &checked, &bad, &error));
    assert_string_equal(faults.text, text);
    assert_int_equal(faults.count, bad);
    assert_in_range(checked, 1, 100);
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
    (void)state;
    const char *paths[4] = {
        write_checkpoint("single-zstd.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD),
        write_checkpoint("single-none.h5", CHECKPOINT_SINGLE, CHECKPOINT_NONE),
        write_checkpoint("sharded-zstd.h5", CHECKPOINT_SHARDED, CHECKPOINT_ZSTD),
        write_checkpoint("sharded-none.h5", CHECKPOINT_SHARDED, CHECKPOINT_NONE)};
    for (int i = 0; i < 4; i++) {
        expect_model(paths[i]);
        expect_faults(paths[i], "");
        expect_equal_manifests(paths[0], paths[i]);
    }
    assert_int_not_equal(access(output_path("single-zstd.parts"), F_OK), 0);
    assert_int_equal(access(output_path("sharded-none.parts/run.h5"), F_OK), 0);
    struct stat zstd, none;
    assert_int_equal(stat(paths[0], &zstd) + stat(paths[1], &none), 0);
    assert_true(zstd.st_size < none.st_size);
}

static void *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    struct stat status;
    assert_int_equal(fstat(fileno(file), &status), 0);
    *bytes = (size_t)status.st_size;
    void *data = malloc(*bytes);
    assert_int_equal(fread(data, 1, *bytes, file), *bytes);
    fclose(file);
    return data;
}

static void write_file(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* Object times have a resolution of a second: the second file is written in another one. */
static void test_bytes_repeat(void **state) {
    (void)state;
    const char *first = write_checkpoint("first.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD);
    const time_t start = time(NULL);
    while (time(NULL) == start)
        usleep(10000);
    const char *second = write_checkpoint("second.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD);
    size_t first_bytes, second_bytes;
    void *a = read_file(first, &first_bytes), *b = read_file(second, &second_bytes);
    assert_int_equal(first_bytes, second_bytes);
    assert_memory_equal(a, b, first_bytes);
    free(a);
    free(b);
}

static void test_compressed_chunks(void **state) {
    (void)state;
    struct error error;
    const enum checkpoint_compression compressions[2] = {CHECKPOINT_NONE, CHECKPOINT_ZSTD};
    uint8_t *packed = malloc(ROWS * COLUMNS / 2 + 1);
    pack(packed, model->layer[0].weight, ROWS * COLUMNS);
    for (int i = 0; i < 2; i++) {
        const char *output = output_path("chunks.h5");
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
        CHECK(checkpoint_open(output_path("chunks.parts/x.h5"), &checkpoint, &error));
        expect_data(checkpoint, "/w", CHECKPOINT_INT4, model->layer[0].weight,
                    sizeof model->layer[0].weight);
        checkpoint_close(checkpoint);
    }
    free(packed);
}

static void test_misuse_is_refused(void **state) {
    (void)state;
    struct error error;
    const char *output = output_path("misuse.h5");
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
    assert_int_equal(rmdir(output_path("misuse.parts")), 0); /* nothing is left in it */
    assert_int_equal(
        checkpoint_part_create(output_path("no/folder.h5"), "x", CHECKPOINT_NONE, &part, &error),
        STATUS_FAILED);
    assert_null(part);
}

/* Several kinds of dataset, until one cannot be written. */
static enum status write_until_full(const char *output, struct error *error) {
    const struct layer *layer = &model->layer[0];
    struct checkpoint_part *part;
    enum status status = checkpoint_part_create(output, "x", CHECKPOINT_ZSTD, &part, error);
    if (status != STATUS_OK)
        return status;
    for (int i = 0; i < 40 && status == STATUS_OK; i++) {
        char path[50];
        snprintf(path, sizeof path, "/group%d/small", i);
        status = checkpoint_part_write(part, path, CHECKPOINT_F32, 1, (const int64_t[]){COLUMNS},
                                       layer->absmax, error);
        snprintf(path, sizeof path, "/group%d/chunked", i);
        if (status == STATUS_OK)
            status = checkpoint_part_write(part, path, CHECKPOINT_INT4, 2,
                                           (const int64_t[]){ROWS, 4}, layer->zero_point, error);
        if (status == STATUS_OK)
            status = checkpoint_part_attribute_text(part, path, "kind", "zero points", error);
    }
    if (status == STATUS_OK)
        return checkpoint_part_finish(part, error);
    checkpoint_part_abandon(part);
    return status;
}

/* A limit on the size of files stands for the full disk: at any place of the file the message names
 * the reason, nothing is left, and the program ends as it should. */
static void test_full_disk(void **state) {
    (void)state;
    struct error error;
    const char *output = output_path("full.h5"), *part = output_path("full.parts/x.h5");
    const char *parts = output_path("full.parts");
    CHECK(write_until_full(output, &error));
    struct stat whole;
    assert_int_equal(stat(part, &whole), 0);
    assert_int_equal(unlink(part), 0);
    for (int i = 0; i < 50; i++) {
        const rlim_t bytes = (rlim_t)whole.st_size * (rlim_t)i / 50;
        const pid_t child = fork();
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(const struct rlimit){bytes, bytes});
            const enum status status = write_until_full(output, &error);
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
    (void)state;
    struct error error;
    const char *output = output_path("overlap.h5");
    const char *const names[2] = {"x", "y"};
    const int64_t two = 2;
    assert_int_equal(mkdir(output_path("overlap.parts"), 0777), 0);
    write_file(output_path("overlap.parts/x.h5.tmp"), "stale", 5);
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
    assert_int_not_equal(access(output_path("overlap.h5.tmp"), F_OK), 0);
    CHECK(checkpoint_assemble(output, names, 1, CHECKPOINT_SINGLE, NULL, &error));
    expect_faults(output, "");
}

/* The one place of a byte string in a file. */
static size_t find_bytes(const unsigned char *data, size_t bytes, const void *needle,
                         size_t length) {
    const unsigned char *found = memmem(data, bytes, needle, length);
    assert_non_null(found);
    return (size_t)(found - data);
}

static void test_verify_finds_damage(void **state) {
    (void)state;
    struct error error;
    const char *output = write_checkpoint("damage.h5", CHECKPOINT_SINGLE, CHECKPOINT_NONE);
    uint8_t packed[64];
    pack(packed, model->layer[1].weight, 128);
    size_t bytes;
    unsigned char *data = read_file(output, &bytes);
    data[find_bytes(data, bytes, packed, sizeof packed) + 40] ^= 1;
    write_file(output, data, bytes);
    free(data);
    expect_faults(output, "/model/layers/1/self_attn/q_proj/weight: differs from its checksum\n");

    const hid_t file = H5Fopen(output, H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t group = H5Gopen2(file, "/model/layers/2/self_attn/q_proj", H5P_DEFAULT);
    assert_true(H5Ldelete(group, "weight_scale", H5P_DEFAULT) >= 0);
    assert_true(H5Adelete(group, "group_size") >= 0);
    assert_true(H5Lmove(group, "extra", group, "other", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_hard(file, "/model", group, "cycle", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_soft("/nowhere", group, "soft", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    H5Gclose(group);
    H5Fclose(file);
    expect_faults(output,
                  "/model/layers/1/self_attn/q_proj/weight: differs from its checksum\n"
                  "/model/layers/2/self_attn/q_proj: its attributes differ from their checksum\n"
                  "/model/layers/2/self_attn/q_proj/cycle: not in the manifest\n"
                  "/model/layers/2/self_attn/q_proj/other: not in the manifest\n"
                  "/model/layers/2/self_attn/q_proj/soft: cannot be read: there is no object "
                  "behind its link\n"
                  "/model/layers/2/self_attn/q_proj/extra: missing\n"
                  "/model/layers/2/self_attn/q_proj/weight_scale: missing\n");

    output = write_checkpoint("lost.h5", CHECKPOINT_SHARDED, CHECKPOINT_ZSTD);
    assert_int_equal(unlink(output_path("lost.parts/layer-00001.h5")), 0);
    struct faults faults = {0, ""};
    int64_t checked, bad;
    CHECK(checkpoint_verify(output, note_fault, &faults, &checked, &bad, &error));
    assert_int_equal(bad, 1 + 8); /* the link, and each line behind it */
}

static void test_verify_refuses_other_files(void **state) {
    (void)state;
    struct error error;
    int64_t checked, bad;
    const char *path = output_path("other.h5");
    assert_int_equal(checkpoint_verify(path, NULL, NULL, &checked, &bad, &error), STATUS_INPUT);
    write_file(path, "plain text", 10);
    assert_int_equal(checkpoint_verify(path, NULL, NULL, &checked, &bad, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "not an HDF5 file"));
    const hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    assert_int_equal(checkpoint_verify(path, NULL, NULL, &checked, &bad, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "/manifest"));

    size_t bytes;
    void *data =
        read_file(write_checkpoint("whole.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD), &bytes);
    for (size_t kept = 0; kept < bytes; kept += bytes / 17) {
        write_file(path, data, kept);
        assert_int_equal(checkpoint_verify(path, NULL, NULL, &checked, &bad, &error), STATUS_INPUT);
    }
    free(data);
}

/* Bits flipped anywhere, in HDF5's own structures too, where HDF5 may crash: verify says what it
 * finds and comes back. Some flips hit what nobody reads. */
static void test_verify_survives_flipped_bits(void **state) {
    (void)state;
    struct error error;
    const char *output = output_path("flipped.h5"), *path = output_path("flipped.parts/x.h5");
    CHECK(write_until_full(output, &error));
    size_t bytes;
    unsigned char *data = read_file(path, &bytes);
    uint64_t random;
    memcpy(&random, model->embedding, sizeof random); /* follows from the seed */
    random |= 1;
    int noticed = 0;
    for (int i = 0; i < 40; i++) {
        size_t places[8];
        for (int j = 0; j < 8; j++) {
            places[j] = next_random(&random) % bytes;
            data[places[j]] ^= (unsigned char)(1 << j);
        }
        write_file(path, data, bytes);
        struct faults faults = {0, ""};
        int64_t checked, bad;
        const enum status status =
            checkpoint_verify(path, note_fault, &faults, &checked, &bad, &error);
        assert_true(status == STATUS_OK || status == STATUS_INPUT);
        assert_int_equal(faults.count, bad);
        noticed += status == STATUS_INPUT || bad > 0;
        for (int j = 0; j < 8; j++)
            data[places[j]] ^= (unsigned char)(1 << j);
    }
    free(data);
    assert_in_range(noticed, 10, 40);
}

/* A dataset of that many rows of `type`, none of which is written. */
static void make_hollow(hid_t file, const char *path, hid_t type, hsize_t rows,
                        hsize_t chunk_rows) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (chunk_rows > 0)
        assert_true(H5Pset_chunk(creation, 1, &chunk_rows) >= 0);
    const hid_t space = H5Screate_simple(1, &rows, NULL);
    H5Ldelete(file, path, H5P_DEFAULT);
    const hid_t dataset = H5Dcreate2(file, path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    assert_true(dataset >= 0);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(creation);
}

/* Sizes that the file has no bytes for are refused before anybody takes memory for them. */
static void test_hollow_sizes_are_refused(void **state) {
    (void)state;
    struct error error;
    struct checkpoint *checkpoint;
    struct checkpoint_dataset dataset;
    const hsize_t rows = (hsize_t)1 << 40;
    const char *output = write_checkpoint("hollow.h5", CHECKPOINT_SINGLE, CHECKPOINT_NONE);
    hid_t file = H5Fopen(output, H5F_ACC_RDWR, H5P_DEFAULT);
    make_hollow(file, "/contiguous", H5T_IEEE_F32LE, rows, 0);
    make_hollow(file, "/chunked", H5T_IEEE_F32LE, rows, 1 << 18);
    H5Fclose(file);
    CHECK(checkpoint_open(output, &checkpoint, &error));
    assert_int_equal(checkpoint_describe(checkpoint, "/contiguous", &dataset, &error),
                     STATUS_INPUT);
    assert_non_null(strstr(error.message, "its data is missing"));
    assert_int_equal(checkpoint_describe(checkpoint, "/chunked", &dataset, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "some of its chunks are missing"));
    checkpoint_close(checkpoint);

    file = H5Fopen(output, H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t line = H5Tcopy(H5T_C_S1);
    H5Tset_size(line, 100);
    H5Tset_cset(line, H5T_CSET_UTF8);
    make_hollow(file, "/manifest", line, rows, 0);
    H5Tclose(line);
    H5Fclose(file);
    assert_int_equal(checkpoint_open(output, &checkpoint, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "/manifest is damaged: its data is missing"));
}

/* HDF5 reads as many bytes of a chunk as the file says, whatever the dataset's shape: such a chunk
 * is refused before it is read. */
static void test_chunks_of_another_size_are_refused(void **state) {
    (void)state;
    struct error error;
    struct checkpoint *checkpoint;
    const hsize_t rows = 4, chunk_rows = 4, offset = 0;
    static const unsigned char bytes[50000];
    float values[4];
    const char *output = write_checkpoint("chunks.h5", CHECKPOINT_SINGLE, CHECKPOINT_NONE);
    const hid_t file = H5Fopen(output, H5F_ACC_RDWR, H5P_DEFAULT);
    make_hollow(file, "/large", H5T_IEEE_F32LE, rows, chunk_rows);
    make_hollow(file, "/small", H5T_IEEE_F32LE, rows, chunk_rows);
    const hid_t large = H5Dopen2(file, "/large", H5P_DEFAULT);
    const hid_t small = H5Dopen2(file, "/small", H5P_DEFAULT);
    assert_true(H5Dwrite_chunk(large, H5P_DEFAULT, 0, &offset, sizeof bytes, bytes) >= 0);
    assert_true(H5Dwrite_chunk(small, H5P_DEFAULT, 0, &offset, 15, bytes) >= 0);
    H5Dclose(large);
    H5Dclose(small);
    H5Fclose(file);
    CHECK(checkpoint_open(output, &checkpoint, &error));
    assert_int_equal(checkpoint_read(checkpoint, "/large", values, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "the chunk at row 0 is damaged"));
    assert_int_equal(checkpoint_read(checkpoint, "/small", values, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "the chunk at row 0 is damaged"));
    checkpoint_close(checkpoint);
}

static void ignore_signal(int number) {
    (void)number;
}

/* Signals that interrupt verify's waiting change nothing. */
static void test_verify_goes_on_after_signals(void **state) {
    (void)state;
    struct error error;
    const char *output = write_checkpoint("signals.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD);
    const struct sigaction action = {.sa_handler = ignore_signal};
    struct sigaction before;
    struct itimerval each_millisecond = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &each_millisecond, NULL);
    for (int i = 0; i < 5; i++) {
        int64_t checked, bad;
        assert_int_equal(checkpoint_verify(output, NULL, NULL, &checked, &bad, &error), STATUS_OK);
        assert_true(checked > 0 && bad == 0);
    }
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &before, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts_and_compressions),
        cmocka_unit_test(test_bytes_repeat),
        cmocka_unit_test(test_compressed_chunks),
        cmocka_unit_test(test_misuse_is_refused),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_stale_and_overlapping_parts),
        cmocka_unit_test(test_verify_finds_damage),
        cmocka_unit_test(test_verify_refuses_other_files),
        cmocka_unit_test(test_hollow_sizes_are_refused),
        cmocka_unit_test(test_chunks_of_another_size_are_refused),
        cmocka_unit_test(test_verify_goes_on_after_signals),
        cmocka_unit_test(test_verify_survives_flipped_bits),
    };
    return cmocka_run_group_tests(tests, make_model, free_model);
}
