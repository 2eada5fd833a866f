#include "pipeline/stream_order.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int64_t length_of(const struct stream_sequence *sequence) {
    return sequence->head_tokens + sequence->tail_tokens;
}

int32_t stream_token(const struct stream_sequence *sequence, int64_t position) {
    return position < sequence->head_tokens ? sequence->head[position]
                                            : sequence->tail[position - sequence->head_tokens];
}

/* Where to begin: the tokens before are the same as those of `before`, and not wanted. */
static int64_t first_position(const struct stream_sequence *sequence,
                              const struct stream_sequence *before) {
    int64_t position = 0;
    const int64_t most = before ? length_of(before) : 0;
    while (position < sequence->wanted && position < most &&
           stream_token(sequence, position) == stream_token(before, position))
        position++;
    return position;
}

/* Listing runs twice: while order->chunks is NULL the chunks and pieces are only counted. */
struct listing {
    const struct stream_text *text;
    struct stream_order *order;
    int64_t filled;     /* tokens in the last chunk, when the next piece may join it */
    int64_t wave_begin; /* the first chunk of the wave */
};

/* Add a piece to the last chunk, if that has room, or begin another. */
static void add_piece(struct listing *listing, const struct stream_piece *piece, bool last) {
    struct stream_order *order = listing->order;
    const bool begins = listing->filled == 0;
    if (order->chunks) {
        struct stream_chunk *chunk = &order->chunks[order->count - !begins];
        if (begins)
            *chunk = (struct stream_chunk){
                .sequence = piece->sequence,
                .position = piece->position,
                .pieces = &order->pieces[order->piece_count],
                .leaves = order->passes == 1,
                .place = order->count - listing->wave_begin,
            };
        chunk->tokens += piece->tokens;
        chunk->piece_count++;
        chunk->last = last;
        order->pieces[order->piece_count] = *piece;
    }
    order->count += begins;
    order->piece_count++;
    order->tokens += piece->tokens;
    const int64_t filled = listing->filled + piece->tokens;
    listing->filled = listing->text->packed && filled < listing->text->chunk_tokens ? filled : 0;
}

/* The pieces of a sequence, whose replica worked on `before` just before. */
static void list_sequence(struct listing *listing, int64_t index,
                          const struct stream_sequence *before) {
    const struct stream_sequence *sequence = &listing->text->sequences[index];
    const int64_t length = length_of(sequence);
    for (int64_t at = first_position(sequence, before), taken; at < length; at += taken) {
        const int64_t room = listing->text->chunk_tokens - listing->filled;
        taken = length - at < room ? length - at : room;
        const struct stream_piece piece = {index, at, taken};
        add_piece(listing, &piece, at + taken == length);
    }
}

/* The first pass of a wave stands in chunks [wave_begin, count): add the others. The next wave
 * shares nothing with it, on stages with one pass either: all have the same chunks, or what one
 * sends would not be what the next one awaits. */
static void end_wave(struct listing *listing) {
    struct stream_order *order = listing->order;
    const int64_t begin = listing->wave_begin, count = order->count - begin;
    order->wave_chunks = count > order->wave_chunks ? count : order->wave_chunks;
    listing->filled = 0;
    for (int pass = 1; pass < order->passes; pass++)
        for (int64_t i = 0; i < count; i++, order->count++)
            if (order->chunks) {
                struct stream_chunk *chunk = &order->chunks[order->count];
                *chunk = order->chunks[begin + i];
                chunk->pass = pass;
                chunk->leaves = pass + 1 == order->passes;
            }
    listing->wave_begin = order->count;
}

static void list_chunks(const struct stream_text *text, int replica, int replicas,
                        struct stream_order *order) {
    struct listing listing = {.text = text, .order = order};
    const struct stream_sequence *before = NULL;
    int64_t in_wave = 0;
    order->count = order->piece_count = order->tokens = 0;
    for (int64_t i = 0; i < text->count; i++) {
        const struct stream_sequence *sequence = &text->sequences[i];
        if (sequence->group % replicas != replica)
            continue;
        list_sequence(&listing, i, before);
        before = sequence;
        if (!text->wave || ++in_wave < text->wave)
            continue;
        end_wave(&listing);
        before = NULL; /* other layers' keys and values came after its own */
        in_wave = 0;
    }
    if (in_wave)
        end_wave(&listing);
}

enum status stream_order_create(const struct stream_text *text, int replica, int replicas,
                                int passes, struct stream_order *order, struct error *error) {
    assert(passes == 1 || text->wave);
    *order = (struct stream_order){.passes = passes};
    list_chunks(text, replica, replicas, order);
    struct stream_chunk *chunks = malloc(((size_t)order->count + 1) * sizeof *chunks);
    order->pieces = malloc(((size_t)order->piece_count + 1) * sizeof *order->pieces);
    if (!chunks || !order->pieces) {
        free(chunks);
        return error_set(error, STATUS_FAILED, "no memory for the list of %lld microbatches",
                         (long long)order->count);
    }
    order->chunks = chunks;
    list_chunks(text, replica, replicas, order);
    return STATUS_OK;
}

void stream_order_free(struct stream_order *order) {
    free(order->chunks);
    free(order->pieces);
    memset(order, 0, sizeof *order);
}

bool stream_order_has(const struct stream_order *order, int64_t k, enum stream_act act, int stage,
                      int stages) {
    const struct stream_chunk *chunk = k < 0 ? NULL : &order->chunks[k];
    assert(chunk || act == STREAM_EXPECT);
    switch (act) {
    case STREAM_ENTER:
        return order->passes > 1 && (k == 0 || chunk->pass != order->chunks[k - 1].pass);
    case STREAM_AWAIT:
        return stage > 0 && chunk->pass == 0;
    case STREAM_CLEAR:
        return stage + 1 < stages && k >= STREAM_RING - 1 &&
               order->chunks[k + 1 - STREAM_RING].leaves;
    case STREAM_EXPECT:
        return stage > 0 && k + 1 < order->count && order->chunks[k + 1].pass == 0;
    case STREAM_READ:
        return chunk->pass > 0;
    case STREAM_KEEP:
        return !chunk->leaves;
    case STREAM_SEND:
        return stage + 1 < stages && chunk->leaves;
    default:
        return true;
    }
}

enum section stream_act_section(enum stream_act act) {
    return act == STREAM_ENTER   ? SECTION_LOAD
           : act == STREAM_VISIT ? SECTION_COMPUTE
                                 : SECTION_WAIT;
}
