/* Scratch room: what is written is read, in memory and in a file; the file has no name; faults say
 * which folder. */
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/scratch.h"

enum { PIECE = 5000, PIECES = 40 };

static char folder[] = "/tmp/test_scratch.XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : 1;
}

/* Fails when something was left in it. */
static int remove_folder(void **state) {
    (void)state;
    return rmdir(folder);
}

static int files_in_folder(void) {
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        count += entry->d_name[0] != '.' || strncmp(entry->d_name, ".fptq", 5) == 0;
    closedir(directory);
    return count;
}

static void fill(unsigned char *piece, int index, int round) {
    for (int i = 0; i < PIECE; i++)
        piece[i] = (unsigned char)(i * 7 + index * 31 + round * 101);
}

static void use(const char *where) {
    struct scratch scratch;
    assert_int_equal(scratch_create(where, (size_t)PIECE * PIECES, &scratch, NULL), STATUS_OK);
    unsigned char piece[PIECE], found[PIECE];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < PIECES; i++) {
            const int index = i * 17 % PIECES; /* not in order */
            fill(piece, index, round);
            assert_int_equal(scratch_write(&scratch, (size_t)index * PIECE, piece, PIECE, NULL),
                             STATUS_OK);
        }
        for (int i = 0; i < PIECES; i++) {
            fill(piece, i, round);
            assert_int_equal(scratch_read(&scratch, (size_t)i * PIECE, found, PIECE, NULL),
                             STATUS_OK);
            assert_memory_equal(piece, found, PIECE);
        }
    }
    assert_int_equal(files_in_folder(), 0);
    scratch_close(&scratch);
    scratch_close(&scratch);
}

static void test_memory(void **state) {
    (void)state;
    use(NULL);
}

static void test_file(void **state) {
    (void)state;
    use(folder);
}

static void test_faults(void **state) {
    (void)state;
    struct scratch scratch;
    struct error error;
    assert_int_equal(scratch_create("/nowhere/at/all", 100, &scratch, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "/nowhere/at/all: a scratch file cannot be made"));
    /* A file that may not grow stands for a full disk. */
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = PIECE;
    setrlimit(RLIMIT_FSIZE, &small);
    assert_int_equal(scratch_create(folder, 3 * PIECE, &scratch, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, folder));
    assert_int_equal(scratch_create(folder, PIECE, &scratch, NULL), STATUS_OK);
    unsigned char piece[PIECE] = {0};
    assert_int_equal(scratch_write(&scratch, 0, piece, PIECE, NULL), STATUS_OK);
    assert_int_equal(scratch_write(&scratch, PIECE, piece, PIECE, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "a scratch file cannot be written"));
    assert_int_equal(scratch_read(&scratch, PIECE, piece, PIECE, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "cut short"));
    scratch_close(&scratch);
    setrlimit(RLIMIT_FSIZE, &before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
