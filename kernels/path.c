#include "kernels/path.h"

#include <cpuid.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const path_names[PATH_COUNT] = {
    [PATH_PORTABLE] = "portable",       [PATH_AVX2] = "avx2", [PATH_AVX512] = "avx512",
    [PATH_AVX512_BF16] = "avx512-bf16", [PATH_AMX] = "amx",
};

const char *kernel_path_name(enum kernel_path path) {
    return path_names[path];
}

bool kernel_path_parse(const char *name, enum kernel_path *path) {
    for (int i = 0; i < PATH_COUNT; i++) {
        if (strcmp(name, path_names[i]) == 0) {
            *path = (enum kernel_path)i;
            return true;
        }
    }
    return false;
}

struct registers {
    unsigned eax, ebx, ecx, edx;
};

static struct registers query(unsigned leaf, unsigned subleaf) {
    struct registers r = {0};
    if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx))
        return (struct registers){0};
    return r;
}

static bool has(unsigned value, unsigned bits) {
    return (value & bits) == bits;
}

/* The register states that the operating system saves (XCR0). */
static uint64_t saved_states(void) {
    if (!has(query(1, 0).ecx, bit_OSXSAVE))
        return 0;
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* x86-64-v3 (of it, what the kernels use). */
static bool has_avx2(void) {
    const uint64_t ymm_states = 0x6;
    return (saved_states() & ymm_states) == ymm_states &&
           has(query(1, 0).ecx, bit_AVX | bit_FMA | bit_F16C | bit_MOVBE) &&
           has(query(7, 0).ebx, bit_AVX2 | bit_BMI | bit_BMI2) &&
           has(query(0x80000001, 0).ecx, bit_LZCNT);
}

/* x86-64-v4 */
static bool has_avx512(void) {
    const uint64_t zmm_states = 0xe6;
    return (saved_states() & zmm_states) == zmm_states &&
           has(query(7, 0).ebx,
               bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL);
}

static bool has_avx512_bf16(void) {
    const unsigned avx512_bf16 = 1u << 5;
    return has(query(7, 1).eax, avx512_bf16) && has(query(7, 0).ecx, bit_AVX512VNNI | bit_GFNI);
}

/* Tile registers must be asked for, once per process; asking again changes nothing. */
static bool has_amx(void) {
    const uint64_t tile_states = 0x60000;
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, amx_int8 = 1u << 25;
    const long request_permission = 0x1023, tile_data = 18;
    return (saved_states() & tile_states) == tile_states &&
           has(query(7, 0).edx, amx_bf16 | amx_tile | amx_int8) &&
           syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

bool kernel_path_supported(enum kernel_path path) {
    return (path < PATH_AVX2 || has_avx2()) && (path < PATH_AVX512 || has_avx512()) &&
           (path < PATH_AVX512_BF16 || has_avx512_bf16()) && (path < PATH_AMX || has_amx());
}

enum kernel_path kernel_path_best(void) {
    if (kernel_path_supported(PATH_AMX))
        return PATH_AMX;
    const bool is_amd = query(0, 0).ebx == signature_AMD_ebx;
    if (is_amd && kernel_path_supported(PATH_AVX512_BF16))
        return PATH_AVX512_BF16;
    if (kernel_path_supported(PATH_AVX512))
        return PATH_AVX512;
    return kernel_path_supported(PATH_AVX2) ? PATH_AVX2 : PATH_PORTABLE;
}
