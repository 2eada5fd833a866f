#include <string.h>

#include "io/checkpoint_internal.h"

/* A chunk, unpacked, fits the chunk cache that HDF5's readers have by default; an even number of
 * rows makes every chunk of packed 4-bit integers start on a whole byte. */
static const int64_t CHUNK_BYTES = 1 << 20;
/* Rows longer than this are refused: a chunk has two rows at least and HDF5's limit is 4 GiB. */
static const int64_t LARGEST_ROW_BYTES = 1 << 28;

static size_t type_bytes(enum checkpoint_type type) {
    switch (type) {
    case CHECKPOINT_F32:
        return 4;
    case CHECKPOINT_F16:
    case CHECKPOINT_BF16:
        return 2;
    default:
        return 1;
    }
}

int64_t checkpoint_chunk_rows(enum checkpoint_type type, int64_t rows, int64_t columns) {
    const int64_t row_bytes = columns * (int64_t)type_bytes(type);
    int64_t most = CHUNK_BYTES / row_bytes & ~(int64_t)1;
    if (most < 2)
        most = 2;
    if (rows <= most)
        return rows;
    /* The last chunk is padded to a whole one: as many chunks as are needed, of as few rows. */
    const int64_t chunks = (rows + most - 1) / most;
    return ((rows + chunks - 1) / chunks + 1) & ~(int64_t)1;
}

size_t checkpoint_shape_element_bytes(const struct checkpoint_shape *shape) {
    return shape->type == CHECKPOINT_TEXT ? shape->text_bytes : type_bytes(shape->type);
}

size_t checkpoint_shape_bytes(const struct checkpoint_shape *shape) {
    return (size_t)shape->rows * (size_t)shape->columns * checkpoint_shape_element_bytes(shape);
}

size_t checkpoint_shape_packed_bytes(const struct checkpoint_shape *shape, int64_t rows) {
    const size_t count = (size_t)rows * (size_t)shape->columns;
    return shape->type == CHECKPOINT_INT4 ? (count + 1) / 2
                                          : count * checkpoint_shape_element_bytes(shape);
}

size_t checkpoint_shape_chunk_bytes(const struct checkpoint_shape *shape) {
    const size_t count = (size_t)shape->chunk_rows * (size_t)shape->columns;
    return shape->type == CHECKPOINT_INT4 ? count / 2 + 1
                                          : count * checkpoint_shape_element_bytes(shape);
}

/* rows, columns from rank and dimensions; false when empty or beyond what memory can count. */
static bool shape_count(struct checkpoint_shape *shape) {
    shape->rows = shape->rank > 0 ? shape->dimensions[0] : 1;
    shape->columns = 1;
    bool fits = shape->rows > 0;
    for (int i = 1; i < shape->rank; i++)
        fits = fits && shape->dimensions[i] > 0 &&
               !__builtin_mul_overflow(shape->columns, shape->dimensions[i], &shape->columns);
    int64_t bytes;
    return fits && !__builtin_mul_overflow(shape->columns, shape->rows, &bytes) &&
           !__builtin_mul_overflow(bytes, (int64_t)checkpoint_shape_element_bytes(shape), &bytes) &&
           bytes < (int64_t)1 << 50;
}

static bool row_fits_chunk(const struct checkpoint_shape *shape) {
    return shape->columns * (int64_t)checkpoint_shape_element_bytes(shape) <= LARGEST_ROW_BYTES;
}

enum status checkpoint_shape_set(struct checkpoint_shape *shape, enum checkpoint_type type,
                                 int rank, const int64_t *dimensions, size_t text_bytes,
                                 bool chunked, enum checkpoint_compression compression,
                                 const char *path, struct error *error) {
    *shape = (struct checkpoint_shape){
        .type = type, .compression = compression, .rank = rank, .text_bytes = text_bytes};
    if (rank < 0 || rank > CHECKPOINT_MAX_RANK)
        return error_set(error, STATUS_FAILED, "%s: rank %d is not in 0..%d", path, rank,
                         CHECKPOINT_MAX_RANK);
    if (rank > 0)
        memcpy(shape->dimensions, dimensions, (size_t)rank * sizeof *dimensions);
    if (!shape_count(shape))
        return error_set(error, STATUS_FAILED, "%s: the dataset is empty or too large", path);
    if (type == CHECKPOINT_INT4 && rank == 0)
        return error_set(error, STATUS_FAILED, "%s: a 4-bit integer cannot be a scalar", path);
    if (type == CHECKPOINT_INT4 || (chunked && rank > 0)) {
        if (!row_fits_chunk(shape))
            return error_set(error, STATUS_FAILED, "%s: rows of %lld elements are too long", path,
                             (long long)shape->columns);
        shape->chunk_rows = checkpoint_chunk_rows(type, shape->rows, shape->columns);
    }
    return STATUS_OK;
}

