/* How things in a row are shared out whole: the layers among stages, a stage's layers among passes.
 */
#ifndef FPTQ_PIPELINE_SLICE_H
#define FPTQ_PIPELINE_SLICE_H

/* Where part `part` of `parts` begins; part == parts gives `count`. Uneven rests go to the first
 * parts. */
static inline int slice_begin(int count, int parts, int part) {
    const int each = count / parts, rest = count % parts;
    return part * each + (part < rest ? part : rest);
}

#endif
