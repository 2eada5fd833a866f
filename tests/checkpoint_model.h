/* For tests of checkpoints: random parts of a model, written with every kind of dataset. */
#ifndef FPTQ_TESTS_CHECKPOINT_MODEL_H
#define FPTQ_TESTS_CHECKPOINT_MODEL_H

#include "io/checkpoint.h"
#include "io/checkpoint_read.h"

enum { LAYERS = 3, PARTS = LAYERS + 2, ROWS = 2500, COLUMNS = 501, VOCABULARY = 3001, WIDTH = 183 };

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
    char folder[40]; /* where its checkpoints are */
};

/* cmocka's set-up and end of a group: *state is a new model (the seed is printed) with a folder of
 * its own, removed at the end. */
int model_create(void **state);
int model_destroy(void **state);

uint64_t model_next_random(uint64_t *state);
/* The test fails with the error's message unless `status` is STATUS_OK. */
void model_check(enum status status, const struct error *error);
#define CHECK(call) model_check(call, &error)

/* 4-bit integers as a checkpoint's chunks hold them. packed: (count + 1) / 2 bytes. */
void model_pack(uint8_t *packed, const int8_t *values, size_t count);
/* FOLDER/name; one of eight buffers. */
char *model_path(const struct model *model, const char *name);
/* Writes the whole model to FOLDER/name; its path. */
const char *model_write(const struct model *model, const char *name, enum checkpoint_layout layout,
                        enum checkpoint_compression compression);
/* One part, x, of several kinds of dataset, until one cannot be written. */
enum status model_write_until_full(const struct model *model, const char *output,
                                   struct error *error);

/* A whole file; the caller frees it. */
void *model_read_file(const char *path, size_t *bytes);
void model_write_file(const char *path, const void *data, size_t bytes);

/* What checkpoint_verify() names, a line each. */
struct faults {
    int count;
    char text[4000];
};
/* For checkpoint_verify(); context: struct faults. */
void model_note_fault(void *context, const char *dataset, const char *what);
/* Verifies and compares the faults with `text`. */
void model_expect_faults(const char *path, const char *text);

#endif