/* A small float: sign and exponent above `mantissa` bits, 16 in all. */
static hid_t half_type(size_t mantissa) {
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    const size_t exponent = 15 - mantissa;
    if (H5Tset_fields(type, 15, mantissa, exponent, 0, mantissa) < 0 || H5Tset_size(type, 2) < 0 ||
        H5Tset_ebias(type, ((size_t)1 << (exponent - 1)) - 1) < 0)
        return H5I_INVALID_HID;
    return type;
}

hid_t checkpoint_shape_create_type(const struct checkpoint_shape *shape) {
    hid_t type = H5I_INVALID_HID;
    switch (shape->type) {
    case CHECKPOINT_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case CHECKPOINT_F16:
        return half_type(10);
    case CHECKPOINT_BF16:
        return half_type(7);
    case CHECKPOINT_INT8:
        return H5Tcopy(H5T_STD_I8LE);
    case CHECKPOINT_INT4:
        type = H5Tcopy(H5T_STD_I8LE);
        if (H5Tset_precision(type, 4) < 0 || H5Tset_offset(type, 0) < 0)
            return H5I_INVALID_HID;
        return type;
    case CHECKPOINT_TEXT: /* one text fills its bytes; lines end at a NUL, where h5dump stops too */
        type = H5Tcopy(H5T_C_S1);
        if (H5Tset_size(type, shape->text_bytes) < 0 ||
            H5Tset_strpad(type, shape->rank > 0 ? H5T_STR_NULLTERM : H5T_STR_NULLPAD) < 0 ||
            H5Tset_cset(type, H5T_CSET_UTF8) < 0)
            return H5I_INVALID_HID;
        return type;
    }
    return type;
}

/* Chunking, N-Bit, zstd; object times off, so that files repeat byte for byte. */
static bool set_layout(const struct checkpoint_shape *shape, hid_t creation) {
    if (H5Pset_obj_track_times(creation, false) < 0)
        return false;
    if (shape->chunk_rows == 0)
        return true;
    hsize_t chunk[CHECKPOINT_MAX_RANK];
    for (int i = 0; i < shape->rank; i++)
        chunk[i] = (hsize_t)shape->dimensions[i];
    chunk[0] = (hsize_t)shape->chunk_rows;
    const unsigned level = CHECKPOINT_ZSTD_LEVEL;
    return H5Pset_chunk(creation, shape->rank, chunk) >= 0 &&
           (shape->type != CHECKPOINT_INT4 || H5Pset_nbit(creation) >= 0) &&
           (shape->compression != CHECKPOINT_ZSTD ||
            H5Pset_filter(creation, CHECKPOINT_ZSTD_FILTER, H5Z_FLAG_MANDATORY, 1, &level) >= 0);
}

hid_t checkpoint_shape_create_dataset(const struct checkpoint_shape *shape, hid_t file,
                                      const char *path) {
    hsize_t dimensions[CHECKPOINT_MAX_RANK];
    for (int i = 0; i < shape->rank; i++)
        dimensions[i] = (hsize_t)shape->dimensions[i];
    const hid_t type = checkpoint_shape_create_type(shape);
    const hid_t space =
        shape->rank ? H5Screate_simple(shape->rank, dimensions, NULL) : H5Screate(H5S_SCALAR);
    const hid_t link = H5Pcreate(H5P_LINK_CREATE);
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    hid_t dataset = H5I_INVALID_HID;
    if (type >= 0 && space >= 0 && link >= 0 && creation >= 0 &&
        H5Pset_create_intermediate_group(link, 1) >= 0 && set_layout(shape, creation))
        dataset = H5Dcreate2(file, path, type, space, link, creation, H5P_DEFAULT);
    const hid_t errors = H5Eget_current_stack(); /* closing would clear them */
    H5Tclose(type);
    H5Sclose(space);
    H5Pclose(link);
    H5Pclose(creation);
    H5Eset_current_stack(errors);
    return dataset;
}

hid_t checkpoint_object_open(hid_t file, const char *path) {
    const hid_t object = H5Oopen(file, path, H5P_DEFAULT);
    if (object >= 0)
        return object;
    const hid_t link = H5Pcreate(H5P_LINK_CREATE);
    if (H5Pset_create_intermediate_group(link, 1) < 0)
        return H5I_INVALID_HID;
    const hid_t group = H5Gcreate2(file, path, link, H5P_DEFAULT, H5P_DEFAULT);
    const hid_t errors = H5Eget_current_stack();
    H5Pclose(link);
    H5Eset_current_stack(errors);
    return group;
}

