/* The simulator: the closed formula on equal stages, schedules worked out by hand, work conserved,
 * ranks' time without gaps, thousands of ranks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "pipeline/event_queue.h"
#include "pipeline/simulate.h"

static void assert_near(double value, double wanted) {
    if (!(fabs(value - wanted) <= 1e-9 * (1 + fabs(wanted))))
        fail_msg("%.12g instead of %.12g", value, wanted);
}

/* Windows of 4 chunks of 10 tokens, all layers held. */
static struct plan make_plan(int stages, int replicas, int64_t samples) {
    return (struct plan){.stages = stages,
                         .replicas = replicas,
                         .samples = samples,
                         .sequence_length = 40,
                         .chunk_tokens = 10,
                         .passes = 1,
                         .layers_held = 1000};
}

static struct simulation run(const struct simulation_costs *costs, const struct plan *plan,
                             const struct simulation_observer *observer) {
    struct simulation simulation;
    struct error error;
    assert_int_equal(simulate(costs, plan, observer, &simulation, &error), STATUS_OK);
    return simulation;
}

static void test_event_queue(void **state) {
    (void)state;
    enum { COUNT = 500 };
    struct event events[COUNT], event;
    struct event_queue queue = {events, 0};
    double last = -1;
    int last_rank = -1;
    assert_false(event_queue_take(&queue, &event));
    for (int i = 0; i < COUNT; i++)
        event_queue_put(&queue, i * 7919 % 101, i);
    for (int i = 0; i < COUNT; i++) {
        assert_true(event_queue_take(&queue, &event));
        assert_true(event.time > last || (event.time == last && event.rank > last_rank));
        assert_true(event.time == event.rank * 7919 % 101);
        last = event.time;
        last_rank = event.rank;
    }
    assert_false(event_queue_take(&queue, &event));
}

/* M microbatches through S equal stages take M + S - 1 times what one takes in a stage. */
static void test_closed_formula(void **state) {
    (void)state;
    for (int stages = 1; stages <= 9; stages++)
        for (int64_t samples = 1; samples <= 5; samples++) {
            const struct simulation_costs costs = {.layers = 2 * stages, .token = 0.05};
            const struct plan plan = make_plan(stages, 1, samples);
            const struct simulation simulation = run(&costs, &plan, NULL);
            const double microbatches = 4.0 * (double)samples;
            assert_near(simulation.seconds_calibrate, microbatches + stages - 1);
            assert_near(simulation.idle_share, (stages - 1) / (microbatches + stages - 1));
            assert_int_equal(simulation.messages, 4 * samples * (stages - 1));
        }
}

/* Three layers, 2 seconds a microbatch in the first stage, 1 in the second, half for a message:
 * sent at 2, 4, 6, 8, there half a second later, computed at 3.5, 5.5, 7.5, 9.5. */
static void test_two_stages(void **state) {
    (void)state;
    struct simulation_costs costs = {.layers = 3, .token = 0.1, .message = 0.5, .token_bytes = 8};
    const struct plan plan = make_plan(2, 1, 1);
    struct simulation simulation = run(&costs, &plan, NULL);
    assert_near(simulation.seconds, 9.5);
    assert_near(simulation.rank_seconds[SECTION_COMPUTE], 8 + 4);
    assert_near(simulation.rank_seconds[SECTION_WAIT], 2 * 9.5 - 12);
    assert_int_equal(simulation.traffic_bytes, 40 * 8);
    /* Messages of 3 seconds hold everything up. They arrive at 5; the second, sent at 4, is
     * expected from 5 on, arrives at 8 and lets the first stage begin its fourth chunk; 11; 14. */
    costs.message = 1;
    costs.token_message = 0.2;
    simulation = run(&costs, &plan, NULL);
    assert_near(simulation.seconds, 15);
}

/* Attention at positions 0 .. 39: 1 + 2 + ... + 40 keys, or with a window of 16 no more than 16. */
static void test_attention(void **state) {
    (void)state;
    struct simulation_costs costs = {.layers = 2, .token_key = 1};
    const struct plan plan = make_plan(1, 1, 1);
    assert_near(run(&costs, &plan, NULL).seconds, 2.0 * 40 * 41 / 2);
    costs.window = 16;
    assert_near(run(&costs, &plan, NULL).seconds, 2.0 * (16.0 * 17 / 2 + 24 * 16));
}

