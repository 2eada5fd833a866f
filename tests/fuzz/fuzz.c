#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Of <sanitizer/allocator_interface.h>, which GCC comes without. */
size_t __sanitizer_get_current_allocated_bytes(void);
int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t),
                                              void (*)(const volatile void *));

static char folder[200];
static size_t before, most;

static int remove_entry(const char *path, const struct stat *facts, int kind, struct FTW *place) {
    (void)facts;
    (void)kind;
    (void)place;
    return remove(path);
}

static void remove_folder(void) {
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *fuzz_path(const char *name) {
    static char path[300];
    if (!*folder) {
        const char *parent = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/fptq-fuzz-XXXXXX", parent ? parent : "/tmp");
        fuzz_require(mkdtemp(folder) != NULL, "no temporary folder");
        atexit(remove_folder);
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

const char *fuzz_file(const char *name, const void *data, size_t size) {
    const char *path = fuzz_path(name);
    const int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    fuzz_require(descriptor >= 0 && write(descriptor, data, size) == (ssize_t)size,
                 "cannot write the input's file");
    close(descriptor);
    return path;
}

static void allocated(const volatile void *memory, size_t size) {
    (void)memory;
    (void)size;
    const size_t now = __sanitizer_get_current_allocated_bytes();
    most = now > most ? now : most;
}

static void freed(const volatile void *memory) {
    (void)memory;
}

void fuzz_memory_begin(void) {
    static int installed;
    if (!installed)
        fuzz_require(__sanitizer_install_malloc_and_free_hooks(allocated, freed), "no hooks");
    installed = 1;
    before = most = __sanitizer_get_current_allocated_bytes();
}

void fuzz_memory_end(size_t bound) {
    if (most > before && most - before > bound) {
        fprintf(stderr, "%zu bytes were allocated, the bound is %zu\n", most - before, bound);
        abort();
    }
}

void fuzz_require(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "not so: %s\n", what);
        abort();
    }
}
