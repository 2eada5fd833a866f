/* A checkpoint whose HDF5 structure is sound and all else is the input's: types, shapes, chunks and
 * their bytes, filters, attributes, manifest. It is opened, and everything in it described and
 * read.
 *
 * (Damage to HDF5's own structure makes HDF5 crash, which is not ours to find: checkpoint_file.c.)
 *
 * Numbers are single bytes, taken from the front; an input that has ended gives zeros.
 *   objects, at most 4:   path, type, rank, a size for each dimension, layout, then its data
 *   after each object:    attributes, at most 3: name, type, 8 bytes of value
 *   manifest:             type (even: one line for each object; odd: the rest of the input) */
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_internal.h"
#include "tests/fuzz/fuzz.h"

struct input {
    const uint8_t *data;
    size_t left;
};

static unsigned take(struct input *input) {
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->data++;
}

/* Up to `size` bytes; the rest zeros. */
static void take_bytes(struct input *input, void *bytes, size_t size) {
    const size_t count = size < input->left ? size : input->left;
    memset(bytes, 0, size);
    memcpy(bytes, input->data, count);
    input->data += count;
    input->left -= count;
}

static const char *const paths[] = {"/a",           "/model/b/weight", "/model/b/scale",
                                    "/config_json", "/run/host",       "/model/c"};
enum { PATH_COUNT = sizeof paths / sizeof paths[0], TYPES_OF_OURS = CHECKPOINT_TEXT + 1 };

/* A type of this format, or of another. */
static hid_t make_type(struct input *input, unsigned choice) {
    if (choice % 16 < TYPES_OF_OURS) {
        const struct checkpoint_shape shape = {
            .type = (enum checkpoint_type)(choice % 16),
            .rank = (int)(choice >> 4 & 1),
            .text_bytes = choice % 16 == CHECKPOINT_TEXT ? 1 + (size_t)take(input) : 0};
        return checkpoint_shape_create_type(&shape);
    }
    hid_t type;
    switch (choice % 16) {
    case TYPES_OF_OURS:
        type = H5Tcopy(H5T_C_S1);
        H5Tset_size(type, H5T_VARIABLE);
        return type;
    case TYPES_OF_OURS + 1:
        type = H5Tcreate(H5T_COMPOUND, 16);
        H5Tinsert(type, "x", 0, H5T_STD_I64LE);
        return type;
    case TYPES_OF_OURS + 2:
        return H5Tcopy(H5T_IEEE_F64BE);
    default:
        type = H5Tcopy(H5T_STD_I16BE);
        H5Tset_precision(type, 1 + (size_t)(choice >> 4));
        return type;
    }
}

/* bit 0: chunked, 1: a chunk of its own size, 2: N-Bit, 3: zstd, 4: deflate */
static hid_t make_layout(struct input *input, hid_t type, int rank, const hsize_t *dimensions,
                         unsigned layout) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (!(layout & 1) || rank == 0)
        return creation;
    hsize_t chunk[8] = {0};
    const unsigned level = 1;
    for (int i = 0; i < rank; i++)
        chunk[i] = dimensions[i];
    hsize_t columns = 1;
    for (int i = 1; i < rank; i++)
        columns *= dimensions[i];
    const hsize_t row = columns * H5Tget_size(type);
    hsize_t rows = row ? (1 << 20) / row & ~(hsize_t)1 : 0;
    rows = rows < 2 ? 2 : rows;
    chunk[0] = layout & 2 ? 1 + take(input) : rows < dimensions[0] ? rows : dimensions[0];
    H5Pset_chunk(creation, rank, chunk);
    if (layout & 4)
        H5Pset_nbit(creation);
    if (layout & 8)
        H5Pset_filter(creation, CHECKPOINT_ZSTD_FILTER, H5Z_FLAG_MANDATORY, 1, &level);
    if (layout & 16)
        H5Pset_deflate(creation, 1);
    return creation;
}

/* At most 2^bits elements; a dimension has at most 2^47. */
static bool is_below(int bits, const hsize_t *dimensions, int rank) {
    double elements = 1;
    for (int i = 0; i < rank; i++)
        elements *= (double)dimensions[i];
    return elements <= (double)((hsize_t)1 << bits);
}

/* HDF5 1.10.8 crashes while it writes a chunk of 2^29 elements, or one of a dataset of more than
 * 2^64: those are left unwritten. */
static bool is_writable(const hsize_t *dimensions, const hsize_t *chunk, int rank) {
    return is_below(24, chunk, rank) && is_below(60, dimensions, rank);
}

/* The data that the input has for a dataset: chunks as they are stored, each after its size and
 * filter mask; or elements. */
static void write_data(struct input *input, hid_t dataset, hid_t type, int rank,
                       const hsize_t *dimensions, bool chunked) {
    unsigned char bytes[4096];
    const unsigned count = take(input) % 4;
    if (chunked) {
        for (unsigned i = 0; i < count; i++) {
            hsize_t offset[8] = {0};
            const size_t size = take(input) + (size_t)take(input) % 15 * 256;
            const uint32_t mask = take(input);
            hsize_t chunk[8] = {1};
            const hid_t creation = H5Dget_create_plist(dataset);
            H5Pget_chunk(creation, 8, chunk);
            H5Pclose(creation);
            offset[0] = take(input) * chunk[0];
            take_bytes(input, bytes, size);
            if (size > 0 && offset[0] < dimensions[0] && is_writable(dimensions, chunk, rank))
                H5Dwrite_chunk(dataset, H5P_DEFAULT, mask, offset, size, bytes);
        }
        return;
    }
    size_t total = H5Tget_size(type);
    for (int i = 0; i < rank; i++)
        total = dimensions[i] < 4096 ? total * dimensions[i] : sizeof bytes + 1;
    if (count > 0 && total <= sizeof bytes && H5Tis_variable_str(type) <= 0) {
        take_bytes(input, bytes, total);
        H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes);
    }
}

