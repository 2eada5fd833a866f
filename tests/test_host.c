/* What the host gives: memory, cores, and the limits of control groups, in made-up /proc and /sys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <errno.h>
#include <ftw.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "pipeline/cores.h"
#include "pipeline/memory.h"

static const int64_t MiB = 1 << 20;
static char root[64];

/* Write root + path, making the folders on the way. */
static void put(const char *path, const char *text) {
    char name[300];
    snprintf(name, sizeof name, "%s%s", root, path);
    for (char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(name, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

static int make_root(void **state) {
    (void)state;
    strcpy(root, "/tmp/test_host_XXXXXX");
    if (!mkdtemp(root))
        return -1;
    put("/proc/meminfo", "MemTotal:  4096000 kB\nMemFree: 1 kB\nMemAvailable:  2048000 kB\n");
    return 0;
}

static int remove_root(void **state) {
    (void)state;
    return nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void test_no_groups(void **state) {
    (void)state;
    assert_int_equal(memory_available_at(root), 2000 * MiB);
    assert_true(cores_quota_at(root) == 0);
    put("/proc/meminfo", "MemTotal:  4096000 kB\n");
    assert_int_equal(memory_available_at(root), 4000 * MiB);
    put("/proc/meminfo", "");
    assert_int_equal(memory_available_at(root), 0);
}

static void test_version_2(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/job/step/task\n");
    put("/sys/fs/cgroup/job/step/task/memory.max", "max\n");
    put("/sys/fs/cgroup/job/step/memory.max", "1048576000\n"); /* 1000 MiB */
    put("/sys/fs/cgroup/job/step/memory.current", "314572800\n");
    put("/sys/fs/cgroup/job/step/memory.stat", "anon 1\nfile_mapped 5\nfile 104857600\n");
    put("/sys/fs/cgroup/job/memory.max", "5000000000\n");
    assert_int_equal(memory_available_at(root), 800 * MiB); /* 1000 - (300 - 100 of cache) */
    put("/sys/fs/cgroup/job/memory.high", "524288000\n");
    assert_int_equal(memory_available_at(root), 500 * MiB);

    put("/sys/fs/cgroup/job/step/task/cpu.max", "max 100000\n");
    assert_true(cores_quota_at(root) == 0);
    put("/sys/fs/cgroup/job/cpu.max", "250000 100000\n");
    assert_true(cores_quota_at(root) == 2.5);
}

static void test_version_1(void **state) {
    (void)state;
    /* In a container the path is the host's and is not there: the mount's own files count. */
    put("/proc/self/cgroup",
        "5:cpuset:/x\n4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(memory_available_at(root), 2000 * MiB);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576000\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "524288000\n");
    put("/sys/fs/cgroup/memory/memory.stat", "cache 1\ntotal_cache 419430400\n");
    assert_int_equal(memory_available_at(root), 900 * MiB);
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_true(cores_quota_at(root) == 0);
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n");
    assert_true(cores_quota_at(root) == 4);
}

static void test_threads(void **state) {
    (void)state;
    const struct cores free = {.count = 16}, limited = {.count = 16, .quota = 6.5};
    assert_int_equal(cores_threads(&free, 1, 1), 16);
    assert_int_equal(cores_threads(&free, 4, 4), 4);
    assert_int_equal(cores_threads(&free, 3, 8), 5);
    assert_int_equal(cores_threads(&free, 64, 64), 1);
    assert_int_equal(cores_threads(&limited, 1, 1), 6);
    assert_int_equal(cores_threads(&limited, 4, 4), 1);
    assert_int_equal(cores_threads(&limited, 1, 2), 3);
}

static void test_this_host(void **state) {
    (void)state;
    const int64_t available = memory_available();
    const int64_t most = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    assert_true(available >= 1 && available <= most);
    const int64_t bytes = 64 * MiB;
    char *block = malloc((size_t)bytes);
    assert_non_null(block);
    memset(block, 1, (size_t)bytes);
    __asm__ volatile("" ::"r"(block) : "memory");
    free(block);
    assert_true(memory_peak() >= bytes && memory_peak() <= most);
    char text[32];
    memory_text(512, text, sizeof text);
    assert_string_equal(text, "512 bytes");
    memory_text(3 * MiB / 2, text, sizeof text);
    assert_string_equal(text, "1.5 MiB");
}

static void test_binding(void **state) {
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    const struct cores before = cores_detect();
    assert_true(before.count >= 1 && before.count <= CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (size_t processor = 0; CPU_COUNT(&one) == 0; processor++)
        if (CPU_ISSET(processor, &all))
            CPU_SET(processor, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    const struct cores bound = cores_detect();
    assert_int_equal(bound.count, 1);
    if (CPU_COUNT(&all) > 1)
        assert_true(bound.binding != before.binding);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_true(cores_detect().binding == before.binding);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_groups, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_version_2, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_version_1, make_root, remove_root),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_this_host),
        cmocka_unit_test(test_binding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
