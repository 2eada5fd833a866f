/* UNROLL before a loop of few, constant rounds: it is unrolled whole, so that an array it indexes
 * can live in registers. */
#ifndef FPTQ_KERNELS_UNROLL_H
#define FPTQ_KERNELS_UNROLL_H

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#endif
