/* Where a rank's time goes. */
#ifndef FPTQ_PIPELINE_TIMING_H
#define FPTQ_PIPELINE_TIMING_H

enum section {
    SECTION_OPEN,     /* open the model, make the plan */
    SECTION_SAMPLE,   /* read and tokenize the data */
    SECTION_LOAD,     /* decode the stage's weights */
    SECTION_COMPUTE,  /* calibration: the forward pass */
    SECTION_HESSIAN,  /* calibration: sums for GPTQ */
    SECTION_WAIT,     /* calibration: waiting for other stages */
    SECTION_REDUCE,   /* ranges and Hessians over replicas */
    SECTION_FACTOR,   /* Cholesky factors for GPTQ */
    SECTION_QUANTIZE, /* weights to integers, compression */
    SECTION_WRITE,    /* into the parts */
    SECTION_ASSEMBLE, /* the checkpoint of the parts */
    SECTION_COUNT
};

struct timing {
    double seconds[SECTION_COUNT];
    double processor[SECTION_COUNT]; /* seconds of all the process's threads on a core */
};

/* A moment: when it was, and how much processor time the process had taken. */
struct timing_mark {
    double wall, processor;
};

const char *section_name(enum section section);
/* Seconds from an arbitrary start. */
double timing_now(void);
/* When to save a state again after a save that took `duration`, of timing_now(): 50 times that
 * later, so that at most 2% of the time goes into it, and not sooner than in a second. */
double timing_next_save(double duration);
struct timing_mark timing_mark(void);
/* Add the time since *since to a section and set *since to now. */
void timing_add(struct timing *timing, enum section section, struct timing_mark *since);
/* Let the time since `begin`, which is or will be added to `from`, count for `to` instead. */
void timing_move(struct timing *timing, enum section from, enum section to,
                 const struct timing_mark *begin);

#endif
