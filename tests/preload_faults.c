/* Preloaded into the program (LD_PRELOAD): something happens at one operation on the checkpoint's
 * files: write, pwrite, ftruncate, fsync, rename, counted from 1 in each process.
 * FAULT_RANK: which rank. FAULT_AT: which operation. FAULT_PATH: what the files' paths have in them
 * (".parts" or ".h5"). FAULT_KIND: "EIO", "ENOSPC" (from then on every operation fails), "short"
 * (half is written, once), "kill" (SIGKILL), "TERM" (SIGTERM), "reduction" (SIGKILL at the
 * reduction of the ranges: FAULT_AT 1 before this rank takes part, 2 when it has). */
#undef _FILE_OFFSET_BITS /* both names of pwrite are defined here */
#include <dlfcn.h>
#include <errno.h>
#include <mpi.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum kind { NOTHING, FAIL, SHORT };

static long operations;

static bool concerns(const char *path) {
    const char *chosen = getenv("FAULT_PATH");
    if (chosen)
        return strstr(path, chosen) != NULL;
    return strstr(path, ".parts") != NULL || strstr(path, ".h5") != NULL;
}

static bool file_concerns(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    return concerns(path);
}

static bool is_chosen_rank(void) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *chosen = getenv("FAULT_RANK");
    if (!rank)
        rank = getenv("PMI_RANK");
    return !rank || !chosen || strcmp(rank, chosen) == 0;
}

static enum kind next_operation(void) {
    const char *at = getenv("FAULT_AT"), *kind = getenv("FAULT_KIND");
    if (!at || !kind || strcmp(kind, "reduction") == 0 || !is_chosen_rank())
        return NOTHING;
    operations++;
    if (operations < atol(at))
        return NOTHING;
    if (strcmp(kind, "kill") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(kind, "TERM") == 0) {
        if (operations == atol(at))
            kill(getpid(), SIGTERM);
        return NOTHING;
    }
    if (strcmp(kind, "short") == 0)
        return operations == atol(at) ? SHORT : NOTHING;
    errno = strcmp(kind, "EIO") == 0 ? EIO : ENOSPC;
    return FAIL;
}

static void *next_symbol(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

ssize_t write(int file, const void *data, size_t bytes) {
    ssize_t (*real)(int, const void *, size_t);
    *(void **)&real = next_symbol("write");
    const enum kind kind = file_concerns(file) ? next_operation() : NOTHING;
    return kind == FAIL ? -1 : real(file, data, kind == SHORT && bytes > 1 ? bytes / 2 : bytes);
}

static ssize_t positioned(const char *name, int file, const void *data, size_t bytes, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t);
    *(void **)&real = next_symbol(name);
    const enum kind kind = file_concerns(file) ? next_operation() : NOTHING;
    return kind == FAIL ? -1 : real(file, data, kind == SHORT && bytes > 1 ? bytes / 2 : bytes, at);
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t at) {
    return positioned("pwrite", file, data, bytes, at);
}

ssize_t pwrite64(int file, const void *data, size_t bytes, off_t at) {
    return positioned("pwrite64", file, data, bytes, at);
}

int fsync(int file) {
    int (*real)(int);
    *(void **)&real = next_symbol("fsync");
    return file_concerns(file) && next_operation() == FAIL ? -1 : real(file);
}

int ftruncate(int file, off_t bytes) {
    int (*real)(int, off_t);
    *(void **)&real = next_symbol("ftruncate");
    return file_concerns(file) && next_operation() == FAIL ? -1 : real(file, bytes);
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *);
    *(void **)&real = next_symbol("rename");
    return concerns(from) && next_operation() == FAIL ? -1 : real(from, to);
}

int MPI_Allreduce(const void *from, void *to, int count, MPI_Datatype type, MPI_Op op,
                  MPI_Comm communicator) {
    const char *at = getenv("FAULT_AT"), *chosen = getenv("FAULT_KIND");
    const bool dies = at && chosen && strcmp(chosen, "reduction") == 0 && type == MPI_FLOAT &&
                      op == MPI_MAX && is_chosen_rank();
    if (dies && atol(at) == 1)
        kill(getpid(), SIGKILL);
    const int status = PMPI_Allreduce(from, to, count, type, op, communicator);
    if (dies)
        kill(getpid(), SIGKILL);
    return status;
}
