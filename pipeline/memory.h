/* How much memory this process has used and may use. */
#ifndef FPTQ_PIPELINE_MEMORY_H
#define FPTQ_PIPELINE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of this process's largest resident set so far, mapped files included (VmHWM). 0: unknown.
 */
int64_t memory_peak(void);
/* Bytes that all ranks of this host may use together from now on: what the system has available, or
 * less where a control group of this process (or one above it) has a lower limit. Page cache counts
 * as available, since the system gives it back. 0: unknown. */
int64_t memory_available(void);
/* The same with `root` in front of /proc and /sys, for tests. */
int64_t memory_available_at(const char *root);

/* Let the system have what was freed, where the C library can. */
void memory_give_back(void);

/* "512 bytes", "3.4 MiB", "21.0 GiB" */
void memory_text(int64_t bytes, char *text, size_t size);

#endif