static enum status not_ours(struct error *error, const char *what) {
    return error_set(error, STATUS_INPUT, "%s", what);
}

static bool read_type(struct checkpoint_shape *shape, hid_t type) {
    if (H5Tget_class(type) == H5T_STRING) {
        shape->type = CHECKPOINT_TEXT;
        shape->text_bytes = H5Tget_size(type);
        return H5Tis_variable_str(type) == 0 && shape->text_bytes > 0;
    }
    for (enum checkpoint_type candidate = CHECKPOINT_F32; candidate < CHECKPOINT_TEXT;
         candidate++) {
        shape->type = candidate;
        const hid_t known = checkpoint_shape_create_type(shape);
        const htri_t equal = H5Tequal(type, known);
        H5Tclose(known);
        if (equal > 0)
            return true;
    }
    return false;
}

static bool read_filters(struct checkpoint_shape *shape, hid_t creation) {
    const int count = H5Pget_nfilters(creation);
    int next = 0;
    H5Z_filter_t filter[2] = {0, 0};
    for (; next < count && next < 2; next++) {
        unsigned flags, configuration;
        size_t parameter_count = 0;
        filter[next] = H5Pget_filter2(creation, (unsigned)next, &flags, &parameter_count, NULL, 0,
                                      NULL, &configuration);
    }
    const int expected_nbit = shape->type == CHECKPOINT_INT4 ? 1 : 0;
    if (count < expected_nbit || (expected_nbit && filter[0] != H5Z_FILTER_NBIT))
        return false;
    if (count == expected_nbit) {
        shape->compression = CHECKPOINT_NONE;
        return true;
    }
    shape->compression = CHECKPOINT_ZSTD;
    return count == expected_nbit + 1 && filter[expected_nbit] == CHECKPOINT_ZSTD_FILTER;
}

/* The chunk's shape follows from the dataset's, so a damaged file cannot ask for huge chunks. */
static bool read_layout(struct checkpoint_shape *shape, hid_t creation) {
    const H5D_layout_t layout = H5Pget_layout(creation);
    if (layout == H5D_CONTIGUOUS)
        return shape->type != CHECKPOINT_INT4 && H5Pget_nfilters(creation) == 0 &&
               H5Pget_external_count(creation) == 0;
    hsize_t chunk[CHECKPOINT_MAX_RANK];
    if (layout != H5D_CHUNKED || shape->rank == 0 || shape->type == CHECKPOINT_TEXT ||
        H5Pget_chunk(creation, CHECKPOINT_MAX_RANK, chunk) != shape->rank ||
        !row_fits_chunk(shape) || !read_filters(shape, creation))
        return false;
    shape->chunk_rows = checkpoint_chunk_rows(shape->type, shape->rows, shape->columns);
    bool same = chunk[0] == (hsize_t)shape->chunk_rows;
    for (int i = 1; i < shape->rank; i++)
        same = same && chunk[i] == (hsize_t)shape->dimensions[i];
    return same;
}

enum status checkpoint_shape_read(struct checkpoint_shape *shape, hid_t dataset,
                                  struct error *error) {
    *shape = (struct checkpoint_shape){.compression = CHECKPOINT_NONE};
    const hid_t type = H5Dget_type(dataset);
    const hid_t space = H5Dget_space(dataset);
    const hid_t creation = H5Dget_create_plist(dataset);
    hsize_t dimensions[H5S_MAX_RANK];
    enum status status = STATUS_OK;
    if (type < 0 || space < 0 || creation < 0)
        status = not_ours(error, "its description is damaged");
    else if (!read_type(shape, type))
        status = not_ours(error, "its type is none of this format");
    else if (H5Sget_simple_extent_type(space) == H5S_NULL ||
             (shape->rank = H5Sget_simple_extent_dims(space, dimensions, NULL)) < 0 ||
             shape->rank > CHECKPOINT_MAX_RANK)
        status = not_ours(error, "its shape is none of this format");
    if (status == STATUS_OK) {
        for (int i = 0; i < shape->rank; i++)
            shape->dimensions[i] = (int64_t)dimensions[i];
        if (!shape_count(shape))
            status = not_ours(error, "its shape is none of this format");
        else if (!read_layout(shape, creation))
            status = not_ours(error, "its chunks or filters are none of this format");
    }
    H5Tclose(type);
    H5Sclose(space);
    H5Pclose(creation);
    return status;
}
