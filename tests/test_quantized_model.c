/* What a checkpoint says of a linear that no checkpoint of ours can say is refused.
 *
 *   test_quantized_model MODEL
 *
 * MODEL: tool_make_model's default (hidden 24, 6 heads of 8). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/checkpoint.h"
#include "pipeline/quantized_model.h"
#include "pipeline/stored.h"

enum { ROWS = 48, COLUMNS = 24 };

static struct model model;
static char folder[] = "/tmp/fptq-test-XXXXXX";

struct said {
    int64_t bits, group_size, symmetric, groups;
    const char *policy;
};

/* A checkpoint with the first linear of layer 0; its path. */
static const char *write_checkpoint(const struct said *said) {
    static char output[100], part_file[100];
    static const char zeros[ROWS * COLUMNS];
    static const struct {
        const char *name;
        size_t offset;
    } integers[] = {{"weight_bits", offsetof(struct said, bits)},
                    {"group_size", offsetof(struct said, group_size)},
                    {"symmetric", offsetof(struct said, symmetric)},
                    {"folded", offsetof(struct said, symmetric)}};
    struct checkpoint_part *part;
    struct error error;
    char group[200], path[220];
    stored_path(&model, 0, model.architecture->linears[0].name, "", group);
    snprintf(output, sizeof output, "%s/c.h5", folder);
    snprintf(part_file, sizeof part_file, "%s/c.parts/p.h5", folder);
    assert_int_equal(checkpoint_part_create(output, "p", CHECKPOINT_NONE, &part, &error), 0);
    assert_int_equal(checkpoint_part_attribute_text(part, "/", "method", "fptq", &error), 0);
    assert_int_equal(checkpoint_part_attribute_text(part, "/", "model_type", "llama", &error), 0);
    snprintf(path, sizeof path, "%s/weight", group);
    assert_int_equal(checkpoint_part_write(part, path,
                                           said->bits == 8 ? CHECKPOINT_INT8 : CHECKPOINT_INT4, 2,
                                           (const int64_t[]){ROWS, COLUMNS}, zeros, &error),
                     0);
    snprintf(path, sizeof path, "%s/weight_scale", group);
    assert_int_equal(checkpoint_part_write(part, path, CHECKPOINT_F16, 2,
                                           (const int64_t[]){ROWS, said->groups}, zeros, &error),
                     0);
    assert_int_equal(
        checkpoint_part_attribute_text(part, group, "input_policy", said->policy, &error), 0);
    for (int i = 0; i < 4; i++) {
        int64_t value;
        memcpy(&value, (const char *)said + integers[i].offset, sizeof value);
        assert_int_equal(
            checkpoint_part_attribute_integer(part, group, integers[i].name, value, &error), 0);
    }
    assert_int_equal(checkpoint_part_finish(part, &error), 0);
    return part_file;
}

/* `words` are in the message; NULL: it is accepted. */
static void check(const struct said *said, const char *words) {
    struct quantized_model quantized;
    struct quantized_linear_kind kind;
    struct error error = {0};
    assert_int_equal(quantized_model_open(write_checkpoint(said), &model, &quantized, &error), 0);
    const enum status status =
        quantized_model_linear(&quantized, 0, &model.architecture->linears[0], &kind, &error);
    if (words ? status != STATUS_INPUT || !strstr(error.message, words) : status != STATUS_OK)
        fail_msg("status %d, \"%s\", expected \"%s\"", (int)status, error.message,
                 words ? words : "nothing");
    if (!status)
        assert_int_equal(kind.group_size, said->group_size);
    quantized_model_close(&quantized);
}

static void test_linears(void **state) {
    (void)state;
    check(&(struct said){4, 8, 0, 3, "static"}, NULL);
    check(&(struct said){4, 65536, 1, 1, "none"}, NULL);
    check(&(struct said){8, 0, 1, 1, "dynamic"}, NULL);
    check(&(struct said){8, 0, 0, 1, "dynamic"}, "weight_bits is 8");
    check(&(struct said){8, 8, 1, 3, "dynamic"}, "weight_bits is 8");
    check(&(struct said){5, 8, 1, 3, "dynamic"}, "weight_bits is 5");
    check(&(struct said){4, -1, 1, 3, "dynamic"}, "group_size is -1");
    check(&(struct said){4, INT64_MAX, 1, 1, "dynamic"}, "group_size is 9223372036854775807");
    check(&(struct said){4, 8, 1, 2, "dynamic"}, "weight_scale is [48, 2]");
    check(&(struct said){4, 8, 1, 3, "often"}, "no input_policy \"often\"");
}

int main(int argc, char **argv) {
    struct error error;
    if (argc != 2 || model_open(argv[1], &model, &error) || !mkdtemp(folder)) {
        fprintf(stderr, "usage: test_quantized_model MODEL\n");
        return 2;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linears)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char path[100];
    snprintf(path, sizeof path, "%s/c.parts/p.h5", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/c.parts", folder);
    rmdir(path);
    rmdir(folder);
    model_close(&model);
    return failed;
}
