#include "pipeline/simulate.h"

#include <stdlib.h>

#include "pipeline/event_queue.h"
#include "pipeline/quantize_team.h"
#include "pipeline/stream_order.h"

enum { RING = STREAM_RING };

/* A message that a rank sends or receives; `done` counts once both ends have begun. */
struct request {
    enum { REQUEST_NONE, REQUEST_OPEN, REQUEST_MATCHED } state;
    double done;
};

struct rank {
    int stage, replica, layers;
    const struct stream_order *order;
    int64_t chunk;
    int act; /* that comes next; after the last chunk: the buffer that is waited for */
    double now;
    struct request receive[RING], send[RING];
    const struct request *blocked; /* what it waits for, since `now`; NULL: it has an event */
};

/* Messages from a rank to the next stage's, which take their turns. */
struct link {
    int64_t sends, receives; /* begun */
    int send_slots[RING], receive_slots[RING];
    int64_t tokens[RING]; /* of the sends */
    double free;          /* when the last one has arrived */
};

struct simulator {
    const struct simulation_costs *costs;
    const struct plan *plan;
    const struct simulation_observer *observer;
    struct simulation *simulation;
    struct stream_sequence *windows; /* (samples) */
    struct stream_order *orders;     /* (replicas, 2): for stages with most layers, and with less */
    struct rank *ranks;              /* (replicas, stages) */
    struct link *links;              /* the same, from each to the next */
    struct event_queue queue;
};

static void add_span(struct simulator *simulator, const struct rank *rank, enum section section,
                     double begin, double end) {
    simulator->simulation->rank_seconds[section] += end - begin;
    if (simulator->observer && end > begin)
        simulator->observer->span(simulator->observer->context, rank->stage, rank->replica, section,
                                  begin, end);
}

static void spend(struct simulator *simulator, struct rank *rank, enum section section,
                  double seconds) {
    add_span(simulator, rank, section, rank->now, rank->now + seconds);
    rank->now += seconds;
}

static void wait_until(struct simulator *simulator, struct rank *rank, double time) {
    if (time > rank->now)
        spend(simulator, rank, SECTION_WAIT, time - rank->now);
}

static int index_of(const struct simulator *simulator, const struct rank *rank) {
    return (int)(rank - simulator->ranks);
}

/* The rank goes on when its time has come. */
static void schedule(struct simulator *simulator, struct rank *rank) {
    event_queue_put(&simulator->queue, rank->now, index_of(simulator, rank));
}

/* ---- Messages ---- */

static void match_end(struct simulator *simulator, struct rank *rank, struct request *request,
                      double done) {
    *request = (struct request){REQUEST_MATCHED, done};
    if (rank->blocked != request)
        return;
    rank->blocked = NULL;
    wait_until(simulator, rank, done);
    schedule(simulator, rank);
}

/* Messages match in order: the next one is on its way when both ends have begun, at `now`. */
static void match(struct simulator *simulator, struct rank *sender, int64_t message, double now) {
    struct link *link = &simulator->links[index_of(simulator, sender)];
    if (message >= link->sends || message >= link->receives)
        return;
    const struct simulation_costs *costs = simulator->costs;
    const int slot = (int)(message % RING);
    const double begin = link->free > now ? link->free : now;
    link->free = begin + costs->message + costs->token_message * (double)link->tokens[slot];
    simulator->simulation->messages++;
    simulator->simulation->traffic_bytes += link->tokens[slot] * costs->token_bytes;
    match_end(simulator, sender, &sender->send[link->send_slots[slot]], link->free);
    match_end(simulator, sender + 1, &sender[1].receive[link->receive_slots[slot]], link->free);
}

static void begin_send(struct simulator *simulator, struct rank *rank, int buffer, int64_t tokens) {
    struct link *link = &simulator->links[index_of(simulator, rank)];
    const int64_t message = link->sends++;
    link->send_slots[message % RING] = buffer;
    link->tokens[message % RING] = tokens;
    rank->send[buffer].state = REQUEST_OPEN;
    match(simulator, rank, message, rank->now);
}

