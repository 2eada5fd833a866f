#include "pipeline/progress.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "pipeline/log.h"

static const double first_line = 10, line_interval = 30, bar_interval = 0.2; /* seconds */
enum { BAR_CELLS = 24 };

struct progress {
    const char *label, *unit;
    int64_t total;
    bool bar;
    double start, next; /* when it began, when to show it again */
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

struct progress *progress_create(const char *label, const char *unit, int64_t total) {
    if (!log_speaks() || log_level() == LOG_QUIET || total <= 0)
        return NULL;
    struct progress *progress = malloc(sizeof *progress);
    if (!progress)
        return NULL;
    *progress = (struct progress){
        .label = label, .unit = unit, .total = total, .bar = isatty(STDERR_FILENO), .start = now()};
    progress->next = progress->start + (progress->bar ? bar_interval : first_line);
    return progress;
}

static void duration_text(double seconds, char *text, size_t size) {
    const long whole = (long)(seconds + 0.5);
    if (whole >= 3600)
        snprintf(text, size, "%ldh%02ldm", whole / 3600, whole / 60 % 60);
    else if (whole >= 60)
        snprintf(text, size, "%ldm%02lds", whole / 60, whole % 60);
    else
        snprintf(text, size, "%lds", whole);
}

void progress_text(const char *label, const char *unit, int64_t done, int64_t total, double seconds,
                   char *text, size_t size) {
    const int used = snprintf(text, size, "%s %lld/%lld %s (%d%%)", label, (long long)done,
                              (long long)total, unit, (int)(100.0 * (double)done / (double)total));
    if (done <= 0 || seconds <= 0 || used < 0 || (size_t)used >= size)
        return;
    const double rate = (double)done / seconds;
    char left[32];
    duration_text((double)(total - done) / rate, left, sizeof left);
    char pace[80];
    if (rate >= 0.1)
        snprintf(pace, sizeof pace, "%.*f %s/s", rate >= 100 ? 0 : (rate >= 10 ? 1 : 2), rate,
                 unit);
    else
        snprintf(pace, sizeof pace, "%.0f s each", 1 / rate);
    snprintf(text + used, size - (size_t)used, ", %s, %s left", pace, left);
}

static void show_bar(const struct progress *progress, int64_t done, const char *text) {
    char cells[BAR_CELLS + 1];
    const int full = (int)((double)BAR_CELLS * (double)done / (double)progress->total);
    for (int i = 0; i < BAR_CELLS; i++)
        cells[i] = i < full ? '#' : '.';
    cells[BAR_CELLS] = '\0';
    fprintf(stderr, "\r\033[K[%s] %s", cells, text);
    fflush(stderr);
}

void progress_update(struct progress *progress, int64_t done) {
    if (!progress)
        return;
    const double time = now();
    if (time < progress->next)
        return;
    progress->next = time + (progress->bar ? bar_interval : line_interval);
    char text[200];
    progress_text(progress->label, progress->unit, done, progress->total, time - progress->start,
                  text, sizeof text);
    if (progress->bar)
        show_bar(progress, done, text);
    else
        log_info("%s", text);
}

void progress_finish(struct progress *progress) {
    if (!progress)
        return;
    if (progress->bar)
        fputs("\r\033[K", stderr);
    free(progress);
}
