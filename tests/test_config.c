/* The configuration: what is read, what is refused and with which words, and the texts it writes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "pipeline/config.h"

#define LEAST                                                                                      \
    "[model]\npath = \"m\"\n[calibration]\ndata = [\"a.jsonl\"]\n[output]\ncheckpoint = "          \
    "\"o.h5\"\n"

static enum status parse(struct config *config, const char *text, const char *override,
                         struct error *error) {
    memset(error, 0, sizeof *error);
    return config_parse(config, text, strlen(text), "dir/run.toml", &override, override ? 1 : 0,
                        error);
}

/* `text` is refused, and the message has `words` in it. */
static void refused(const char *text, const char *override, const char *words) {
    struct config config;
    struct error error;
    const enum status status = parse(&config, text, override, &error);
    assert_int_equal(status, override ? STATUS_USAGE : STATUS_INPUT);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, words))
        fail_msg("\"%s\" is not in \"%s\"", words, error.message);
    assert_null(config.model.path);
    assert_null(config.calibration.data);
}

static void test_defaults(void **state) {
    (void)state;
    struct config config;
    struct error error;
    assert_int_equal(parse(&config, LEAST, NULL, &error), STATUS_OK);
    assert_string_equal(config.model.path, "dir/m");
    assert_string_equal(config.model.written, "m");
    assert_int_equal(config.calibration.data_count, 1);
    assert_string_equal(config.calibration.data[0], "dir/a.jsonl");
    assert_false(config.calibration.random_tokens);
    assert_int_equal(config.calibration.samples, 128);
    assert_int_equal(config.calibration.sequence_length, 2048);
    assert_int_equal(config.calibration.chunk_tokens, 256);
    assert_int_equal(config.calibration.seed, 0);
    assert_int_equal(config.quantization.method, METHOD_FPTQ);
    assert_int_equal(config.quantization.group_size, 128);
    assert_false(config.quantization.symmetric);
    assert_int_equal(config.quantization.range, QUANTIZE_AMAX_7_5);
    assert_int_equal(config.quantization.scale_type, NUMBER_F16);
    assert_true(config.quantization.v0 == 15.0f && config.quantization.v1 == 150.0f);
    assert_int_equal(config.quantization.equalization, EQUALIZE_LOG2);
    assert_true(config.quantization.c == 1.0f);
    assert_string_equal(config.output.checkpoint, "o.h5");
    assert_int_equal(config.output.layout, CHECKPOINT_SINGLE);
    assert_int_equal(config.output.compression, CHECKPOINT_NONE);
    assert_string_equal(config.run.isa, "");
    assert_int_equal(config.run.threads + config.run.stages + config.run.replicas, 0);
    config_free(&config);
}

static void test_values(void **state) {
    (void)state;
    static const char text[] =
        "calibration.data = [\"/abs/*.zst\", \"rel.txt\"]\n"
        "[model]\npath = \"/m\"\n[output]\ncheckpoint = \"o.h5\"\nlayout = \"sharded\"\n"
        "compression = \"zstd\"\n"
        "[quantization]\nmethod = \"rtn\"\ngroup_size = 0\nsymmetric = true\nrange = \"amax/7\"\n"
        "scale_type = \"f32\"\nv0 = 1\nv1 = inf\nequalization = \"log1p\"\nc = 0.5\n"
        "[run]\nthreads = 3\nmemory_limit = \"6GiB\"\ntime_limit = \"2h\"\nisa = \"avx2\"\n"
        "precision = \"f32\"\n";
    struct config config;
    struct error error;
    assert_int_equal(parse(&config, text, NULL, &error), STATUS_OK);
    assert_string_equal(config.model.path, "/m");
    assert_int_equal(config.calibration.data_count, 2);
    assert_string_equal(config.calibration.data[0], "/abs/*.zst");
    assert_string_equal(config.calibration.data[1], "dir/rel.txt");
    assert_int_equal(config.output.layout, CHECKPOINT_SHARDED);
    assert_int_equal(config.output.compression, CHECKPOINT_ZSTD);
    const struct quantize_format format = config_weight_format(&config);
    assert_int_equal(format.group_size, 0);
    assert_true(format.symmetric);
    assert_int_equal(format.range, QUANTIZE_AMAX_7);
    assert_int_equal(format.scale_type, NUMBER_F32);
    assert_true(config.quantization.v0 == 1.0f && config.quantization.v1 > 1e38f);
    assert_int_equal(config.quantization.equalization, EQUALIZE_LOG1P);
    assert_int_equal(config.run.threads, 3);
    assert_int_equal(config.run.memory_limit, INT64_C(6) << 30);
    assert_int_equal(config.run.time_limit, 7200);
    assert_int_equal(config.run.stall_limit, 3600);
    assert_string_equal(config.run.isa, "avx2");
    assert_int_equal(config.run.precision, PRECISION_F32);
    config_free(&config);
}