static void begin_receive(struct simulator *simulator, struct rank *rank, int buffer) {
    struct link *link = &simulator->links[index_of(simulator, rank) - 1];
    const int64_t message = link->receives++;
    link->receive_slots[message % RING] = buffer;
    rank->receive[buffer].state = REQUEST_OPEN;
    match(simulator, rank - 1, message, rank->now);
}

/* True when the request is done by now; else the rank goes on when it is. */
static bool is_done(struct simulator *simulator, struct rank *rank, struct request *request) {
    if (request->state == REQUEST_OPEN) {
        rank->blocked = request;
        return false;
    }
    if (request->state == REQUEST_MATCHED && request->done > rank->now) {
        wait_until(simulator, rank, request->done);
        schedule(simulator, rank);
        return false;
    }
    request->state = REQUEST_NONE;
    return true;
}

/* ---- Calibration ---- */

/* Positions that tokens position .. position + tokens - 1 see, themselves included. */
static double positions_seen(int64_t position, int64_t tokens, int64_t window) {
    int64_t growing = tokens; /* those that see all before them */
    if (window && position + tokens > window)
        growing = position < window ? window - position : 0;
    return (double)growing * ((double)position + 0.5 * (double)(growing + 1)) +
           (double)(tokens - growing) * (double)window;
}

static double pass_layers(const struct rank *rank, int pass) {
    const int passes = rank->order->passes;
    return slice_begin(rank->layers, passes, pass + 1) - slice_begin(rank->layers, passes, pass);
}

static double act_seconds(const struct simulator *simulator, const struct rank *rank,
                          enum stream_act act) {
    const struct simulation_costs *costs = simulator->costs;
    const struct stream_chunk *chunk = &rank->order->chunks[rank->chunk];
    const double layers = pass_layers(rank, chunk->pass);
    double seen = 0;
    switch (act) {
    case STREAM_ENTER:
        return layers * costs->layer_load;
    case STREAM_READ:
    case STREAM_KEEP:
        return (double)chunk->tokens * costs->token_keep;
    case STREAM_VISIT:
        for (int64_t p = 0; p < chunk->piece_count; p++)
            seen +=
                positions_seen(chunk->pieces[p].position, chunk->pieces[p].tokens, costs->window);
        return layers * ((double)chunk->tokens * costs->token + seen * costs->token_key);
    default:
        return 0;
    }
}

/* True when the rank may do its next act at once; else it goes on later. */
static bool do_act(struct simulator *simulator, struct rank *rank, enum stream_act act) {
    const int slot = (int)(rank->chunk % RING), next = (slot + 1) % RING;
    double seconds;
    switch (act) {
    case STREAM_AWAIT:
        return is_done(simulator, rank, &rank->receive[slot]);
    case STREAM_CLEAR:
        return is_done(simulator, rank, &rank->send[next]);
    case STREAM_EXPECT:
        begin_receive(simulator, rank, next);
        return true;
    case STREAM_SEND:
        begin_send(simulator, rank, slot, rank->order->chunks[rank->chunk].tokens);
        return true;
    default:
        seconds = act_seconds(simulator, rank, act);
        spend(simulator, rank, stream_act_section(act), seconds);
        return seconds == 0;
    }
}

/* Whether an act is over when do_act says that the rank goes on later. */
static bool takes_time(enum stream_act act) {
    return act != STREAM_AWAIT && act != STREAM_CLEAR;
}

