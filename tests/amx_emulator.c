/* After the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, and the AMX
 * chapter of volume 1. Faults that the processor would raise end the program with a message. */
#include "tests/amx_emulator.h"

#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "kernels/number.h"
#include "kernels/path.h"

enum { TILES = 8, MAX_ROWS = 16, MAX_BYTES = 64 };

struct configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

struct tile_state {
    struct configuration configuration;
    uint8_t tiles[TILES][MAX_ROWS][MAX_BYTES];
};

static _Thread_local struct tile_state thread_state;

static _Noreturn void fail(const char *what) {
    static const char prefix[] = "amx_emulator: ";
    if (write(STDERR_FILENO, prefix, sizeof prefix - 1) < 0 ||
        write(STDERR_FILENO, what, strlen(what)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
        _exit(4);
    abort();
}

static void require(bool condition, const char *what) {
    if (!condition)
        fail(what);
}

/* ---- Decoding ---- */

/* VEX.128, map 0F38, W0: [opcode, prefix] and the fields of ModRM. */
struct instruction {
    uint8_t opcode, prefix; /* prefix: 0 none, 1 66, 2 F3, 3 F2 */
    int mod, reg, rm, vvvv;
    int index;        /* register number, or -1 */
    uint64_t address; /* base + displacement, without the index */
    uint64_t stride;  /* index << scale */
    size_t length;
};

static uint64_t read_register(const mcontext_t *machine, int number) {
    static const int greg[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)machine->gregs[greg[number]];
}

static int64_t read_displacement(const uint8_t *code, int mod, bool absent_base) {
    if (mod == 1)
        return (int8_t)code[0];
    int32_t wide = 0;
    if (mod == 2 || absent_base)
        memcpy(&wide, code, sizeof wide);
    return wide;
}

/* The memory operand: code points behind ModRM. */
static void decode_memory(struct instruction *in, const uint8_t *code, const mcontext_t *machine,
                          int extend_index, int extend_base) {
    const uint8_t *at = code;
    bool no_base = false, next_relative = false;
    int base = in->rm | extend_base;
    in->index = -1;
    if (in->rm == 4) {
        const int sib = *at++;
        base = (sib & 7) | extend_base;
        no_base = in->mod == 0 && (sib & 7) == 5;
        const int index = (sib >> 3 & 7) | extend_index;
        if (index != 4) {
            in->index = index;
            in->stride = read_register(machine, index) << (sib >> 6);
        }
    } else if (in->mod == 0 && in->rm == 5) {
        no_base = next_relative = true;
    }
    in->address = (uint64_t)read_displacement(at, in->mod, no_base);
    at += in->mod == 1 ? 1 : in->mod == 2 || no_base ? 4 : 0;
    in->length += (size_t)(at - code);
    if (next_relative)
        in->address += (uint64_t)machine->gregs[REG_RIP] + in->length;
    else if (!no_base)
        in->address += read_register(machine, base);
}

static bool decode(const mcontext_t *machine, struct instruction *in) {
    const uint8_t *code = (const uint8_t *)machine->gregs[REG_RIP];
    /* C4, [not R, not X, not B, map 2], [W 0, not vvvv, L 0, prefix] */
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0)
        return false;
    const int extend_register = code[1] & 0x80 ? 0 : 8, extend_index = code[1] & 0x40 ? 0 : 8,
              extend_base = code[1] & 0x20 ? 0 : 8;
    *in = (struct instruction){.opcode = code[3],
                               .prefix = code[2] & 3,
                               .vvvv = ~(code[2] >> 3) & 15,
                               .mod = code[4] >> 6,
                               .reg = (code[4] >> 3 & 7) | extend_register,
                               .rm = code[4] & 7,
                               .length = 5};
    if (in->mod != 3)
        decode_memory(in, code + 5, machine, extend_index, extend_base);
    else
        in->rm |= extend_base;
    return true;
}

/* ---- Carrying out ---- */

static void load_configuration(struct tile_state *state, const void *memory) {
    memset(state, 0, sizeof *state);
    struct configuration *c = &state->configuration;
    memcpy(c, memory, sizeof *c);
    if (c->palette == 0) {
        memset(c, 0, sizeof *c);
        return;
    }
    require(c->palette == 1, "ldtilecfg: palette");
    for (int i = 0; i < 14; i++)
        require(c->reserved[i] == 0, "ldtilecfg: reserved bytes");
    for (int i = 0; i < 16; i++) {
        require(i < TILES || (c->rows[i] == 0 && c->row_bytes[i] == 0), "ldtilecfg: tile number");
        require(c->rows[i] <= MAX_ROWS && c->row_bytes[i] <= MAX_BYTES, "ldtilecfg: tile size");
        require((c->rows[i] == 0) == (c->row_bytes[i] == 0), "ldtilecfg: half a tile");
    }
}

static void require_tile(const struct tile_state *state, int tile) {
    require(state->configuration.palette == 1, "no tiles configured");
    require(tile < TILES && state->configuration.rows[tile] > 0, "tile not configured");
}

static void load_tile(struct tile_state *state, const struct instruction *in) {
    require_tile(state, in->reg);
    memset(state->tiles[in->reg], 0, sizeof state->tiles[in->reg]);
    for (int row = 0; row < state->configuration.rows[in->reg]; row++)
        memcpy(state->tiles[in->reg][row], (const void *)(in->address + (uint64_t)row * in->stride),
               state->configuration.row_bytes[in->reg]);
}

static void store_tile(const struct tile_state *state, const struct instruction *in) {
    require_tile(state, in->reg);
    for (int row = 0; row < state->configuration.rows[in->reg]; row++)
        memcpy((void *)(in->address + (uint64_t)row * in->stride), state->tiles[in->reg][row],
               state->configuration.row_bytes[in->reg]);
}

/* Denormals are zeros, before and after, whatever MXCSR says. */
static float flush(float x) {
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

/* The emulator is installed only where there are fused multiply-adds. */
__attribute__((target("avx2,fma"))) static float
dot_bf16(float sum, const uint8_t *a_row, const uint8_t (*b)[MAX_BYTES], int pairs, int column) {
    float part[2] = {0.0f, 0.0f};
    for (int k = 0; k < pairs; k++) {
        uint16_t a[2], c[2];
        memcpy(a, a_row + 4 * k, sizeof a);
        memcpy(c, b[k] + 4 * column, sizeof c);
        for (int i = 0; i < 2; i++)
            part[i] =
                flush(fmaf(flush(number_from_bf16(a[i])), flush(number_from_bf16(c[i])), part[i]));
    }
    return flush(flush(sum) + flush(part[0] + part[1]));
}

static int32_t widen(uint8_t byte, bool is_signed) {
    return is_signed ? (int8_t)byte : byte;
}

static int32_t dot_int8(int32_t sum, const uint8_t *a_row, const uint8_t (*b)[MAX_BYTES], int quads,
                        int column, bool a_signed, bool b_signed) {
    uint32_t total = (uint32_t)sum; /* wraps around */
    for (int k = 0; k < quads; k++)
        for (int i = 0; i < 4; i++)
            total += (uint32_t)(widen(a_row[4 * k + i], a_signed) *
                                widen(b[k][4 * column + i], b_signed));
    return (int32_t)total;
}

static void dot_tiles(struct tile_state *state, const struct instruction *in) {
    const int sum = in->reg, a = in->rm, b = in->vvvv;
    const struct configuration *c = &state->configuration;
    require_tile(state, sum);
    require_tile(state, a);
    require_tile(state, b);
    require(sum != a && sum != b && a != b, "dot: one tile twice");
    require(c->rows[sum] == c->rows[a] && c->row_bytes[sum] == c->row_bytes[b] &&
                c->row_bytes[a] % 4 == 0 && c->row_bytes[a] / 4 == c->rows[b] &&
                c->row_bytes[sum] % 4 == 0,
            "dot: tiles do not fit");
    const bool a_signed = in->prefix >= 2, b_signed = in->prefix & 1; /* of 5E: F2 ss, F3 su .. */
    for (int row = 0; row < c->rows[sum]; row++) {
        for (int column = 0; column < c->row_bytes[sum] / 4; column++) {
            uint8_t *element = state->tiles[sum][row] + 4 * column;
            const uint8_t *a_row = state->tiles[a][row];
            const uint8_t(*b_rows)[MAX_BYTES] = (const uint8_t(*)[MAX_BYTES])state->tiles[b];
            if (in->opcode == 0x5c) {
                float value;
                memcpy(&value, element, sizeof value);
                value = dot_bf16(value, a_row, b_rows, c->rows[b], column);
                memcpy(element, &value, sizeof value);
            } else {
                int32_t value;
                memcpy(&value, element, sizeof value);
                value = dot_int8(value, a_row, b_rows, c->rows[b], column, a_signed, b_signed);
                memcpy(element, &value, sizeof value);
            }
        }
    }
}

enum { NONE, P66, PF3, PF2 };

static bool carry_out(struct tile_state *state, const struct instruction *in) {
    const bool memory = in->mod != 3;
    switch (in->opcode) {
    case 0x49:
        if (in->prefix == NONE && memory)
            load_configuration(state, (const void *)in->address);
        else if (in->prefix == P66 && memory)
            memcpy((void *)in->address, &state->configuration, sizeof state->configuration);
        else if (in->prefix == NONE)
            memset(state, 0, sizeof *state);
        else if (in->prefix == PF2 && !memory) {
            require_tile(state, in->reg);
            memset(state->tiles[in->reg], 0, sizeof state->tiles[in->reg]);
        } else
            return false;
        return true;
    case 0x4b:
        if (!memory || in->prefix == NONE)
            return false;
        if (in->prefix == PF3)
            store_tile(state, in);
        else
            load_tile(state, in);
        return true;
    case 0x5c:
    case 0x5e:
        if (memory || (in->opcode == 0x5c && in->prefix != PF3))
            return false;
        dot_tiles(state, in);
        return true;
    default:
        return false;
    }
}

static void on_illegal_instruction(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
    struct instruction in;
    require(decode(machine, &in) && carry_out(&thread_state, &in), "illegal instruction");
    machine->gregs[REG_RIP] += (greg_t)in.length;
}

bool amx_emulator_install(void) {
    if (kernel_path_supported(PATH_AMX))
        return true;
    struct sigaction action = {.sa_sigaction = on_illegal_instruction, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    return kernel_path_supported(PATH_AVX512_BF16) && sigaction(SIGILL, &action, NULL) == 0;
}
