/* Damaged checkpoints, and files that are none: verify and the readers name what is wrong. */
#include <hdf5.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/checkpoint_model.h"

/* The one place of a byte string in a file. */
static size_t find_bytes(const unsigned char *data, size_t bytes, const void *needle,
                         size_t length) {
    const unsigned char *found = memmem(data, bytes, needle, length);
    assert_non_null(found);
    return (size_t)(found - data);
}

static void test_verify_finds_damage(void **state) {
    const struct model *model = *state;
    struct error error;
    const char *output = model_write(model, "damage.h5", CHECKPOINT_SINGLE, CHECKPOINT_NONE);
    uint8_t packed[64];
    model_pack(packed, model->layer[1].weight, 128);
    size_t bytes;
    unsigned char *data = model_read_file(output, &bytes);
    data[find_bytes(data, bytes, packed, sizeof packed) + 40] ^= 1;
    model_write_file(output, data, bytes);
    free(data);
    model_expect_faults(output,
                        "/model/layers/1/self_attn/q_proj/weight: differs from its checksum\n");

    const hid_t file = H5Fopen(output, H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t group = H5Gopen2(file, "/model/layers/2/self_attn/q_proj", H5P_DEFAULT);
    assert_true(H5Ldelete(group, "weight_scale", H5P_DEFAULT) >= 0);
    assert_true(H5Adelete(group, "group_size") >= 0);
    assert_true(H5Lmove(group, "extra", group, "other", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_hard(file, "/model", group, "cycle", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_soft("/nowhere", group, "soft", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    H5Gclose(group);
    H5Fclose(file);
    model_expect_faults(
        output, "/model/layers/1/self_attn/q_proj/weight: differs from its checksum\n"
                "/model/layers/2/self_attn/q_proj: its attributes differ from their checksum\n"
                "/model/layers/2/self_attn/q_proj/cycle: not in the manifest\n"
                "/model/layers/2/self_attn/q_proj/other: not in the manifest\n"
                "/model/layers/2/self_attn/q_proj/soft: cannot be read: there is no object "
                "behind its link\n"
                "/model/layers/2/self_attn/q_proj/extra: missing\n"
                "/model/layers/2/self_attn/q_proj/weight_scale: missing\n");

    output = model_write(model, "lost.h5", CHECKPOINT_SHARDED, CHECKPOINT_ZSTD);
    assert_int_equal(unlink(model_path(model, "lost.parts/layer-00001.h5")), 0);
    struct faults faults = {0, ""};
    int64_t checked, bad;
    CHECK(checkpoint_verify(output, model_note_fault, &faults, &checked, &bad, &error));
    assert_int_equal(bad, 1 + 8); /* the link, and each line behind it */
}

static void test_verify_refuses_other_files(void **state) {
    const struct model *model = *state;
    struct error error;
    int64_t checked, bad;
    const char *path = model_path(model, "other.h5");
    assert_int_equal(checkpoint_verify(path, NULL, NULL, &checked, &bad, &error), STATUS_INPUT);
    model_write_file(path, "plain text", 10);
    assert_int_equal(checkpoint_verify(path, NULL, NULL, &checked, &bad, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "not an HDF5 file"));
    const hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    assert_int_equal(checkpoint_verify(path, NULL, NULL, &checked, &bad, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "/manifest"));

    size_t bytes;
    void *data =
        model_read_file(model_write(model, "whole.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD), &bytes);
    for (size_t kept = 0; kept < bytes; kept += bytes / 17) {
        model_write_file(path, data, kept);
        assert_int_equal(checkpoint_verify(path, NULL, NULL, &checked, &bad, &error), STATUS_INPUT);
    }
    free(data);
}

/* Bits flipped anywhere, in HDF5's own structures too, where HDF5 may crash: verify says what it
 * finds and comes back. Some flips hit what nobody reads. */
static void test_verify_survives_flipped_bits(void **state) {
    const struct model *model = *state;
    struct error error;
    const char *output = model_path(model, "flipped.h5"),
               *path = model_path(model, "flipped.parts/x.h5");
    CHECK(model_write_until_full(model, output, &error));
    size_t bytes;
    unsigned char *data = model_read_file(path, &bytes);
    uint64_t random;
    memcpy(&random, model->embedding, sizeof random); /* follows from the seed */
    random |= 1;
    int noticed = 0;
    for (int i = 0; i < 40; i++) {
        size_t places[8];
        for (int j = 0; j < 8; j++) {
            places[j] = model_next_random(&random) % bytes;
            data[places[j]] ^= (unsigned char)(1 << j);
        }
        model_write_file(path, data, bytes);
        struct faults faults = {0, ""};
        int64_t checked, bad;
        const enum status status =
            checkpoint_verify(path, model_note_fault, &faults, &checked, &bad, &error);
        assert_true(status == STATUS_OK || status == STATUS_INPUT);
        assert_int_equal(faults.count, bad);
        noticed += status == STATUS_INPUT || bad > 0;
        for (int j = 0; j < 8; j++)
            data[places[j]] ^= (unsigned char)(1 << j);
    }
    free(data);
    assert_in_range(noticed, 10, 40);
}

/* A dataset of that many rows of `type`, none of which is written. */
static void make_hollow(hid_t file, const char *path, hid_t type, hsize_t rows,
                        hsize_t chunk_rows) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (chunk_rows > 0)
        assert_true(H5Pset_chunk(creation, 1, &chunk_rows) >= 0);
    const hid_t space = H5Screate_simple(1, &rows, NULL);
    H5Ldelete(file, path, H5P_DEFAULT);
    const hid_t dataset = H5Dcreate2(file, path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    assert_true(dataset >= 0);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(creation);
}

/* Sizes that the file has no bytes for are refused before anybody takes memory for them. */
static void test_hollow_sizes_are_refused(void **state) {
    const struct model *model = *state;
    struct error error;
    struct checkpoint *checkpoint;
    struct checkpoint_dataset dataset;
    const hsize_t rows = (hsize_t)1 << 40;
    const char *output = model_write(model, "hollow.h5", CHECKPOINT_SINGLE, CHECKPOINT_NONE);
    hid_t file = H5Fopen(output, H5F_ACC_RDWR, H5P_DEFAULT);
    make_hollow(file, "/contiguous", H5T_IEEE_F32LE, rows, 0);
    make_hollow(file, "/chunked", H5T_IEEE_F32LE, rows, 1 << 18);
    H5Fclose(file);
    CHECK(checkpoint_open(output, &checkpoint, &error));
    assert_int_equal(checkpoint_describe(checkpoint, "/contiguous", &dataset, &error),
                     STATUS_INPUT);
    assert_non_null(strstr(error.message, "its data is missing"));
    assert_int_equal(checkpoint_describe(checkpoint, "/chunked", &dataset, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "some of its chunks are missing"));
    checkpoint_close(checkpoint);

    file = H5Fopen(output, H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t line = H5Tcopy(H5T_C_S1);
    H5Tset_size(line, 100);
    H5Tset_cset(line, H5T_CSET_UTF8);
    make_hollow(file, "/manifest", line, rows, 0);
    H5Tclose(line);
    H5Fclose(file);
    assert_int_equal(checkpoint_open(output, &checkpoint, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "/manifest is damaged: its data is missing"));
}

/* HDF5 reads as many bytes of a chunk as the file says, whatever the dataset's shape: such a chunk
 * is refused before it is read. */
static void test_chunks_of_another_size_are_refused(void **state) {
    const struct model *model = *state;
    struct error error;
    struct checkpoint *checkpoint;
    const hsize_t rows = 4, chunk_rows = 4, offset = 0;
    static const unsigned char bytes[50000];
    float values[4];
    const char *output = model_write(model, "chunks.h5", CHECKPOINT_SINGLE, CHECKPOINT_NONE);
    const hid_t file = H5Fopen(output, H5F_ACC_RDWR, H5P_DEFAULT);
    make_hollow(file, "/large", H5T_IEEE_F32LE, rows, chunk_rows);
    make_hollow(file, "/small", H5T_IEEE_F32LE, rows, chunk_rows);
    const hid_t large = H5Dopen2(file, "/large", H5P_DEFAULT);
    const hid_t small = H5Dopen2(file, "/small", H5P_DEFAULT);
    assert_true(H5Dwrite_chunk(large, H5P_DEFAULT, 0, &offset, sizeof bytes, bytes) >= 0);
    assert_true(H5Dwrite_chunk(small, H5P_DEFAULT, 0, &offset, 15, bytes) >= 0);
    H5Dclose(large);
    H5Dclose(small);
    H5Fclose(file);
    CHECK(checkpoint_open(output, &checkpoint, &error));
    assert_int_equal(checkpoint_read(checkpoint, "/large", values, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "the chunk at row 0 is damaged"));
    assert_int_equal(checkpoint_read(checkpoint, "/small", values, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "the chunk at row 0 is damaged"));
    checkpoint_close(checkpoint);
}

static void ignore_signal(int number) {
    (void)number;
}

/* Signals that interrupt verify's waiting change nothing. */
static void test_verify_goes_on_after_signals(void **state) {
    const struct model *model = *state;
    struct error error;
    const char *output = model_write(model, "signals.h5", CHECKPOINT_SINGLE, CHECKPOINT_ZSTD);
    const struct sigaction action = {.sa_handler = ignore_signal};
    struct sigaction before;
    struct itimerval each_millisecond = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &each_millisecond, NULL);
    for (int i = 0; i < 5; i++) {
        int64_t checked, bad;
        assert_int_equal(checkpoint_verify(output, NULL, NULL, &checked, &bad, &error), STATUS_OK);
        assert_true(checked > 0 && bad == 0);
    }
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &before, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_finds_damage),
        cmocka_unit_test(test_verify_refuses_other_files),
        cmocka_unit_test(test_hollow_sizes_are_refused),
        cmocka_unit_test(test_chunks_of_another_size_are_refused),
        cmocka_unit_test(test_verify_goes_on_after_signals),
        cmocka_unit_test(test_verify_survives_flipped_bits),
    };
    return cmocka_run_group_tests(tests, model_create, model_destroy);
}