static void test_overrides(void **state) {
    (void)state;
    static const char *const overrides[] = {
        "calibration.samples=7",     "calibration.samples=8",
        "model.path=other/model",    "calibration.data=[\"x.txt\", \"y.txt\"]",
        "run.memory_limit=500MB",    "quantization.v0=2.5",
        "quantization.method=rtn",   "quantization.symmetric=true",
        "output.checkpoint=\"a b\"",
    };
    struct config config;
    struct error error;
    assert_int_equal(config_parse(&config, LEAST, strlen(LEAST), "dir/run.toml", overrides,
                                  sizeof overrides / sizeof *overrides, &error),
                     STATUS_OK);
    assert_int_equal(config.calibration.samples, 8);
    assert_string_equal(config.model.path, "other/model"); /* the working directory's */
    assert_int_equal(config.calibration.data_count, 2);
    assert_string_equal(config.calibration.data[1], "y.txt");
    assert_int_equal(config.run.memory_limit, 500000000);
    assert_true(config.quantization.v0 == 2.5f);
    assert_int_equal(config.quantization.method, METHOD_RTN);
    assert_true(config.quantization.symmetric);
    assert_string_equal(config.output.checkpoint, "a b");
    config_free(&config);
    assert_int_equal(parse(&config, LEAST, "calibration.data=random-tokens", &error), STATUS_OK);
    assert_true(config.calibration.random_tokens);
    assert_int_equal(config.calibration.data_count, 0);
    config_free(&config);
    assert_int_equal(parse(&config, LEAST "[evaluation]\npiqa = \"p\"\n", NULL, &error), STATUS_OK);
    assert_non_null(config.evaluation.sets[EVALUATION_PIQA]);
    config_free(&config);
    assert_int_equal(
        parse(&config, LEAST "[evaluation]\npiqa = \"p\"\n", "evaluation.piqa=\"\"", &error),
        STATUS_OK);
    assert_null(config.evaluation.sets[EVALUATION_PIQA]);
    config_free(&config);
}

#define RANGES                                                                                     \
    "[model]\npath = \"m\"\n[calibration]\nranges = \"old.h5\"\n[output]\ncheckpoint = \"o.h5\"\n"

/* Ranges stand in for the text, but not for what is measured on it. */
static void test_ranges(void **state) {
    (void)state;
    struct config config;
    struct error error;
    char *text;
    assert_int_equal(parse(&config, RANGES, NULL, &error), STATUS_OK);
    assert_string_equal(config.calibration.ranges, "dir/old.h5");
    assert_int_equal(config_canonical_text(&config, &text, &error), STATUS_OK);
    assert_null(strstr(text, "old.h5"));
    free(text);
    config_free(&config);
    refused(RANGES "[quantization]\nmethod = \"gptq\"", NULL, ", and GPTQ's rounding needs more");
    refused(RANGES "[quantization]\nrounding = \"gptq\"", NULL, ", and GPTQ's rounding needs more");
    refused(RANGES "[quantization]\npolicy = \"error\"", NULL,
            ", and policy = \"error\" needs more");
    refused(RANGES "[quantization]\nrotation = \"hadamard\"", NULL, ", and rotation needs more");
    refused(RANGES "[quantization]\nclip = \"output\"", NULL, ", and clip = \"output\" needs more");
    refused(RANGES "[quantization]\nstatic_scale = \"least-squares\"", NULL,
            ", and static_scale = \"least-squares\" needs more");
}