static void write_attributes(struct input *input, hid_t object) {
    static const char *const names[] = {"input_policy", "group_size", "x=y\n", "input_range"};
    for (unsigned i = take(input) % 4; i > 0; i--) {
        const char *name = names[take(input) % 4];
        const unsigned choice = take(input);
        unsigned char bytes[512];
        take_bytes(input, bytes, 8);
        bytes[8] = 0;
        memset(bytes + 9, 0, sizeof bytes - 9);
        char *text = (char *)bytes;
        const hid_t type = make_type(input, choice);
        const hsize_t two = 2;
        const hid_t space = choice & 128 ? H5Screate_simple(1, &two, NULL) : H5Screate(H5S_SCALAR);
        const hid_t id = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
        if (id >= 0 && (H5Tis_variable_str(type) <= 0 || !(choice & 128)))
            H5Awrite(id, type, H5Tis_variable_str(type) > 0 ? (void *)&text : (void *)bytes);
        H5Aclose(id);
        H5Sclose(space);
        H5Tclose(type);
    }
}

static void write_object(struct input *input, hid_t file) {
    const char *path = paths[take(input) % PATH_COUNT];
    const hid_t type = make_type(input, take(input));
    const int rank = (int)(take(input) % 5);
    hsize_t dimensions[8];
    for (int i = 0; i < rank; i++) { /* above 240: up to 2^47 */
        const unsigned size = take(input);
        dimensions[i] = size > 240 ? (hsize_t)1 << 3 * (size - 240) : size;
    }
    const unsigned layout = take(input);
    const hid_t creation = make_layout(input, type, rank, dimensions, layout);
    const hid_t space = rank ? H5Screate_simple(rank, dimensions, NULL) : H5Screate(H5S_SCALAR);
    const hid_t link = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(link, 1);
    const hid_t dataset = H5Dcreate2(file, path, type, space, link, creation, H5P_DEFAULT);
    if (dataset >= 0) {
        write_data(input, dataset, type, rank, dimensions, layout & 1 && rank > 0);
        write_attributes(input, dataset);
        H5Dclose(dataset);
    }
    H5Pclose(link);
    H5Sclose(space);
    H5Pclose(creation);
    H5Tclose(type);
}

/* One line for each path; or the input as it is, of a width it gives. */
static void write_manifest(struct input *input, hid_t file) {
    const unsigned choice = take(input);
    const size_t own = 80 + take(input) % 8, width = choice & 1 ? 1 + (size_t)take(input) : own;
    const hsize_t lines = choice & 1 ? 1 + input->left / width : PATH_COUNT;
    char *text = calloc(lines, width + 1);
    fuzz_require(text != NULL, "memory for the manifest");
    if (choice & 1)
        take_bytes(input, text, input->left);
    else
        for (size_t i = 0; i < PATH_COUNT; i++) {
            memset(text + i * width, 'a', 64);
            memset(text + i * width + 64, ' ', 2);
            memcpy(text + i * width + 66, paths[i],
                   strlen(paths[i]) < width - 66 ? strlen(paths[i]) : width - 66);
        }
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, width);
    H5Tset_cset(type, H5T_CSET_UTF8);
    const hid_t space = H5Screate_simple(1, &lines, NULL);
    const hid_t dataset =
        H5Dcreate2(file, "/manifest", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (dataset >= 0) {
        H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text);
        H5Dclose(dataset);
    }
    H5Sclose(space);
    H5Tclose(type);
    free(text);
}

static void write_file(struct input *input, const char *path) {
    const hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    fuzz_require(file >= 0, "a file");
    for (unsigned i = take(input) % 5; i > 0; i--)
        write_object(input, file);
    const hid_t root = H5Gopen2(file, "/", H5P_DEFAULT);
    write_attributes(input, root);
    H5Gclose(root);
    write_manifest(input, file);
    fuzz_require(H5Fclose(file) >= 0, "a closed file");
}

static void read_object(const struct checkpoint *checkpoint, const char *path) {
    struct checkpoint_dataset dataset;
    struct error error;
    char *text;
    int64_t integer;
    float number;
    if (checkpoint_describe(checkpoint, path, &dataset, &error) == STATUS_OK) {
        void *data = malloc(dataset.bytes);
        fuzz_require(data != NULL, "memory for what is described");
        checkpoint_read(checkpoint, path, data, &error);
        free(data);
    }
    if (checkpoint_attribute_lines(checkpoint, path, &text, &error) == STATUS_OK)
        free(text);
    if (checkpoint_attribute_text(checkpoint, path, "input_policy", &text, &error) == STATUS_OK)
        free(text);
    checkpoint_attribute_integer(checkpoint, path, "group_size", &integer, &error);
    checkpoint_attribute_float(checkpoint, path, "input_range", &number, &error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct checkpoint *checkpoint;
    struct error error;
    fuzz_require(checkpoint_hdf5_prepare(&error) == STATUS_OK, "HDF5");
    const char *path = fuzz_path("c.h5");
    write_file(&input, path);
    fuzz_memory_begin();
    if (checkpoint_open(path, &checkpoint, &error) == STATUS_OK) {
        for (size_t i = 0; i < checkpoint_line_count(checkpoint); i++)
            read_object(checkpoint, checkpoint_line_path(checkpoint, i));
        checkpoint_close(checkpoint);
    }
    fuzz_memory_end((32 << 20) +
                    400 * size); /* HDF5's caches, and a chunk of 1 MiB made of zeros */
    return 0;
}
