/* The limits that control groups (cgroup v2 and v1) put on this process: SLURM, systemd and
 * containers set them. */
#ifndef FPTQ_PIPELINE_CGROUP_H
#define FPTQ_PIPELINE_CGROUP_H

#include <stdbool.h>
#include <stddef.h>

/* Call visit(context, folder, version) for the control group of this process that has `controller`
 * ("memory", "cpu") and each one above it, for both versions. `root` stands in front of /proc and
 * /sys: "" but in tests. */
void cgroup_visit(const char *root, const char *controller,
                  void (*visit)(void *context, const char *folder, int version), void *context);
/* The first line of folder/name; false when it cannot be read. */
bool cgroup_read_line(const char *folder, const char *name, char *line, size_t size);
/* The number after `key` and a space in folder/name (memory.stat and the like); 0 if there is none.
 */
double cgroup_read_statistic(const char *folder, const char *name, const char *key);

#endif
