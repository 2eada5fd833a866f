#include "pipeline/memory.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "pipeline/cgroup.h"

/* The number in the line "KEY:   12345 kB" of a file of /proc, in bytes; 0 when there is none. */
static int64_t read_kilobytes(const char *path, const char *key) {
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    char line[256];
    const size_t length = strlen(key);
    int64_t bytes = 0;
    while (bytes == 0 && fgets(line, sizeof line, file))
        if (strncmp(line, key, length) == 0 && line[length] == ':')
            bytes = strtoll(line + length + 1, NULL, 10) * 1024;
    fclose(file);
    return bytes;
}

int64_t memory_peak(void) {
    return read_kilobytes("/proc/self/status", "VmHWM");
}

/* Lower *context to what one control group leaves: its limit less what is in use other than cache.
 */
static void lower_to_group(void *context, const char *folder, int version) {
    double *least = context;
    char limit_text[64], used_text[64];
    static const char *const limits[3][2] = {
        {NULL, NULL}, {"memory.limit_in_bytes", NULL}, {"memory.max", "memory.high"}};
    const char *usage = version == 2 ? "memory.current" : "memory.usage_in_bytes";
    const char *cache = version == 2 ? "file" : "total_cache";
    for (int i = 0; i < 2 && limits[version][i]; i++) {
        if (!cgroup_read_line(folder, limits[version][i], limit_text, sizeof limit_text))
            continue;
        char *end;
        const double limit = strtod(limit_text, &end);
        if (end == limit_text || limit >= 0x1p62) /* "max", or version 1's word for no limit */
            continue;
        double used = 0;
        if (cgroup_read_line(folder, usage, used_text, sizeof used_text))
            used = strtod(used_text, NULL) - cgroup_read_statistic(folder, "memory.stat", cache);
        const double left = used > 0 ? limit - used : limit;
        if (left < *least)
            *least = left > 1 ? left : 1;
    }
}

int64_t memory_available_at(const char *root) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    int64_t system = read_kilobytes(path, "MemAvailable");
    if (system == 0)
        system = read_kilobytes(path, "MemTotal");
    double least = system > 0 ? (double)system : 0x1p62;
    cgroup_visit(root, "memory", lower_to_group, &least);
    return least >= 0x1p62 ? 0 : (int64_t)least;
}

int64_t memory_available(void) {
    return memory_available_at("");
}

void memory_give_back(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

void memory_text(int64_t bytes, char *text, size_t size) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    int unit = 0;
    while (unit < 5 && value >= 1024) {
        value /= 1024;
        unit++;
    }
    snprintf(text, size, "%.*f %s", unit == 0 ? 0 : 1, value, units[unit]);
}