static void test_refusals(void **state) {
    (void)state;
    refused("[model]\npath = \"m\"\nfoo", NULL, "dir/run.toml:3: not TOML");
    refused("[model]\npath = \"a\"\npath = \"b\"", NULL, "dir/run.toml:3: not TOML");
    refused("[model]\npath = \"a\\u0000b\"", NULL, "dir/run.toml:2: a NUL");
    refused("samples = 3\n", NULL, "dir/run.toml:1: \"samples\" stands before any [section]");
    refused(LEAST "[calibrate]\n", NULL,
            "dir/run.toml:7: there is no section [calibrate]; did you mean [calibration]?");
    refused(
        LEAST "[quantization]\ngrup_size = 3", NULL,
        "dir/run.toml:8: [quantization] has no key \"grup_size\"; did you mean \"group_size\"?");
    refused(LEAST "[run]\ngroup_size = 3", NULL,
            "dir/run.toml:8: \"group_size\" is a key of [quantization], not of [run]");
    refused(LEAST "[quantization]\ngroup_size = \"128\"", NULL,
            "dir/run.toml:8: quantization.group_size must be an integer, 0 to 65536");
    refused(LEAST "[quantization]\ngroup_size = 1.5", NULL, "must be an integer");
    refused(LEAST "[quantization]\ngroup_size = -1", NULL, "is -1, but must be an integer, 0 to");
    refused(LEAST "[quantization]\nsymmetric = 1", NULL, "must be true or false");
    refused(LEAST "[quantization]\nv0 = nan", NULL, "quantization.v0 is nan, but must be");
    refused(LEAST "[quantization]\nv0 = 1000-01-01", NULL, "must be a number from 0 on");
    refused(LEAST "[quantization]\nmethod = \"awq\"", NULL,
            "is \"awq\", but must be one of \"fptq\", \"rtn\"");
    refused(LEAST "[quantization]\nmethod = \"gptq\"\nweight_bits = 8", NULL,
            "weight_bits is 8, but GPTQ's rounding is for 4 bits");
    refused(LEAST "[quantization]\nmethod = \"smoothquant\"\npolicy = \"equalized\"", NULL,
            "quantization.policy = \"equalized\" is not for method = \"smoothquant\", which takes "
            "\"range\", \"static\", \"dynamic\"");
    refused(LEAST "[quantization]\nmethod = \"smoothquant\"\npolicy = \"error\"", NULL,
            "quantization.policy = \"error\" is not for method = \"smoothquant\"");
    refused(LEAST "[quantization]\npolicy = \"error\"\nmethod = \"rtn\"", NULL,
            "quantization.policy = \"error\" is not for method = \"rtn\"");
    refused(LEAST "[quantization]\npolicy = \"error\"\nactivation_bits = 16", NULL,
            "but activation_bits is 16");
    refused(LEAST, "calibration.sample_tokens=0", "is 0, but must be an integer, 1 to");
    refused(LEAST "[quantization]\nclip = \"mse\"\nweight_bits = 8", NULL,
            "quantization.clip = \"mse\" is for 4-bit weights");
    refused(LEAST "[quantization]\nv0 = 20.0\nv1 = 10.0", NULL,
            "v0 (20) is above quantization.v1 (10)");
    refused(LEAST "[quantization]\nweight_bits = 5", NULL,
            "dir/run.toml: quantization.weight_bits is 5, but must be 4, 8");
    refused(LEAST "[quantization]\nactivation_bits = 4", NULL,
            "dir/run.toml: quantization.activation_bits is 4, but must be 8, 16");
    refused(LEAST "[quantization]\nweight_bits = -4", NULL, "is -4, but must be an integer, 0 to");
    refused(LEAST "[quantization]\nalpha = 1.5", NULL, "is 1.5, but must be a number, 0 to 1");
    refused(LEAST "[quantization]\nmethod = \"rtn\"\npolicy = \"equalized\"", NULL,
            "quantization.policy = \"equalized\" is not for method = \"rtn\"");
    refused(LEAST "[quantization.method]\nx = 1", NULL, "quantization.method must be");
    refused(LEAST "[run]\nmemory_limit = \"6 parsecs\"", NULL,
            "dir/run.toml:8: run.memory_limit must be bytes");
    refused(LEAST "[run]\nmemory_limit = \"-1GB\"", NULL, "run.memory_limit must be bytes");
    refused(LEAST "[run]\nmemory_limit = \"99999999TiB\"", NULL, "run.memory_limit must be bytes");
    refused(LEAST "[run]\ntime_limit = \"\"", NULL, "run.time_limit must be ");
    refused(LEAST "[run]\ntime_limit = \"2 weeks\"", NULL, "run.time_limit must be seconds");
    refused("[calibration]\ndata = []", NULL, "calibration.data is an empty list");
    refused("[calibration]\ndata = [1]", NULL, "calibration.data must be a list of paths");
    refused("[calibration]\ndata = [\"a\", \"\"]", NULL, "calibration.data has an empty path");
    refused("[model]\npath = \"\"", NULL, "model.path is empty");
    refused("", NULL, "dir/run.toml: the key path of [model] is missing");
    refused("[model]\npath = \"m\"", NULL, "the key checkpoint of [output] is missing");
    refused("[model]\npath = \"m\"\n[output]\ncheckpoint = \"o\"", NULL,
            "the key data of [calibration] is missing");
    refused(LEAST, "samples=3", "--set samples=3: must look like section.key=value");
    refused(LEAST, "calibration.sampels=3", "has no key \"sampels\"; did you mean \"samples\"?");
    refused(LEAST, "calibration.samples=", "calibration.samples must be an integer");
    refused(LEAST, "calibration.samples=many", "calibration.samples must be an integer");
    refused(LEAST, "calibration.samples=1\n[x]", "calibration.samples must be an integer");
    refused(LEAST, "model.path=\"open", "model.path must be a path");
    refused(LEAST, "x.y=1", "there is no section [x]");
    refused(LEAST, "evaluation.hellaswg=x", "did you mean \"hellaswag\"?");
    refused(LEAST, "evaluation.mmlu=1", "evaluation.mmlu must be a path");
}

