#include "kernels/team.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "kernels/memory.h"

/* A thread looks this often (with a pause) for something to do before it sleeps: a few
 * microseconds, the time between two products of a layer, and less than waking costs. */
enum { SPINS = 400 };

/* One word says which task runs and who is in it, so that a thread that wakes late can neither join
 * a task that is over nor mix up two: [ task number | open | threads inside ]. */
#define STATE_INSIDE UINT64_C(0x7fffffff)
#define STATE_OPEN UINT64_C(0x80000000)
#define STATE_NUMBER UINT64_C(0x100000000)

struct member {
    struct team *team;
    pthread_t thread;
    void *scratch;
    int index;
};

struct team {
    /* The task; written only while it is closed and nobody is inside. */
    void (*task)(void *context, int64_t begin, int64_t end, int thread);
    void *context;
    int64_t count, grain;
    _Alignas(64) _Atomic int64_t next; /* first item that is not handed out */
    _Alignas(64) _Atomic uint64_t state;
    _Atomic int sleepers;      /* members in `wake` */
    _Atomic bool owner_sleeps; /* the caller is in `done` */
    _Atomic bool stop;
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    size_t scratch_bytes;
    int threads;
    struct member members[];
};

static void run_pieces(struct team *team, int thread) {
    for (;;) {
        const int64_t begin = atomic_fetch_add(&team->next, team->grain);
        if (begin >= team->count)
            return;
        const int64_t rest = team->count - begin;
        team->task(team->context, begin, begin + (rest < team->grain ? rest : team->grain), thread);
    }
}

/* Whether there is a task that this member has not been in, or the end. */
static bool is_called(struct team *team, uint64_t served) {
    const uint64_t state = atomic_load(&team->state);
    return atomic_load(&team->stop) || ((state & STATE_OPEN) && state / STATE_NUMBER != served);
}

static void wait_for_call(struct team *team, uint64_t served) {
    for (int i = 0; i < SPINS; i++) {
        if (is_called(team, served))
            return;
        __builtin_ia32_pause();
    }
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->sleepers, 1);
    while (!is_called(team, served))
        pthread_cond_wait(&team->wake, &team->mutex);
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->mutex);
}

/* Enter the task that is open; false when there is none any more. */
static bool enter(struct team *team, uint64_t *served) {
    uint64_t state = atomic_load(&team->state);
    while (state & STATE_OPEN) {
        if (atomic_compare_exchange_weak(&team->state, &state, state + 1)) {
            *served = state / STATE_NUMBER;
            return true;
        }
    }
    return false;
}

static void leave(struct team *team) {
    const uint64_t before = atomic_fetch_sub(&team->state, 1);
    if ((before & STATE_INSIDE) == 1 && !(before & STATE_OPEN) &&
        atomic_load(&team->owner_sleeps)) {
        pthread_mutex_lock(&team->mutex);
        pthread_cond_signal(&team->done);
        pthread_mutex_unlock(&team->mutex);
    }
}

static void *member_main(void *argument) {
    const struct member *member = argument;
    struct team *team = member->team;
    uint64_t served = 0;
    for (;;) {
        wait_for_call(team, served);
        if (atomic_load(&team->stop))
            return NULL;
        if (enter(team, &served)) {
            run_pieces(team, member->index);
            leave(team);
        }
    }
}

static bool is_empty(struct team *team) {
    return (atomic_load(&team->state) & STATE_INSIDE) == 0;
}

static void wait_until_empty(struct team *team) {
    for (int i = 0; i < SPINS; i++) {
        if (is_empty(team))
            return;
        __builtin_ia32_pause();
    }
    pthread_mutex_lock(&team->mutex);
    atomic_store(&team->owner_sleeps, true);
    while (!is_empty(team))
        pthread_cond_wait(&team->done, &team->mutex);
    atomic_store(&team->owner_sleeps, false);
    pthread_mutex_unlock(&team->mutex);
}

static void wake_sleepers(struct team *team) {
    if (atomic_load(&team->sleepers) > 0) {
        pthread_mutex_lock(&team->mutex);
        pthread_cond_broadcast(&team->wake);
        pthread_mutex_unlock(&team->mutex);
    }
}

void team_for(struct team *team, int64_t count, int64_t grain,
              void (*task)(void *context, int64_t begin, int64_t end, int thread), void *context) {
    if (count <= 0)
        return;
    team->task = task;
    team->context = context;
    team->count = count;
    team->grain = grain > 1 ? grain : 1;
    atomic_store(&team->next, 0);
    if (team->threads == 1 || count <= team->grain) {
        run_pieces(team, 0);
        return;
    }
    const uint64_t number = atomic_load(&team->state) / STATE_NUMBER + 1;
    atomic_store(&team->state, number * STATE_NUMBER | STATE_OPEN);
    wake_sleepers(team);
    run_pieces(team, 0);
    atomic_fetch_and(&team->state, ~STATE_OPEN);
    wait_until_empty(team);
}

/* Threads take no signals that are sent to the process: those are the main thread's. Faults of
 * their own instructions they do take. */
static bool start_members(struct team *team) {
    sigset_t sent, before;
    sigfillset(&sent);
    const int faults[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&sent, faults[i]);
    pthread_sigmask(SIG_SETMASK, &sent, &before);
    int started = 1;
    while (started < team->threads && pthread_create(&team->members[started].thread, NULL,
                                                     member_main, &team->members[started]) == 0)
        started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    const bool complete = started == team->threads;
    team->threads = started;
    return complete;
}

struct team *team_create(int threads, size_t scratch_bytes) {
    const size_t bytes = sizeof(struct team) + (size_t)threads * sizeof(struct member);
    struct team *team = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (team == NULL)
        return NULL;
    *team = (struct team){.threads = 1, .scratch_bytes = scratch_bytes};
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->wake, NULL);
    pthread_cond_init(&team->done, NULL);
    for (int i = 0; i < threads; i++) {
        team->members[i] =
            (struct member){.team = team, .index = i, .scratch = memory_allocate(scratch_bytes)};
        if (team->members[i].scratch == NULL) {
            for (int j = 0; j < i; j++)
                free(team->members[j].scratch);
            free(team);
            return NULL;
        }
    }
    team->threads = threads;
    if (!start_members(team)) {
        for (int i = team->threads; i < threads; i++)
            free(team->members[i].scratch);
        team_destroy(team);
        return NULL;
    }
    return team;
}

void team_destroy(struct team *team) {
    if (team == NULL)
        return;
    atomic_store(&team->stop, true);
    wake_sleepers(team);
    for (int i = 1; i < team->threads; i++)
        pthread_join(team->members[i].thread, NULL);
    for (int i = 0; i < team->threads; i++)
        free(team->members[i].scratch);
    pthread_cond_destroy(&team->done);
    pthread_cond_destroy(&team->wake);
    pthread_mutex_destroy(&team->mutex);
    free(team);
}

int team_size(const struct team *team) {
    return team->threads;
}

void *team_scratch(const struct team *team, int thread) {
    return team->members[thread].scratch;
}

size_t team_scratch_bytes(const struct team *team) {
    return team->scratch_bytes;
}
