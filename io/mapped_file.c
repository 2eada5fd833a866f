#include "io/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static enum status map_descriptor(int descriptor, struct mapped_file *file, struct error *error) {
    struct stat information;
    if (fstat(descriptor, &information))
        return error_set(error, STATUS_INPUT, "%s: %s", file->path, strerror(errno));
    if (!S_ISREG(information.st_mode))
        return error_set(error, STATUS_INPUT, "%s: not a regular file", file->path);
    file->size = (size_t)information.st_size;
    if (!file->size)
        return STATUS_OK;
    void *data = mmap(NULL, file->size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED)
        return error_set(error, STATUS_FAILED, "%s: cannot map %zu bytes: %s", file->path,
                         file->size, strerror(errno));
    file->data = data;
    return STATUS_OK;
}

enum status mapped_file_open(const char *path, struct mapped_file *file, struct error *error) {
    *file = (struct mapped_file){.path = strdup(path)};
    if (!file->path)
        return error_set(error, STATUS_FAILED, "%s: out of memory", path);
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    enum status status;
    if (descriptor < 0) {
        status = error_set(error, STATUS_INPUT, "%s: %s", path, strerror(errno));
    } else {
        status = map_descriptor(descriptor, file, error);
        close(descriptor);
    }
    if (status != STATUS_OK)
        mapped_file_close(file);
    return status;
}

void mapped_file_close(struct mapped_file *file) {
    if (file->data)
        munmap((void *)(uintptr_t)file->data, file->size);
    free(file->path);
    *file = (struct mapped_file){0};
}
