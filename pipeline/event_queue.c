#include "pipeline/event_queue.h"

static bool is_before(const struct event *a, const struct event *b) {
    return a->time != b->time ? a->time < b->time : a->rank < b->rank;
}

void event_queue_put(struct event_queue *queue, double time, int rank) {
    const struct event event = {time, rank};
    int at = queue->count++;
    for (int parent; at > 0; at = parent) {
        parent = (at - 1) / 2;
        if (!is_before(&event, &queue->events[parent]))
            break;
        queue->events[at] = queue->events[parent];
    }
    queue->events[at] = event;
}

bool event_queue_take(struct event_queue *queue, struct event *event) {
    if (queue->count == 0)
        return false;
    *event = queue->events[0];
    const struct event last = queue->events[--queue->count];
    int at = 0;
    for (int child; (child = 2 * at + 1) < queue->count; at = child) {
        if (child + 1 < queue->count && is_before(&queue->events[child + 1], &queue->events[child]))
            child++;
        if (!is_before(&queue->events[child], &last))
            break;
        queue->events[at] = queue->events[child];
    }
    queue->events[at] = last;
    return true;
}
