/* The order of the stream: for random texts, cut in any way, each stage awaits the chunks that the
 * one before it sends, however often they pass through either; and each token that is wanted is
 * computed once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "pipeline/stream_order.h"

enum { SEQUENCES = 30, LENGTH_MAX = 24, CHUNK_MAX = 20, PASSES_MAX = 3 };

/* A text, and the ids of its sequences: of two values, so that many begin alike. */
struct random_text {
    struct stream_text text;
    struct stream_sequence sequences[SEQUENCES];
    int32_t ids[SEQUENCES][LENGTH_MAX];
};

static int below(int bound) {
    return rand() % bound;
}

static void make_text(struct random_text *made) {
    made->text = (struct stream_text){.sequences = made->sequences,
                                      .count = 1 + below(SEQUENCES),
                                      .chunk_tokens = 1 + below(CHUNK_MAX),
                                      .packed = below(3) > 0,
                                      .wave = 1 + below(8)};
    for (int64_t i = 0; i < made->text.count; i++) {
        const int head = 1 + below(LENGTH_MAX - 1), tail = below(LENGTH_MAX - head + 1);
        for (int t = 0; t < head + tail; t++)
            made->ids[i][t] = t > 2 ? below(2) : 0;
        made->sequences[i] = (struct stream_sequence){.head = made->ids[i],
                                                      .tail = made->ids[i] + head,
                                                      .head_tokens = head,
                                                      .tail_tokens = tail,
                                                      .group = i / 3,
                                                      .wanted = head - 1};
    }
}

static void check_pieces(const struct stream_text *text, const struct stream_chunk *chunk) {
    int64_t tokens = 0;
    assert_true(chunk->piece_count == 1 || text->packed);
    for (int64_t p = 0; p < chunk->piece_count; p++)
        tokens += chunk->pieces[p].tokens;
    assert_true(tokens == chunk->tokens && tokens > 0 && tokens <= text->chunk_tokens);
}

/* The next chunk from k on that has passed `pass` times, or (-1) passes no more; or count. */
static int64_t next_chunk(const struct stream_order *order, int64_t k, int pass) {
    while (k < order->count &&
           (pass < 0 ? !order->chunks[k].leaves : order->chunks[k].pass != pass))
        k++;
    return k;
}

/* What `from` sends is what `to` awaits, piece for piece. */
static void check_meeting(const struct stream_order *from, const struct stream_order *to) {
    int64_t sent = next_chunk(from, 0, -1), awaited = next_chunk(to, 0, 0);
    for (; sent < from->count && awaited < to->count;
         sent = next_chunk(from, sent + 1, -1), awaited = next_chunk(to, awaited + 1, 0)) {
        const struct stream_chunk *a = &from->chunks[sent], *b = &to->chunks[awaited];
        assert_int_equal(a->tokens, b->tokens);
        assert_int_equal(a->piece_count, b->piece_count);
        assert_memory_equal(a->pieces, b->pieces, (size_t)a->piece_count * sizeof *a->pieces);
    }
    assert_true(sent == from->count && awaited == to->count);
}

/* Adds to counts how often each token is in a chunk that leaves. */
static void count_tokens(const struct stream_order *order, int counts[SEQUENCES][LENGTH_MAX]) {
    for (int64_t k = next_chunk(order, 0, -1); k < order->count; k = next_chunk(order, k + 1, -1))
        for (int64_t p = 0; p < order->chunks[k].piece_count; p++) {
            const struct stream_piece *piece = &order->chunks[k].pieces[p];
            for (int64_t t = 0; t < piece->tokens; t++)
                counts[piece->sequence][piece->position + t]++;
        }
}

static void check_text(const struct random_text *made) {
    const int replicas = 1 + below(3);
    int counts[SEQUENCES][LENGTH_MAX] = {0};
    for (int replica = 0; replica < replicas; replica++) {
        struct stream_order orders[PASSES_MAX];
        for (int i = 0; i < PASSES_MAX; i++) {
            assert_int_equal(
                stream_order_create(&made->text, replica, replicas, i + 1, &orders[i], NULL),
                STATUS_OK);
            for (int64_t k = 0; k < orders[i].count; k++)
                check_pieces(&made->text, &orders[i].chunks[k]);
        }
        for (int i = 0; i < PASSES_MAX; i++)
            for (int j = 0; j < PASSES_MAX; j++)
                check_meeting(&orders[i], &orders[j]);
        count_tokens(&orders[0], counts);
        for (int i = 0; i < PASSES_MAX; i++)
            stream_order_free(&orders[i]);
    }
    for (int64_t i = 0; i < made->text.count; i++) {
        const struct stream_sequence *sequence = &made->sequences[i];
        for (int64_t t = 0; t < sequence->head_tokens + sequence->tail_tokens; t++)
            assert_true(counts[i][t] == 1 || (t < sequence->wanted && counts[i][t] == 0));
    }
}

static void stages_meet(void **state) {
    (void)state;
    for (int round = 0; round < 500; round++) {
        struct random_text made;
        make_text(&made);
        check_text(&made);
    }
}

int main(void) {
    const unsigned seed = (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    const struct CMUnitTest tests[] = {cmocka_unit_test(stages_meet)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
