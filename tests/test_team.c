#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/team.h"
#include "tests/random.h"

enum { MAX_ITEMS = 1000 };

struct record {
    _Atomic int visits[MAX_ITEMS];
    _Atomic int bad_pieces;
    int64_t count, grain;
    struct team *team;
};

static void visit(void *context, int64_t begin, int64_t end, int thread) {
    struct record *record = context;
    if (begin < 0 || end > record->count || end <= begin || end - begin > record->grain ||
        thread < 0 || thread >= team_size(record->team))
        atomic_fetch_add(&record->bad_pieces, 1);
    memset(team_scratch(record->team, thread), thread, team_scratch_bytes(record->team));
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add(&record->visits[i], 1);
}

static void check_once(struct team *team, struct record *record, int64_t count, int64_t grain) {
    memset(record, 0, sizeof *record);
    record->count = count;
    record->grain = grain;
    record->team = team;
    team_for(team, count, grain, visit, record);
    assert_int_equal(record->bad_pieces, 0);
    for (int64_t i = 0; i < MAX_ITEMS; i++)
        assert_int_equal(record->visits[i], i < count);
}

static void every_item_is_visited_once(void **state) {
    (void)state;
    struct random random = random_start();
    static struct record record;
    for (int threads = 1; threads <= 5; threads++) {
        struct team *team = team_create(threads, 100);
        assert_non_null(team);
        assert_int_equal(team_size(team), threads);
        assert_int_equal(team_scratch_bytes(team), 100);
        check_once(team, &record, 0, 1);
        for (int i = 0; i < 200; i++)
            check_once(team, &record, random_integer(&random, 0, MAX_ITEMS),
                       random_integer(&random, 1, i % 2 ? 5 : MAX_ITEMS));
        team_destroy(team);
    }
}

static void scratch_is_aligned_and_ones_own(void **state) {
    (void)state;
    struct team *team = team_create(3, 1000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal((uintptr_t)team_scratch(team, i) % 64, 0);
        memset(team_scratch(team, i), i + 1, 1000);
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 1000; j++)
            assert_int_equal(((unsigned char *)team_scratch(team, i))[j], i + 1);
    team_destroy(team);
    team_destroy(NULL);
}

static void wait_for_another(void *context, int64_t begin, int64_t end, int thread) {
    (void)begin, (void)end, (void)thread;
    pthread_barrier_wait(context);
}

/* Both of two pieces must run at the same time for either to end. */
static void threads_work_at_the_same_time(void **state) {
    (void)state;
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    struct team *team = team_create(2, 0);
    for (int i = 0; i < 50; i++) {
        team_for(team, 2, 1, wait_for_another, &barrier);
        if (i % 10 == 0)
            usleep(2000); /* let the other thread fall asleep */
    }
    team_destroy(team);
    pthread_barrier_destroy(&barrier);
}

static void add(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add((_Atomic int64_t *)context, i);
}

static int run_many_short_tasks(void) {
    struct team *team = team_create(3, 64);
    if (team == NULL)
        return 1;
    for (int64_t i = 0; i < 300; i++) {
        _Atomic int64_t sum = 0;
        team_for(team, 20, 1, add, &sum);
        if (sum != 190)
            return 1;
    }
    team_destroy(team);
    return 0;
}

/* As many ranks of one host would: 64 processes of 3 threads. */
static void many_teams_share_the_cores(void **state) {
    (void)state;
    enum { PROCESSES = 64 };
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0)
            _exit(run_many_short_tasks());
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        waitpid(children[i], &status, 0);
        assert_int_equal(status, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_is_visited_once),
        cmocka_unit_test(scratch_is_aligned_and_ones_own),
        cmocka_unit_test(threads_work_at_the_same_time),
        cmocka_unit_test(many_teams_share_the_cores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
