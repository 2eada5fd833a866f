/* Tile instructions (Intel AMX) for the amx path's files. The compiler's own intrinsics do not tell
 * it that they read and write memory, so a configuration set up just before may vanish: these do.
 */
#ifndef FPTQ_KERNELS_TILE_AMX_H
#define FPTQ_KERNELS_TILE_AMX_H

#include <stdint.h>

struct tile_configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* All eight tiles with 16 rows of 64 bytes. */
static inline void tile_configure(void) {
    const struct tile_configuration configuration = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    __asm__ volatile("ldtilecfg %0" : : "m"(configuration));
}

static inline void tile_release(void) {
    __asm__ volatile("tilerelease");
}

/* The tile's number is a literal 0 .. 7; rows are `stride` bytes apart. */
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define TILE_MOVE(instruction, operands, base, stride)                                             \
    __asm__ volatile(instruction " " operands : : "r"(base), "r"((int64_t)(stride)) : "memory")
#define TILE_LOAD(tile, base, stride) TILE_MOVE("tileloadd", "(%0,%1,1), %%tmm" #tile, base, stride)
/* Data that is read once: it is not to push other data out of the nearest cache. */
#define TILE_LOAD_STREAM(tile, base, stride)                                                       \
    TILE_MOVE("tileloaddt1", "(%0,%1,1), %%tmm" #tile, base, stride)
#define TILE_STORE(tile, base, stride)                                                             \
    TILE_MOVE("tilestored", "%%tmm" #tile ", (%0,%1,1)", base, stride)
/* sum (16, 16) f32 += a (16 rows, 16 pairs of bf16) . b (16 pairs of rows, 16) */
#define TILE_DOT_BF16(sum, a, b)                                                                   \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

#endif
