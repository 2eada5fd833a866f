/* The plan: layers are shared out whole, ranks are used, memory and impossible wishes are
 * respected, and the figures agree with arithmetic done by hand for two models.
 *
 *   test_plan SMALL LLAMA_7B
 *
 * SMALL: tool_make_model's default (2 layers, hidden 24, intermediate 20, 6 heads of 8, 2 KV heads,
 * bf16). LLAMA_7B: that model's shapes in bf16. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/plan.h"
#include "pipeline/simulate.h"

static struct model model, llama_7b;
static const struct plan_rates rates = {.flops_per_thread = 1e9,
                                        .attention_flops = 1e9,
                                        .elementwise_bytes = INFINITY,
                                        .quantize_weights = 1e9,
                                        .clip_weights = 1e7,
                                        .load_bytes = 1e9,
                                        .write_weights = INFINITY,
                                        .link_bytes = 1e9};

static struct config make_config(void) {
    return (struct config){.calibration = {.samples = 8, .sequence_length = 64, .chunk_tokens = 16},
                           .quantization = {.group_size = 8, .scale_type = NUMBER_F16}};
}

static void test_stage_begin(void **state) {
    (void)state;
    for (int layers = 1; layers < 40; layers++)
        for (int stages = 1; stages <= layers; stages++) {
            assert_int_equal(slice_begin(layers, stages, 0), 0);
            assert_int_equal(slice_begin(layers, stages, stages), layers);
            for (int stage = 0; stage < stages; stage++) {
                const int count =
                    slice_begin(layers, stages, stage + 1) - slice_begin(layers, stages, stage);
                assert_true(count == layers / stages || count == layers / stages + 1);
            }
        }
}

static void test_figures(void **state) {
    (void)state;
    /* q 48x24, k and v 16x24, o 24x48, gate and up 20x24, down 24x20 */
    const double weights = 48 * 24 + 2 * 16 * 24 + 24 * 48 + 3 * 20 * 24;
    assert_true(plan_layer_flops(&model) == 2 * weights);
    assert_int_equal(plan_layer_bytes(&model, 0, PRECISION_AUTO), (int64_t)(2 * weights));
    /* At position 9 a token sees 10 keys: q.k and p.v, 2 flop each for 48 channels. */
    assert_true(plan_attention_flops(&model, 9) == 4.0 * 10 * 48);
    struct config config = make_config();
    config.run.stages = 2;
    config.run.replicas = 2;
    struct plan plan;
    assert_int_equal(
        plan_make(&model, &config, 4, 1, 1, (int64_t)8 << 30, &rates, NULL, &plan, NULL),
        STATUS_OK);
    assert_int_equal(plan.microbatches, 8 / 2 * 64 / 16);
    assert_int_equal(plan.traffic_bytes, 8 * 64 * 24 * 4);
    /* Two stages: one microbatch of 16 + 1 is spent filling. */
    assert_true(plan.idle_share > 1.0 / 17 - 1e-9 && plan.idle_share < 1.0 / 17 + 1e-9);
    /* Two replicas' maxima of 24 + 48 + 24 + 20 channels in 2 layers, a new file beside the old. */
    assert_int_equal(plan.state_bytes, 2 * 2 * 2 * 116 * 4);
    config.quantization.method = METHOD_GPTQ;
    assert_int_equal(
        plan_make(&model, &config, 4, 1, 1, (int64_t)8 << 30, &rates, NULL, &plan, NULL),
        STATUS_OK);
    /* Hessians' upper triangles: 2 layers' of 2 replicas, and one new file of each of 4 ranks. */
    const int64_t triangles = 2 * 24 * 25 / 2 + 48 * 49 / 2 + 20 * 21 / 2;
    assert_int_equal(plan.state_bytes, 2 * 2 * 2 * 116 * 4 + (4 + 4) * triangles * 8);
    const struct plan_needs evaluation = {.models = 1};
    assert_int_equal(
        plan_make(&model, &config, 4, 1, 1, (int64_t)8 << 30, &rates, &evaluation, &plan, NULL),
        STATUS_OK);
    assert_int_equal(plan.state_bytes, 0);
}

