/* For tests/analyze alone, before all else in every file but those that define these functions: the
 * analyzer, which sees one file at a time, is told that error_set() returns the status it is given,
 * and that mesh_agree() returns no success to a rank that brings a fault. */
#include "io/status.h"

static inline enum status analyze_status(enum status status) {
    return status;
}
#define error_set(error, status, ...)                                                              \
    (error_set(error, status, __VA_ARGS__), analyze_status(status))

#if __has_include(<mpi.h>)
#include "pipeline/mesh.h"

static inline enum status analyze_agree(const struct mesh *mesh, enum status status,
                                        struct error *error) {
    const enum status agreed = mesh_agree(mesh, status, error);
    if (status != STATUS_OK && agreed == STATUS_OK)
        __builtin_unreachable();
    return agreed;
}
#define mesh_agree analyze_agree
#endif
