/* A checkpoint of a small model, as `eval` reads it, that is written by the library itself: so its
 * structure and sums are right, and what it says is the input's. It is opened, compared with the
 * model, loaded, and its linears are computed.
 *
 * Numbers are single bytes, taken from the front; an input that has ended gives zeros, of which all
 * make a checkpoint that is right. */
#include <string.h>

#include "kernels/path.h"
#include "pipeline/quantized_model.h"
#include "pipeline/stage.h"
#include "pipeline/stored.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/small_model.h"

enum { TOKENS = 3, MOST = 256 };

struct writer {
    const uint8_t *data;
    size_t left;
    const struct model *model;
    struct checkpoint_part *part;
};

static unsigned take(struct writer *writer) {
    if (writer->left == 0)
        return 0;
    writer->left--;
    return *writer->data++;
}

/* The name has "GROUP/NAME"; the rank is 2 unless rows or columns are 0. `wrong`: bit 0 another
 * type, 1 one more row, 2 left out. */
static void write_dataset(struct writer *writer, const char *group, const char *name,
                          enum checkpoint_type type, int64_t rows, int64_t columns,
                          unsigned wrong) {
    static const enum checkpoint_type others[] = {CHECKPOINT_INT8, CHECKPOINT_F16, CHECKPOINT_F32,
                                                  CHECKPOINT_INT4, CHECKPOINT_BF16};
    char path[300];
    struct error error;
    unsigned char bytes[MOST * 4] = {0};
    if (wrong & 4)
        return;
    type = wrong & 1 ? others[wrong / 8 % 5] : type;
    rows += wrong & 2 ? 1 : 0;
    const int rank = rows && columns ? 2 : rows || columns ? 1 : 0;
    const int64_t dimensions[2] = {rows ? rows : columns, columns};
    fuzz_require(dimensions[0] * (rank == 2 ? columns : 1) <= MOST, "a small dataset");
    for (size_t i = 0; i < sizeof bytes && writer->left; i++)
        bytes[i] = (unsigned char)take(writer);
    for (size_t i = 0; type == CHECKPOINT_INT4 && i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(bytes[i] % 16 - 8);
    snprintf(path, sizeof path, "%s/%s", group, name);
    checkpoint_part_write(writer->part, path, type, rank, dimensions, bytes, &error);
}

/* What linears that read one site have in common. */
struct site_choice {
    const char *policy;
    bool equalized, folded, input_scale;
};

static struct site_choice choose_site(struct writer *writer) {
    static const char *const policies[] = {"static", "equalized", "dynamic", "equalized-dynamic",
                                           "none",   "other"};
    const unsigned policy = take(writer) % 6, flags = take(writer);
    return (struct site_choice){.policy = policies[policy],
                                .equalized = policy % 2 == 1 || flags & 1,
                                .folded = flags & 2,
                                .input_scale = policy < 2 && !(flags & 4)};
}

static void write_linear(struct writer *writer, const struct linear_rule *rule,
                         const struct site_choice *site) {
    static const int64_t sizes[] = {4, 0, 1, 2, 3, 5, 8, 10, 16, 128, 256, -1, INT64_MAX, 1L << 32};
    const struct model_shape *shape = &writer->model->shape;
    const int64_t rows = model_dimension(shape, rule->out);
    const int64_t columns = model_dimension(shape, rule->in);
    const int64_t group_size = sizes[take(writer) % (sizeof sizes / sizeof sizes[0])];
    const bool sensible = group_size >= 0 && group_size <= 1 << 16;
    const int64_t groups = sensible ? w4a8_group_count(columns, group_size) : 1;
    const unsigned flags = take(writer), wrong = take(writer);
    const int64_t bits = flags & 1 ? 8 : 4;
    const bool symmetric = flags & 2, scales_wrong = wrong & 64, biased = flags & 4;
    char group[200];
    struct error error;
    stored_path(writer->model, 0, rule->name, "", group);
    write_dataset(writer, group, "weight", bits == 8 ? CHECKPOINT_INT8 : CHECKPOINT_INT4, rows,
                  columns, wrong & 128 ? wrong : 0);
    write_dataset(writer, group, "weight_scale", flags & 8 ? CHECKPOINT_F32 : CHECKPOINT_F16, rows,
                  groups, scales_wrong ? wrong : 0);
    if (!symmetric || flags & 16)
        write_dataset(writer, group, "weight_zero_point", CHECKPOINT_INT4, rows, groups,
                      wrong & 32 ? wrong : 0);
    if (biased)
        write_dataset(writer, group, "bias", CHECKPOINT_BF16, rows, 0, wrong & 32 ? wrong : 0);
    if (site->equalized)
        write_dataset(writer, group, "equalization", CHECKPOINT_F32, columns, 0, 0);
    if (site->input_scale)
        write_dataset(writer, group, "input_scale", CHECKPOINT_F32, 0, 0, 0);
    checkpoint_part_attribute_text(writer->part, group, "input_policy", site->policy, &error);
    checkpoint_part_attribute_integer(writer->part, group, "weight_bits", flags & 32 ? 5 : bits,
                                      &error);
    checkpoint_part_attribute_integer(writer->part, group, "group_size", group_size, &error);
    checkpoint_part_attribute_integer(writer->part, group, "symmetric", symmetric, &error);
    checkpoint_part_attribute_integer(writer->part, group, "folded", site->folded, &error);
}

static void write_vectors(struct writer *writer) {
    const struct architecture *architecture = writer->model->architecture;
    const struct model_shape *shape = &writer->model->shape;
    char group[200];
    for (int i = 0; i < NORM_COUNT; i++) {
        stored_path(writer->model, 0, architecture->norms[i].name, "", group);
        write_dataset(writer, group, "weight", CHECKPOINT_BF16, shape->hidden, 0, take(writer));
    }
    stored_path(writer->model, STORED_OUTSIDE, architecture->embedding, "", group);
    write_dataset(writer, group, "weight", CHECKPOINT_BF16, shape->vocabulary, shape->hidden,
                  take(writer));
}

/* FOLDER/q.parts/q.h5, which is a checkpoint itself. */
static void write_checkpoint(struct writer *writer) {
    const struct architecture *architecture = writer->model->architecture;
    struct site_choice sites[SITE_COUNT];
    struct error error;
    fuzz_require(checkpoint_part_create(fuzz_path("q.h5"), "q", CHECKPOINT_NONE, &writer->part,
                                        &error) == STATUS_OK,
                 "a part");
    checkpoint_part_attribute_text(writer->part, "/", "method", "fptq", &error);
    checkpoint_part_attribute_text(writer->part, "/", "model_type",
                                   take(writer) % 16 == 1 ? "bloom" : "llama", &error);
    for (int i = 0; i < SITE_COUNT; i++)
        sites[i] = choose_site(writer);
    for (int i = 0; i < architecture->linear_count; i++) {
        const struct linear_rule *rule = &architecture->linears[i];
        const struct site_choice other = choose_site(writer);
        write_linear(writer, rule, take(writer) % 16 == 1 ? &other : &sites[rule->reads]);
    }
    write_vectors(writer);
    if (checkpoint_part_finish(writer->part, &error) != STATUS_OK)
        fuzz_require(0, error.message);
}

static void compute(const struct quantized_model *quantized, enum kernel_path path,
                    enum run_precision precision) {
    const struct model *model = quantized->model;
    static struct team *team;
    struct stage stage;
    struct error error;
    if (!team)
        team = team_create(1, stage_scratch_bytes(model, TOKENS, TOKENS));
    const struct compute means = {path, team};
    if (stage_load(model, quantized, &means, 0, 1, TOKENS, TOKENS, precision, &stage, &error))
        return;
    for (int site = 0; site < SITE_COUNT; site++) {
        float x[TOKENS * 10];
        for (int i = 0; i < TOKENS * 10; i++)
            x[i] = (float)(i * 7 % 11) - 4.5f;
        stage_read_site(&stage, 0, (enum site)site, x, TOKENS);
    }
    stage_free(&stage);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct writer writer = {data, size, fuzz_small_model(), NULL};
    struct quantized_model quantized;
    struct error error;
    const enum kernel_path best = kernel_path_best();
    const enum kernel_path path = (enum kernel_path)(take(&writer) % ((unsigned)best + 1));
    const enum run_precision precision = take(&writer) & 1 ? PRECISION_F32 : PRECISION_AUTO;
    write_checkpoint(&writer);
    const char *file = fuzz_path("q.parts/q.h5");
    fuzz_memory_begin();
    if (quantized_model_open(file, writer.model, &quantized, &error) == STATUS_OK) {
        quantized_model_layer_bytes(&quantized, path, precision);
        if (quantized_model_check(&quantized, &error) == STATUS_OK)
            compute(&quantized, path, precision);
        quantized_model_close(&quantized);
    }
    fuzz_memory_end(32 << 20); /* HDF5's caches */
    return 0;
}
