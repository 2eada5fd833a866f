#include "kernels/w4a8_layout.h"

#include <assert.h>

/* VNNI is no path of its own: its bits are those of the others. Where an avx512 machine lacks it,
 * the 256-bit instructions do. */
static const struct w4a8_kernel *find_kernel(enum kernel_path path) {
    static const struct w4a8_kernel *const kernels[PATH_COUNT] = {
        [PATH_PORTABLE] = &w4a8_portable,
        [PATH_AVX2] = &w4a8_avx2,
        [PATH_AVX512] = &w4a8_avx512_vnni,
        [PATH_AVX512_BF16] = &w4a8_avx512_vnni,
        [PATH_AMX] = &w4a8_amx,
    };
    if (path == PATH_AVX512 && !__builtin_cpu_supports("avx512vnni"))
        path = PATH_AVX2;
    return kernels[path];
}

static struct w4a8_grouping find_grouping(const struct w4a8_kernel *kernel, int64_t columns,
                                          int64_t group_size) {
    const int64_t size = group_size == 0 || group_size > columns ? columns : group_size;
    const int64_t groups = (columns + size - 1) / size;
    struct w4a8_grouping grouping = {
        .groups = groups, .size = size, .last_size = columns - (groups - 1) * size};
    grouping.count = w4a8_round_up(size, kernel->span);
    grouping.last_count = w4a8_round_up(grouping.last_size, kernel->span);
    grouping.total = (groups - 1) * grouping.count + grouping.last_count;
    return grouping;
}

struct w4a8_step w4a8_step_of(const struct w4a8_grouping *grouping, int64_t group, int64_t k) {
    const int64_t count = w4a8_group_filled(grouping, group);
    if (count > W4A8_STEP_K) {
        const int64_t begin = k / W4A8_STEP_K * W4A8_STEP_K;
        return (struct w4a8_step){group, 1, begin, w4a8_minimum(W4A8_STEP_K, count - begin)};
    }
    if (count != grouping->count) /* a short last one */
        return (struct w4a8_step){group, 1, 0, count};
    const int64_t most = W4A8_STEP_K / count, begin = group / most * most;
    const int64_t alike = grouping->groups - (grouping->last_count != grouping->count);
    return (struct w4a8_step){begin, w4a8_minimum(most, alike - begin), 0, count};
}

struct w4a8_step w4a8_step_after(const struct w4a8_grouping *grouping,
                                 const struct w4a8_step *step) {
    const int64_t k = step->k + step->count, group = step->group + step->groups;
    return k < w4a8_group_filled(grouping, step->group) ? w4a8_step_of(grouping, step->group, k)
           : group < grouping->groups                   ? w4a8_step_of(grouping, group, 0)
                                                        : (struct w4a8_step){.group = group};
}

struct w4a8_layout w4a8_find_layout(const struct w4a8_weight *weight) {
    const struct w4a8_kernel *kernel = find_kernel(weight->path);
    assert((weight->bits == 4 || weight->bits == 8) && (weight->bits == 4 || weight->symmetric));
    struct w4a8_layout layout = {
        .kernel = kernel,
        .grouping = find_grouping(kernel, weight->columns, weight->group_size),
        .bits = weight->bits,
        .bias = weight->bits == 4 ? kernel->bias4 : kernel->bias8,
        .grid_bytes = w4a8_round_up(kernel->columns * (weight->symmetric ? 4 : 5), 64),
    };
    layout.record_bytes = w4a8_level_bytes(&layout, layout.grouping.count) + layout.grid_bytes;
    layout.panel_bytes = w4a8_round_up(w4a8_level_bytes(&layout, layout.grouping.total), 64) +
                         layout.grouping.groups * layout.grid_bytes;
    return layout;
}

struct w4a8_packed w4a8_find_packed(const struct w4a8_input *input) {
    const struct w4a8_kernel *kernel = find_kernel(input->path);
    struct w4a8_packed packed = {
        .kernel = kernel,
        .grouping = find_grouping(kernel, input->columns, input->group_size),
        .rows = input->rows == 1 && kernel->multiply_streams[0] != NULL
                    ? 1
                    : w4a8_round_up(input->rows, kernel->row_multiple),
        .scales = input->data,
    };
    if (input->data == NULL) /* only sizes are asked for */
        return packed;
    packed.sums = (int32_t *)input->data + w4a8_round_up(packed.rows, 16);
    packed.tiles =
        (int8_t *)(packed.sums + w4a8_round_up(packed.rows * packed.grouping.groups, 16));
    return packed;
}