/* The same layers in int4 and int8 on the disk, and the time that clipping takes. */
static void test_weight_bits(void **state) {
    (void)state;
    const double weights = 48 * 24 + 2 * 16 * 24 + 24 * 48 + 3 * 20 * 24;
    const double rows = 48 + 2 * 16 + 24 + 2 * 20 + 24;
    /* Groups of 8 in int4: 24, 48 or 20 columns are 3, 6 or 3. */
    const double groups = 3 * (48 + 2 * 16 + 2 * 20) + 6 * 24 + 3 * 24;
    const int layers = model.shape.layers;
    struct config config = make_config();
    struct plan plan, eight, clipped;
    assert_int_equal(
        plan_make(&model, &config, 1, 1, 1, (int64_t)8 << 30, &rates, NULL, &plan, NULL),
        STATUS_OK);
    config.quantization.weight_bits = 8;
    assert_int_equal(
        plan_make(&model, &config, 1, 1, 1, (int64_t)8 << 30, &rates, NULL, &eight, NULL),
        STATUS_OK);
    /* f16 scales; zero points of half a byte */
    const double more = weights / 2 + 2 * rows - 2.5 * groups;
    assert_int_equal(eight.checkpoint_bytes - plan.checkpoint_bytes, (int64_t)(layers * more));
    config.quantization = make_config().quantization;
    config.quantization.clip = CLIP_MSE;
    assert_int_equal(
        plan_make(&model, &config, 1, 1, 1, (int64_t)8 << 30, &rates, NULL, &clipped, NULL),
        STATUS_OK);
    assert_true(clipped.seconds_quantize > 99 * plan.seconds_quantize &&
                clipped.seconds_quantize < 101 * plan.seconds_quantize);
}

static void test_llama_7b(void **state) {
    (void)state;
    /* q, k, v, o: 4 x 4096 x 4096 = 67,108,864; gate, up, down: 3 x 4096 x 11008 = 135,266,304 */
    assert_int_equal(model_layer_weights(&llama_7b), 202375168);
    assert_true(plan_layer_flops(&llama_7b) == 404750336.0);
    assert_int_equal(plan_layer_bytes(&llama_7b, 31, PRECISION_AUTO), 404750336);
    struct config config = make_config();
    config.calibration.samples = 128;
    config.calibration.sequence_length = 2048;
    config.calibration.chunk_tokens = 256;
    config.run.stages = 32;
    config.run.replicas = 2;
    struct plan plan;
    assert_int_equal(
        plan_make(&llama_7b, &config, 64, 8, 1, (int64_t)64 << 30, &rates, NULL, &plan, NULL),
        STATUS_OK);
    /* 64 windows x 8 chunks a replica; 31 more to fill 32 stages */
    assert_int_equal(plan.microbatches, 512);
    assert_true(plan.idle_share > 0.057 && plan.idle_share < 0.0572);
    /* 262144 tokens x 32 layers x (404750336 + 4 x 1025 keys x 4096) */
    assert_true(plan.flops == 262144.0 * 32 * (404750336.0 + 16793600.0));
    /* 31 borders x 262144 tokens x 4096 f32 */
    assert_int_equal(plan.traffic_bytes, 133143986176);
    /* One layer in a rank; a layer's keys and values in bf16: 2 x 2048 x 4096 x 2, and rounding up.
     */
    assert_int_equal(plan.memory_weights, 404750336);
    assert_true(plan.memory_cache >= 33554432 && plan.memory_cache < 36909875);
}

/* The formula and the simulator: the same work, and all but the same time, since only attention
 * makes one microbatch longer than another. */
