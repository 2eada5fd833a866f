#include "pipeline/stop.h"

#include <math.h>
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "pipeline/timing.h"

/* The signal that came, and when: what a handler can reach. */
static volatile sig_atomic_t signal_seen;
static volatile sig_atomic_t signal_second;

/* A launcher may pass a signal on that the process was sent already: both are one. */
static void note_signal(int number) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (signal_seen && (sig_atomic_t)now.tv_sec > signal_second + 1) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (!signal_seen)
        signal_second = (sig_atomic_t)now.tv_sec;
    signal_seen = number;
}

void stop_install_signals(void) {
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

void stop_set_deadline(struct stop *stop, double started, int64_t time_limit) {
    const double now = timing_now();
    double left = time_limit ? started + (double)time_limit - now : INFINITY;
    const char *slurm = getenv("SLURM_JOB_END_TIME");
    const double end = slurm ? strtod(slurm, NULL) : 0;
    if (end > 0 && end - (double)time(NULL) < left)
        left = end - (double)time(NULL);
    MPI_Bcast(&left, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    stop->deadline = now + left - fmin(60, 0.05 * fmax(left, 0));
    if (!isfinite(left))
        stop->deadline = INFINITY;
}

static const char *signal_name(int number) {
    return number == SIGTERM ? "SIGTERM" : number == SIGINT ? "SIGINT" : "SIGUSR1";
}

enum status stop_check(const struct stop *stop, double margin, struct error *error) {
    const int number = signal_seen;
    if (number)
        return error_set(error, STATUS_STOPPED, "stopped by %s", signal_name(number));
    if (timing_now() + margin > stop->deadline)
        return error_set(error, STATUS_STOPPED, "stopped before the time limit");
    return STATUS_OK;
}

enum status stop_agree(const struct stop *stop, const struct mesh *mesh, struct error *error) {
    return mesh_agree(mesh, stop_check(stop, 0, error), error);
}
