/* One safetensors file.
 *
 * Bytes 0..7: the length L of the header, 64 bits little endian. Bytes 8..8+L-1: the header, a JSON
 * object; spaces may end it. From byte 8 + L to the end of the file: the data. The header maps each
 * tensor's name to {"dtype": text, "shape": [integers, outermost first], "data_offsets": [begin,
 * end]}, offsets counted from the start of the data; elements are little endian, row-major. The key
 * "__metadata__" maps to an object of texts, which says nothing about the tensors. The tensors
 * cover the data exactly: no overlap, no hole, no rest.
 *
 * Read are F32, F16 and BF16. Other types (buffers such as rotary inv_freq or attention masks) are
 * checked and then kept in `unread`. */
#ifndef FPTQ_IO_SAFETENSORS_H
#define FPTQ_IO_SAFETENSORS_H

#include <jansson.h>

#include "io/mapped_file.h"
#include "io/tensor.h"

struct safetensors {
    struct mapped_file file;
    size_t data_begin;      /* 8 + L */
    json_t *header;         /* owns the names */
    struct tensor *tensors; /* in the order of their data */
    int64_t count;
    struct tensor_unread *unread;
    int64_t unread_count;
};

/* Map the file and check all of its header. STATUS_INPUT names the file and the tensor at fault. */
enum status safetensors_open(const char *path, struct safetensors *safetensors,
                             struct error *error);
void safetensors_close(struct safetensors *safetensors);

#endif
