/* Events to come, the earliest first: what a simulation by events runs on. */
#ifndef FPTQ_PIPELINE_EVENT_QUEUE_H
#define FPTQ_PIPELINE_EVENT_QUEUE_H

#include <stdbool.h>

struct event {
    double time;
    int rank;
};

/* A binary heap in the caller's memory, which has room for all. */
struct event_queue {
    struct event *events;
    int count;
};

void event_queue_put(struct event_queue *queue, double time, int rank);
/* The earliest, of equal times the lowest rank's; false when there is none. */
bool event_queue_take(struct event_queue *queue, struct event *event);

#endif