/* Let the rank go on until it has to wait or to let time pass. */
static void advance(struct simulator *simulator, struct rank *rank) {
    const struct stream_order *order = rank->order;
    const int stages = simulator->plan->stages;
    simulator->simulation->events++;
    while (rank->chunk < order->count) {
        const enum stream_act act = (enum stream_act)rank->act;
        const bool has = stream_order_has(order, rank->chunk, act, rank->stage, stages);
        const bool at_once = !has || do_act(simulator, rank, act);
        if (at_once || takes_time(act)) {
            rank->act = (rank->act + 1) % STREAM_ACT_COUNT;
            rank->chunk += rank->act == 0;
        }
        if (!at_once) {
            if (takes_time(act))
                schedule(simulator, rank);
            return;
        }
    }
    for (; rank->act < RING; rank->act++)
        if (!is_done(simulator, rank, &rank->send[rank->act]))
            return;
}

static void run_stream(struct simulator *simulator, int ranks) {
    const int stages = simulator->plan->stages;
    struct event event;
    for (int i = 0; i < ranks; i++) {
        struct rank *rank = &simulator->ranks[i];
        if (stream_order_has(rank->order, -1, STREAM_EXPECT, rank->stage, stages))
            begin_receive(simulator, rank, 0);
        schedule(simulator, rank);
    }
    while (event_queue_take(&simulator->queue, &event))
        advance(simulator, &simulator->ranks[event.rank]);
}

/* ---- The whole job ---- */

/* All ranks wait for the last one. */
static double meet(struct simulator *simulator, int ranks) {
    double last = 0;
    for (int i = 0; i < ranks; i++)
        last = simulator->ranks[i].now > last ? simulator->ranks[i].now : last;
    for (int i = 0; i < ranks; i++)
        wait_until(simulator, &simulator->ranks[i], last);
    return last;
}

static void load(struct simulator *simulator, int ranks) {
    for (int i = 0; i < ranks; i++) {
        struct rank *rank = &simulator->ranks[i];
        if (rank->order->passes == 1)
            spend(simulator, rank, SECTION_LOAD, rank->layers * simulator->costs->layer_load);
    }
}

/* By doubling: as many steps as the number of replicas has binary digits. */
static void reduce(struct simulator *simulator, int ranks) {
    int steps = 0;
    while (1 << steps < simulator->plan->replicas)
        steps++;
    for (int i = 0; i < ranks; i++) {
        struct rank *rank = &simulator->ranks[i];
        spend(simulator, rank, SECTION_REDUCE,
              steps * (simulator->costs->message + rank->layers * simulator->costs->layer_reduce));
    }
}

/* The members of a layer's team take its linears in order, so that this is exact: a helper and the
 * writer meet at the linear that one has for the other. */
static void quantize_layer(struct simulator *simulator, int stage, const struct quantize_team *team,
                           const int *member_of) {
    const struct simulation_costs *costs = simulator->costs;
    const int stages = simulator->plan->stages;
    struct rank *writer = &simulator->ranks[team->first * stages + stage];
    for (int i = 0; i < costs->linear_count; i++) {
        struct rank *rank =
            &simulator->ranks[quantize_team_replica(team, member_of[i]) * stages + stage];
        spend(simulator, rank, SECTION_QUANTIZE, costs->quantize_linear[i]);
        if (rank != writer) {
            const double begin = rank->now > writer->now ? rank->now : writer->now;
            const double end = begin + costs->message + costs->send_linear[i];
            wait_until(simulator, rank, end);
            wait_until(simulator, writer, end);
        }
        spend(simulator, writer, SECTION_WRITE, costs->write_linear[i]);
    }
}

static void quantize(struct simulator *simulator) {
    const struct plan *plan = simulator->plan;
    const struct simulation_costs *costs = simulator->costs;
    int member_of[LINEARS_MAX];
    for (int stage = 0; stage < plan->stages; stage++) {
        const int layers = simulator->ranks[stage].layers;
        for (int layer = 0; layer < layers; layer++) {
            const struct quantize_team team = quantize_team_of(layer, layers, plan->replicas);
            quantize_team_share(&team, costs->linear_count, costs->linear_weights, member_of);
            quantize_layer(simulator, stage, &team, member_of);
        }
    }
}

