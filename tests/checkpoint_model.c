#include "tests/checkpoint_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

static const char *const part_names[PARTS] = {"embedding", "layer-00000", "layer-00001",
                                              "layer-00002", "run"};

uint64_t model_next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void random_bytes(uint64_t *state, void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)data)[i] = (unsigned char)(model_next_random(state) >> 30);
}

/* Clustered around zero, as quantized weights are, so that zstd has something to do. */
static void random_int4(uint64_t *state, int8_t *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const uint64_t r = model_next_random(state) >> 20;
        values[i] = (int8_t)((int)(r & 7) + (int)(r >> 3 & 7) - 7 - (int)(r >> 6 & 1));
    }
}

int model_create(void **state) {
    uint64_t random = (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u | 1;
    const char *given = getenv("FPTQ_TEST_SEED");
    if (given)
        random = strtoull(given, NULL, 0);
    print_message("seed 0x%llx\n", (unsigned long long)random);
    struct model *model = calloc(1, sizeof *model);
    for (int i = 0; i < LAYERS; i++) {
        struct layer *layer = &model->layer[i];
        random_int4(&random, layer->weight, ROWS * COLUMNS);
        random_int4(&random, layer->zero_point, ROWS * 4);
        random_bytes(&random, layer->scale, sizeof layer->scale);
        random_bytes(&random, layer->norm, sizeof layer->norm);
        random_bytes(&random, layer->extra, sizeof layer->extra);
        for (int j = 0; j < COLUMNS; j++)
            layer->absmax[j] = (float)(model_next_random(&random) >> 40) / 65536.0f;
        layer->input_scale = (float)(model_next_random(&random) >> 40) / 3e5f;
        layer->range = (float)(model_next_random(&random) >> 40) / 7e5f;
    }
    random_bytes(&random, model->embedding, sizeof model->embedding);
    snprintf(model->config, sizeof model->config, "{\"seed\": %llu}", (unsigned long long)random);
    *state = model;
    strcpy(model->folder, "/tmp/test_checkpoint_XXXXXX");
    return mkdtemp(model->folder) ? 0 : -1;
}

int model_destroy(void **state) {
    struct model *model = *state;
    char command[200];
    snprintf(command, sizeof command, "rm -r %s", model->folder);
    free(model);
    return system(command);
}

void model_check(enum status status, const struct error *error) {
    if (status != STATUS_OK)
        fail_msg("%s", error->message);
}

void model_pack(uint8_t *packed, const int8_t *values, size_t count) {
    memset(packed, 0, (count + 1) / 2);
    for (size_t i = 0; i < count; i++)
        packed[i / 2] = (uint8_t)(packed[i / 2] | (values[i] & 15) << (i % 2 ? 0 : 4));
}

static void write_layer(const struct model *model, struct checkpoint_part *part, int number) {
    struct error error;
    const struct layer *layer = &model->layer[number];
    char path[200];
    const char *const linear = "/model/layers/%d/self_attn/q_proj%s";
    uint8_t *packed = malloc(ROWS * COLUMNS / 2 + 1);
    model_pack(packed, layer->weight, ROWS * COLUMNS);
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

static void write_embedding(const struct model *model, struct checkpoint_part *part) {
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

static void write_parts(const struct model *model, const char *output,
                        enum checkpoint_compression compression) {
    struct error error;
    for (int i = 0; i < PARTS; i++) {
        struct checkpoint_part *part;
        CHECK(checkpoint_part_create(output, part_names[i], compression, &part, &error));
        if (i == 0)
            write_embedding(model, part);
        else if (i == PARTS - 1)
            write_run(part);
        else
            write_layer(model, part, i - 1);
        assert_false(checkpoint_part_exists(output, part_names[i]));
        CHECK(checkpoint_part_finish(part, &error));
        assert_true(checkpoint_part_exists(output, part_names[i]));
    }
}

char *model_path(const struct model *model, const char *name) {
    static char path[8][200];
    static int next;
    next = (next + 1) % 8;
    snprintf(path[next], sizeof path[next], "%s/%s", model->folder, name);
    return path[next];
}

const char *model_write(const struct model *model, const char *name, enum checkpoint_layout layout,
                        enum checkpoint_compression compression) {
    struct error error;
    const char *output = model_path(model, name);
    write_parts(model, output, compression);
    CHECK(checkpoint_assemble(output, part_names, PARTS, layout, NULL, &error));
    return output;
}

enum status model_write_until_full(const struct model *model, const char *output,
                                   struct error *error) {
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

void *model_read_file(const char *path, size_t *bytes) {
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

void model_write_file(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

void model_note_fault(void *context, const char *dataset, const char *what) {
    struct faults *faults = context;
    faults->count++;
    const size_t used = strlen(faults->text);
    snprintf(faults->text + used, sizeof faults->text - used, "%s: %s\n", dataset, what);
}

void model_expect_faults(const char *path, const char *text) {
    struct error error;
    struct faults faults = {0, ""};
    int64_t checked, bad;
    CHECK(checkpoint_verify(path, model_note_fault, &faults, &checked, &bad, &error));
    assert_string_equal(faults.text, text);
    assert_int_equal(faults.count, bad);
    assert_in_range(checked, 1, 100);
}