/* Two layers, one held, waves of two windows: each wave loads both for its 8 chunks. */
static void test_waves(void **state) {
    (void)state;
    const struct simulation_costs costs = {
        .layers = 2, .token = 0.1, .layer_load = 10, .token_keep = 0.01};
    struct plan plan = make_plan(1, 1, 4);
    plan.layers_held = 1;
    plan.passes = 2;
    plan.wave = 2;
    const struct simulation simulation = run(&costs, &plan, NULL);
    assert_near(simulation.rank_seconds[SECTION_LOAD], 4 * 10);
    assert_near(simulation.rank_seconds[SECTION_COMPUTE], 2 * 16);
    /* Every chunk is put aside once and taken up once. */
    assert_near(simulation.seconds, 40 + 32 + 16 * 0.2);
}

/* One layer, three replicas, two linears: the second member's is ready at 4 and there at 5. */
static void test_quantization(void **state) {
    (void)state;
    const struct simulation_costs costs = {.layers = 1,
                                           .linear_count = 2,
                                           .linear_weights = {3, 2},
                                           .quantize_linear = {2, 4},
                                           .write_linear = {1, 1},
                                           .send_linear = {1, 1}};
    const struct plan plan = make_plan(1, 3, 3);
    const struct simulation simulation = run(&costs, &plan, NULL);
    assert_near(simulation.seconds, 6);
    assert_near(simulation.rank_seconds[SECTION_QUANTIZE], 6);
    assert_near(simulation.rank_seconds[SECTION_WRITE], 2);
}

/* Where each rank's last span ended. */
struct spans {
    const struct plan *plan;
    double *ends; /* (replicas, stages) */
};

static void follow(void *context, int stage, int replica, enum section section, double begin,
                   double end) {
    struct spans *spans = context;
    double *last = &spans->ends[replica * spans->plan->stages + stage];
    (void)section;
    assert_true(begin == *last && end > begin);
    *last = end;
}

static void check_work(const struct simulation_costs *costs, const struct plan *plan) {
    const int ranks = plan->stages * plan->replicas;
    struct spans spans = {plan, calloc((size_t)ranks, sizeof(double))};
    assert_non_null(spans.ends);
    const struct simulation_observer observer = {follow, &spans};
    const struct simulation simulation = run(costs, plan, &observer);
    double all = 0;
    for (int section = 0; section < SECTION_COUNT; section++)
        all += simulation.rank_seconds[section];
    for (int i = 0; i < ranks; i++)
        assert_near(spans.ends[i], simulation.seconds);
    assert_near(all, simulation.seconds * ranks);
    const double tokens = (double)(plan->samples * plan->sequence_length);
    assert_near(simulation.rank_seconds[SECTION_COMPUTE], tokens * costs->layers * costs->token);
    assert_near(simulation.rank_seconds[SECTION_QUANTIZE], costs->layers * 3.0);
    assert_near(simulation.rank_seconds[SECTION_WRITE], costs->layers * 1.5);
    assert_int_equal(simulation.traffic_bytes, (int64_t)tokens * (plan->stages - 1));
    free(spans.ends);
}

static const struct simulation_costs work = {.layers = 11,
                                             .token = 0.01,
                                             .layer_load = 3,
                                             .token_keep = 1e-4,
                                             .message = 0.01,
                                             .token_message = 0.003,
                                             .token_bytes = 1,
                                             .layer_reduce = 0.1,
                                             .linear_count = 2,
                                             .linear_weights = {1, 2},
                                             .quantize_linear = {1, 2},
                                             .write_linear = {0.5, 1},
                                             .send_linear = {0.1, 0.2}};

static void test_work_is_conserved(void **state) {
    (void)state;
    for (int stages = 1; stages <= 11; stages++)
        for (int replicas = 1; replicas <= 13; replicas += 3)
            for (int held = 1; held <= 11; held += 4) {
                struct plan plan = make_plan(stages, replicas, 17);
                plan.sequence_length = 37; /* a last chunk of 7 */
                const int most = (11 + stages - 1) / stages;
                plan.layers_held = held < most ? held : most;
                plan.passes = plan_stage_passes(&plan, most);
                plan.wave = plan.passes > 1 ? 3 : 0;
                check_work(&work, &plan);
            }
}

static void test_thousands(void **state) {
    (void)state;
    struct simulation_costs costs = work;
    costs.layers = 70;
    struct plan plan = make_plan(70, 58, 128);
    plan.sequence_length = 2048;
    plan.chunk_tokens = 256;
    check_work(&costs, &plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_event_queue),
        cmocka_unit_test(test_closed_formula),
        cmocka_unit_test(test_two_stages),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_waves),
        cmocka_unit_test(test_quantization),
        cmocka_unit_test(test_work_is_conserved),
        cmocka_unit_test(test_thousands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