static void test_texts(void **state) {
    (void)state;
    struct config config, again;
    struct error error;
    static const char least[] = "[model]\npath = \"we \\\"i\\\\rd\\u0007\"\n[calibration]\ndata = "
                                "[\"a\", \"b\"]\n[output]\ncheckpoint = \"o.h5\"\n"
                                "[quantization]\nv0 = 0.1\nv1 = inf\nc = 150\n";
    assert_int_equal(parse(&config, least, NULL, &error), STATUS_OK);
    char *full, *repeated, *canonical;
    assert_int_equal(config_full_text(&config, &full, &error), STATUS_OK);
    assert_int_equal(config_canonical_text(&config, &canonical, &error), STATUS_OK);
    /* The full text is a configuration file that means the same where it stands. */
    assert_int_equal(config_parse(&again, full, strlen(full), "full.toml", NULL, 0, &error),
                     STATUS_OK);
    assert_int_equal(config_full_text(&again, &repeated, &error), STATUS_OK);
    assert_string_equal(full, repeated);
    assert_true(again.quantization.v0 == 0.1f);
    assert_non_null(strstr(full, "checkpoint = \"o.h5\""));
    assert_non_null(strstr(canonical, "path = \"we \\\"i\\\\rd\\u0007\"\n"));
    assert_non_null(strstr(canonical, "data = [\"a\", \"b\"]\n"));
    assert_non_null(strstr(canonical, "v0 = 0.1\nv1 = inf\n"));
    assert_non_null(strstr(canonical, "c = 150.0\n"));
    assert_null(strstr(canonical, "chunk_tokens"));
    assert_null(strstr(canonical, "threads"));
    assert_null(strstr(canonical, "checkpoint"));
    free(full);
    free(repeated);
    config_free(&again);

    /* Not the run's settings nor the folder it is started from change the canonical text. */
    static const char *const overrides[] = {"run.threads=5", "output.layout=sharded",
                                            "calibration.chunk_tokens=64"};
    assert_int_equal(
        config_parse(&again, least, strlen(least), "elsewhere/c.toml", overrides, 3, &error),
        STATUS_OK);
    assert_int_equal(config_canonical_text(&again, &repeated, &error), STATUS_OK);
    assert_string_equal(canonical, repeated);
    free(repeated);
    free(canonical);
    config_free(&again);
    config_free(&config);
}

/* Mangled texts are refused or read, and never do harm. */
static void test_mangled(void **state) {
    (void)state;
    const unsigned seed = (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 3000; round++) {
        char text[] = LEAST "[quantization]\ngroup_size = 64\n[run]\nmemory_limit = \"6GiB\"\n";
        for (int change = rand() % 4; change >= 0; change--)
            text[(size_t)rand() % (sizeof text - 1)] = (char)(rand() % 255 + 1);
        struct config config;
        struct error error;
        const enum status status = parse(&config, text, NULL, &error);
        assert_true(status == STATUS_OK || (status == STATUS_INPUT && error.message[0]));
        config_free(&config);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),  cmocka_unit_test(test_values),
        cmocka_unit_test(test_overrides), cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_texts),
        cmocka_unit_test(test_mangled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
