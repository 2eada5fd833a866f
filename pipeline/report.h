/* The report of a run: tables for people, the same data as JSON for programs. Plain data in, made
 * by the job; nothing here talks to other ranks or opens the model. */
#ifndef FPTQ_PIPELINE_REPORT_H
#define FPTQ_PIPELINE_REPORT_H

#include <stdint.h>

#include "io/status.h"
#include "kernels/equalize.h"

/* A site of a layer: what was measured, what was chosen, what quantization did. */
struct report_site {
    int layer;
    const char *site; /* "attention_input" ... */
    float range;      /* v, the largest |activation|; NaN: not calibrated */
    enum input_policy policy;
    double weight_error; /* sqrt(sum (w - w_quantized)^2 / sum w^2) over the linears that read it */
    double damping;      /* of the Hessian that its weights were rounded by; 0: none */
    /* What each treatment would cost at the linears' outputs (pipeline/site_error.h), by enum
     * input_policy; negative: not measured. */
    double errors[TREATMENT_COUNT];
};

/* Seconds that the ranks spent in a part of the run. */
struct report_section {
    const char *name;
    double least, mean, most; /* over the ranks */
    double processor;         /* seconds on a core, of all ranks together */
};

struct report_memory {
    const char *host;
    int64_t peak; /* bytes of the rank's largest resident set */
};

struct report {
    const char *method, *model, *checkpoint; /* "fptq", paths */
    const char *path;                        /* the kernels' instruction path */
    int ranks, hosts, stages, replicas, threads;
    int64_t samples, sequence_length; /* of calibration; 0: none */
    int64_t checkpoint_bytes;         /* 0: not known */
    double seconds;                   /* wall time of the whole run */
    const struct report_site *sites;  /* (site_count) by layer, then site */
    int site_count;
    const struct report_section *sections; /* (section_count) */
    int section_count;
    const struct report_memory *memory; /* (ranks) by rank; NULL: not known */
};

/* The tables on standard output, if this process speaks: every site, how often each policy was
 * chosen at each kind of site, time by section with its share of the wall time, memory by host. */
void report_print(const struct report *report);
/* The single tables. */
void report_print_sites(const struct report *report);
void report_print_choices(const struct report *report);
void report_print_sections(const struct report *report);
void report_print_memory(const struct report *report);

/* Write all of it to `file` as JSON with sorted keys: to FILE.tmp, then renamed. STATUS_FAILED when
 * it cannot be written. */
enum status report_write_json(const struct report *report, const char *file, struct error *error);

#endif
