/* Records of an unfinished run: whole or not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/checkpoint_prepare.h"
#include "io/state.h"

static const char owner[65] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
static const char other[65] = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
static char folder[] = "/tmp/test_state.XXXXXX";
static char output[64], parts[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return 1;
    snprintf(output, sizeof output, "%s/x.h5", folder);
    snprintf(parts, sizeof parts, "%s/x.parts", folder);
    return mkdir(parts, 0777);
}

static int remove_folder(void **state) {
    (void)state;
    state_remove_all(output);
    rmdir(parts);
    return rmdir(folder);
}

static void check_record(const char *name, const void *expected, size_t bytes) {
    struct error error;
    void *data;
    size_t length;
    assert_int_equal(state_read(output, name, owner, &data, &length, &error), STATUS_OK);
    assert_non_null(data);
    assert_int_equal(length, bytes);
    assert_memory_equal(data, expected, bytes);
    free(data);
}

static void written_and_read(void **state) {
    (void)state;
    struct error error;
    void *data;
    size_t bytes;
    assert_int_equal(state_read(output, "a", owner, &data, &bytes, &error), STATUS_OK);
    assert_null(data);
    assert_int_equal(state_write(output, "a", owner, "first", 5, &error), STATUS_OK);
    check_record("a", "first", 5);
    assert_int_equal(state_write(output, "a", owner, "and second", 10, &error), STATUS_OK);
    check_record("a", "and second", 10);
    assert_int_equal(state_write(output, "a", owner, "", 0, &error), STATUS_OK);
    check_record("a", "", 0);
    assert_int_equal(state_read(output, "a", other, &data, &bytes, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "belongs to another run"));
    state_remove(output, "a");
    assert_int_equal(state_read(output, "a", owner, &data, &bytes, &error), STATUS_OK);
    assert_null(data);
}

/* Every flipped bit and every cut is noticed. */
static void damage(void **state) {
    (void)state;
    struct error error;
    char path[128], content[300];
    void *data;
    size_t bytes;
    snprintf(path, sizeof path, "%s/d.state", parts);
    assert_int_equal(state_write(output, "d", owner, "some data", 9, &error), STATUS_OK);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    const size_t size = fread(content, 1, sizeof content, file);
    fclose(file);
    assert_int_equal(size, 13 + 65 + 9 + 64);
    for (size_t i = 0; i < 9 * size; i++) {
        const size_t at = i / 9, bit = i % 9; /* the ninth: cut off here */
        content[at] = (char)(content[at] ^ (bit < 8 ? 1 << bit : 0));
        file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(content, 1, bit < 8 ? size : at, file), bit < 8 ? size : at);
        fclose(file);
        assert_int_equal(state_read(output, "d", owner, &data, &bytes, &error), STATUS_INPUT);
        assert_non_null(strstr(error.message, "d.state: "));
        assert_null(data);
        content[at] = (char)(content[at] ^ (bit < 8 ? 1 << bit : 0));
    }
    state_remove(output, "d");
}

/* The folder is made and locked; another run, here another descriptor, is refused. */
static void begun_once(void **state) {
    (void)state;
    struct error error;
    char name[96], missing[96];
    int lock, second;
    snprintf(name, sizeof name, "%s/results.json", folder);
    snprintf(missing, sizeof missing, "%s/none/results.json", folder);
    assert_int_equal(state_begin(name, &lock, &error), STATUS_OK);
    assert_true(lock >= 0);
    assert_int_equal(state_write(name, "a", owner, "x", 1, &error), STATUS_OK);
    assert_int_equal(state_begin(name, &second, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "results.json: another run is writing it"));
    assert_int_equal(second, -1);
    close(lock);
    assert_int_equal(state_begin(name, &lock, &error), STATUS_OK);
    state_clear(name);
    assert_int_equal(state_begin(name, &second, &error), STATUS_INPUT);
    close(lock);
    state_remove_all(name);
    assert_int_equal(state_begin(missing, &lock, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "cannot make the folder of its state"));
    assert_int_equal(lock, -1);
}

static void listed_and_cleared(void **state) {
    (void)state;
    struct error error;
    char(*names)[STATE_NAME];
    int count, removed;
    char path[128];
    static const char *const made[] = {"ranges-2", "ranges-1", "layer-1"};
    for (int i = 0; i < 3; i++)
        assert_int_equal(state_write(output, made[i], owner, "x", 1, &error), STATUS_OK);
    snprintf(path, sizeof path, "%s/ranges-3.state.tmp", parts);
    fclose(fopen(path, "w"));
    assert_int_equal(state_list(output, "ranges-", &names, &count, &error), STATUS_OK);
    assert_int_equal(count, 2);
    assert_string_equal(names[0], "ranges-1");
    assert_string_equal(names[1], "ranges-2");
    free(names);
    assert_int_equal(checkpoint_clear(output, true, &removed, &error), STATUS_OK);
    assert_int_equal(removed, 1);
    check_record("layer-1", "x", 1);
    assert_int_equal(checkpoint_clear(output, false, &removed, &error), STATUS_OK);
    assert_int_equal(removed, 3);
    assert_int_equal(state_write(output, "z", owner, "x", 1, &error), STATUS_OK);
    state_remove_all(output);
    assert_int_equal(access(parts, F_OK), -1);
    assert_int_equal(state_write(output, "z", owner, "x", 1, &error), STATUS_FAILED);
    assert_int_equal(mkdir(parts, 0777), 0);
}

static void room_on_the_disk(void **state) {
    (void)state;
    struct error error;
    assert_int_equal(checkpoint_prepare(output, 1, &error), STATUS_OK);
    assert_int_equal(checkpoint_prepare(output, INT64_C(1) << 60, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "the disk is too full"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_and_read), cmocka_unit_test(damage),
        cmocka_unit_test(begun_once),       cmocka_unit_test(listed_and_cleared),
        cmocka_unit_test(room_on_the_disk),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
