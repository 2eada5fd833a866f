#include "kernels/quantize.h"
#include <math.h>
int64_t quantize_group_count(const struct quantize_format *f, int64_t c) {
    return f->group_size ? (c + f->group_size - 1) / f->group_size : 1;
}
size_t quantize_scratch_bytes(int64_t columns) {
    return (size_t)columns * 8 + 64;
}
int64_t quantize_rows_int4(enum kernel_path path, const struct quantize_format *f,
                           const struct quantize_source *s, int64_t r0, int64_t r1, uint8_t *packed,
                           float *scales, int8_t *zp, double *e, double *w2, void *scratch) {
    (void)path;
    int64_t C = s->columns, g = f->group_size ? f->group_size : C, G = quantize_group_count(f, C);
    float *w = scratch;
    int8_t *q = (int8_t *)(w + C);
    for (int64_t r = r0; r < r1; r++) {
        number_widen(w, (const char *)s->data + (size_t)(r * s->stride) * number_size(s->type),
                     s->type, (size_t)C);
        for (int64_t c = 0; c < C; c++) {
            if (s->row_multiplier)
                w[c] *= s->row_multiplier[r];
            if (s->column_multiplier)
                w[c] *= s->column_multiplier[c];
            if (!isfinite(w[c]))
                return r;
        }
        double se = 0, sw = 0;
        for (int64_t k = 0; k < G; k++) {
            float lo = 0, hi = 0;
            int64_t e1 = (k + 1) * g < C ? (k + 1) * g : C;
            for (int64_t c = k * g; c < e1; c++) {
                lo = fminf(lo, w[c]);
                hi = fmaxf(hi, w[c]);
            }
            float sc;
            int z = 0;
            if (f->symmetric)
                sc = fmaxf(-lo, hi) / 7.5f;
            else
                sc = (hi - lo) / 15;
            if (f->scale_type == NUMBER_F16)
                sc = number_from_f16(number_to_f16(sc));
            if (sc == 0)
                sc = 1;
            if (!f->symmetric) {
                z = (int)fminf(7, fmaxf(-8, rintf(-8 - lo / sc)));
                zp[(r - r0) * G + k] = (int8_t)z;
            }
            scales[(r - r0) * G + k] = sc;
            for (int64_t c = k * g; c < e1; c++) {
                float v = fminf(7, fmaxf(-8, rintf(w[c] / sc) + (float)z));
                q[c] = (int8_t)v;
                double d = (double)w[c] - (double)(v - (float)z) * sc;
                se += d * d;
                sw += (double)w[c] * w[c];
            }
        }
        if (e)
            e[r - r0] = se;
        if (w2)
            w2[r - r0] = sw;
        for (int64_t c = 0; c < C; c++) {
            int64_t i = (r - r0) * C + c;
            if (i % 2 == 0)
                packed[i / 2] = (uint8_t)((q[c] & 15) << 4);
            else
                packed[i / 2] |= (uint8_t)(q[c] & 15);
        }
    }
    return -1;
}