static void run_phases(struct simulator *simulator, int ranks) {
    struct simulation *simulation = simulator->simulation;
    const double *seconds = simulation->rank_seconds;
    load(simulator, ranks);
    const double begin = meet(simulator, ranks);
    const double loaded = seconds[SECTION_LOAD];
    run_stream(simulator, ranks);
    simulation->seconds_calibrate = meet(simulator, ranks) - begin;
    const double awake = simulation->seconds_calibrate * ranks - (seconds[SECTION_LOAD] - loaded);
    const double idle = awake - seconds[SECTION_COMPUTE];
    simulation->idle_share = idle > 0 ? idle / awake : 0; /* without rounding's -0 */
    reduce(simulator, ranks);
    quantize(simulator);
    simulation->seconds = meet(simulator, ranks);
}

/* ---- What it runs on ---- */

static enum status create_orders(struct simulator *simulator, struct error *error) {
    const struct plan *plan = simulator->plan;
    const int most = (simulator->costs->layers + plan->stages - 1) / plan->stages;
    for (int64_t i = 0; i < plan->samples; i++)
        simulator->windows[i] =
            (struct stream_sequence){.head_tokens = plan->sequence_length, .group = i};
    const struct stream_text text = {.sequences = simulator->windows,
                                     .count = plan->samples,
                                     .chunk_tokens = plan->chunk_tokens,
                                     .wave = plan->wave};
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < 2 * plan->replicas; i++) {
        const int layers = i % 2 && most > 1 ? most - 1 : most;
        status = stream_order_create(&text, i / 2, plan->replicas,
                                     plan->wave ? plan_stage_passes(plan, layers) : 1,
                                     &simulator->orders[i], error);
    }
    return status;
}

static void create_ranks(struct simulator *simulator, int ranks) {
    const struct plan *plan = simulator->plan;
    const int layers = simulator->costs->layers, most = (layers + plan->stages - 1) / plan->stages;
    for (int i = 0; i < ranks; i++) {
        struct rank *rank = &simulator->ranks[i];
        rank->stage = i % plan->stages;
        rank->replica = i / plan->stages;
        rank->layers = slice_begin(layers, plan->stages, rank->stage + 1) -
                       slice_begin(layers, plan->stages, rank->stage);
        rank->order = &simulator->orders[2 * rank->replica + (rank->layers < most)];
    }
}

enum status simulate(const struct simulation_costs *costs, const struct plan *plan,
                     const struct simulation_observer *observer, struct simulation *simulation,
                     struct error *error) {
    const int ranks = plan->stages * plan->replicas;
    const size_t count = (size_t)ranks;
    *simulation = (struct simulation){0};
    struct simulator simulator = {
        .costs = costs,
        .plan = plan,
        .observer = observer,
        .simulation = simulation,
        .windows = calloc((size_t)plan->samples, sizeof *simulator.windows),
        .orders = calloc(2 * (size_t)plan->replicas, sizeof *simulator.orders),
        .ranks = calloc(count, sizeof *simulator.ranks),
        .links = calloc(count, sizeof *simulator.links),
        .queue = {calloc(count, sizeof *simulator.queue.events), 0},
    };
    enum status status = STATUS_OK;
    if (!simulator.windows || !simulator.orders || !simulator.ranks || !simulator.links ||
        !simulator.queue.events)
        status = error_set(error, STATUS_FAILED, "no memory to simulate %d ranks", ranks);
    if (!status)
        status = create_orders(&simulator, error);
    if (!status) {
        create_ranks(&simulator, ranks);
        run_phases(&simulator, ranks);
    }
    for (int i = 0; simulator.orders && i < 2 * plan->replicas; i++)
        stream_order_free(&simulator.orders[i]);
    free(simulator.windows);
    free(simulator.orders);
    free(simulator.ranks);
    free(simulator.links);
    free(simulator.queue.events);
    return status;
}