static void test_simulation(void **state) {
    (void)state;
    struct config config = make_config();
    config.calibration.samples = 128;
    config.calibration.sequence_length = 2048;
    config.calibration.chunk_tokens = 256;
    config.run.stages = 32;
    config.run.replicas = 2;
    struct plan plan;
    struct plan_rates quick_links = rates;
    quick_links.link_bytes = INFINITY;
    assert_int_equal(
        plan_make(&llama_7b, &config, 64, 8, 1, (int64_t)64 << 30, &quick_links, NULL, &plan, NULL),
        STATUS_OK);
    const struct simulation_costs costs =
        simulation_costs_of(&llama_7b, &config, &plan, &quick_links);
    struct simulation simulation;
    assert_int_equal(simulate(&costs, &plan, NULL, &simulation, NULL), STATUS_OK);
    /* 262144 tokens, each sees 1024.5 keys on average */
    const double compute = 262144.0 * 32 * (404750336.0 + 4 * 1024.5 * 4096) / 1e9;
    assert_true(fabs(simulation.rank_seconds[SECTION_COMPUTE] / compute - 1) < 1e-9);
    assert_true(fabs(simulation.seconds_calibrate / plan.seconds_calibrate - 1) < 0.01);
    assert_true(fabs(simulation.idle_share - plan.idle_share) < 0.01);
    assert_int_equal(simulation.traffic_bytes, plan.traffic_bytes);
    assert_true(fabs(simulation.rank_seconds[SECTION_LOAD] - 64 * plan.seconds_load) < 1e-9);
    /* A layer's seven linears shared by two replicas: no more than half of them again. */
    const double quantize = simulation.seconds - simulation.seconds_calibrate - plan.seconds_load;
    assert_true(quantize > plan.seconds_quantize && quantize < 1.5 * plan.seconds_quantize);
}

/* Where the layers do not fit: waves, within the limit, as small as time allows. */
static void test_waves(void **state) {
    (void)state;
    struct config config = make_config();
    config.calibration.samples = 8;
    config.calibration.sequence_length = 512;
    config.calibration.chunk_tokens = 256;
    struct plan plan;
    const int64_t limit = (int64_t)6 << 30;
    for (int ranks = 1; ranks <= 4; ranks++) {
        assert_int_equal(
            plan_make(&llama_7b, &config, ranks, 1, 1, limit, &rates, NULL, &plan, NULL),
            STATUS_OK);
        assert_true(plan.wave >= 1 && plan.passes >= 2 && plan.layers_held >= 1);
        assert_true(plan.passes * plan.layers_held >= 32 / plan.stages);
        assert_true(plan.memory_rank * ranks <= limit);
        assert_int_equal(plan.memory_weights, plan.layers_held * 404750336l);
        /* f32 of a window of 512 tokens */
        assert_int_equal(plan.memory_hidden, plan.spills ? 0 : plan.wave * 512 * 4096 * 4);
    }
    /* All resident: 32 x 404750336 bytes and more. */
    assert_int_equal(
        plan_make(&llama_7b, &config, 1, 1, 1, (int64_t)16 << 30, &rates, NULL, &plan, NULL),
        STATUS_OK);
    assert_true(plan.wave == 0 && plan.passes == 1 && plan.layers_held == 32);
    /* A window of 2048 tokens computes for 26.5 s x 1e3 at these rates and the model loads in 13 s:
     * a wave of one window is hardly slower than one of all. */
    config.calibration.sequence_length = 2048;
    assert_int_equal(plan_make(&llama_7b, &config, 1, 1, 1, limit, &rates, NULL, &plan, NULL),
                     STATUS_OK);
    assert_int_equal(plan.wave, 1);
    /* With quick arithmetic the loading counts: all windows in one wave, which spills where memory
     * has no room for its hidden states, 8 x 32 MiB. */
    struct plan_rates quick = rates;
    quick.flops_per_thread = quick.attention_flops = 1e15;
    assert_int_equal(plan_make(&llama_7b, &config, 1, 1, 1, limit, &quick, NULL, &plan, NULL),
                     STATUS_OK);
    assert_true(plan.wave == 8 && !plan.spills && plan.scratch_bytes == 0);
    assert_int_equal(
        plan_make(&llama_7b, &config, 1, 1, 1, (int64_t)570 << 20, &quick, NULL, &plan, NULL),
        STATUS_OK);
    assert_true(plan.wave == 8 && plan.spills && plan.memory_hidden == 0);
    assert_int_equal(plan.scratch_bytes, 8 * 2048 * 4096 * 4);
    config.run.spill = SPILL_NEVER;
    assert_int_equal(
        plan_make(&llama_7b, &config, 1, 1, 1, (int64_t)570 << 20, &quick, NULL, &plan, NULL),
        STATUS_OK);
    assert_true(plan.wave < 8 && !plan.spills);
    /* What the configuration forces. */
    config.run.layers_held = 5;
    config.run.wave = 3;
    config.run.spill = SPILL_ALWAYS;
    assert_int_equal(plan_make(&llama_7b, &config, 1, 1, 1, limit, &rates, NULL, &plan, NULL),
                     STATUS_OK);
    assert_true(plan.passes == 7 && plan.layers_held == 5 && plan.wave == 3 && plan.spills);
    int layers = 0;
    for (int pass = 0; pass < plan.passes; pass++) {
        const int count =
            slice_begin(32, plan.passes, pass + 1) - slice_begin(32, plan.passes, pass);
        assert_true(count <= plan.layers_held);
        layers += count;
    }
    assert_int_equal(layers, 32);
}

static void test_choices(void **state) {
    (void)state;
    struct config config = make_config();
    struct plan plan;
    for (int ranks = 1; ranks <= 16; ranks++) {
        assert_int_equal(
            plan_make(&model, &config, ranks, 1, 1, (int64_t)8 << 30, &rates, NULL, &plan, NULL),
            STATUS_OK);
        assert_true(plan.stages >= 1 && plan.stages <= 2 && plan.replicas >= 1 &&
                    plan.replicas <= 8 && plan.stages * plan.replicas <= ranks);
    }
    assert_int_equal(plan.stages * plan.replicas, 16);
    /* With more memory for one rank than a whole model needs, but not for two of them, the layers
     * are split. */
    config.run.stages = 2;
    struct error error;
    assert_int_equal(
        plan_make(&model, &config, 2, 1, 1, (int64_t)8 << 30, &rates, NULL, &plan, &error),
        STATUS_OK);
    assert_int_equal(plan.replicas, 1);
}

static void expect_refusal(const struct config *config, int ranks, int64_t memory,
                           const char *words) {
    struct plan plan;
    struct error error;
    assert_int_equal(plan_make(&model, config, ranks, 1, 1, memory, &rates, NULL, &plan, &error),
                     STATUS_INPUT);
    if (!strstr(error.message, words))
        fail_msg("\"%s\" is not in: %s", words, error.message);
}

static void test_refusals(void **state) {
    (void)state;
    const int64_t plenty = (int64_t)8 << 30;
    struct config config = make_config();
    expect_refusal(&config, 17, plenty, "more than there is work for");
    expect_refusal(&config, 1, 1 << 20, "run.memory_limit");
    config.run.stages = 3;
    expect_refusal(&config, 4, plenty, "run.stages is 3");
    config.run.stages = 2;
    config.run.replicas = 9;
    expect_refusal(&config, 32, plenty, "run.replicas is 9");
    config.run.replicas = 4;
    expect_refusal(&config, 4, plenty, "ask for 8 ranks");
    config = make_config();
    config.calibration.sequence_length = 4096;
    expect_refusal(&config, 1, plenty, "2048 positions");
    const int64_t intermediate = model.shape.intermediate;
    config = make_config();
    config.quantization.clip = CLIP_OUTPUT;
    config.calibration.sample_tokens = 65536;
    model.shape.intermediate = 40000;
    expect_refusal(&config, 1, plenty << 20, "a message holds 53687 tokens at most");
    model.shape.intermediate = intermediate;
}

int main(int count, char **arguments) {
    if (count != 3 || model_open(arguments[1], &model, NULL) ||
        model_open(arguments[2], &llama_7b, NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stage_begin), cmocka_unit_test(test_figures),
        cmocka_unit_test(test_weight_bits), cmocka_unit_test(test_llama_7b),
        cmocka_unit_test(test_simulation),  cmocka_unit_test(test_waves),
        cmocka_unit_test(test_choices),     cmocka_unit_test(test_refusals),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    model_close(&model);
    model_close(&llama_7b);
    return failed;
}
