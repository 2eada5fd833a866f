/* The mesh of ranks: world = replicas x stages (+ ranks left over), and how ranks agree.
 *
 * Rank r works in replica r / stages as stage r % stages; ranks from replicas * stages on have no
 * part in calibration. Neighbouring stages are neighbouring ranks, so mpirun's default placement
 * keeps most of the traffic inside a host.
 *
 * Faults. In a phase where all ranks come to the same points, a fault is agreed by mesh_agree.
 * While ranks wait for each other point to point (the stream), a rank with a fault calls
 * mesh_fault_raise; the others see it in mesh_wait or mesh_fault_pending, leave the stream, and all
 * meet in mesh_agree. So every rank leaves with the same status and one rank has the message. */
#ifndef FPTQ_PIPELINE_MESH_H
#define FPTQ_PIPELINE_MESH_H

#include <mpi.h>
#include <stdbool.h>

#include "io/status.h"
#include "pipeline/plan.h"

struct mesh {
    int rank, size;
    int host_rank, host_size; /* among the ranks of this host */
    int hosts;
    /* after mesh_arrange: */
    int stages, replicas;
    int stage, replica;   /* -1 for a rank left over */
    MPI_Comm stage_peers; /* ranks with the same stage, by replica; MPI_COMM_NULL if left over */
    MPI_Request fault_receive; /* waits for another rank's fault */
    int fault_from;
    bool fault_sent;
};

enum status mesh_create(struct mesh *mesh, struct error *error);
void mesh_destroy(struct mesh *mesh);
/* Collective: take up the plan's stages and replicas. */
enum status mesh_arrange(struct mesh *mesh, const struct plan *plan, struct error *error);

/* Collective. Every rank brings its status; all return the status of the lowest rank that has a
 * fault of its own, and that rank's message is copied to *error on all ranks. */
enum status mesh_agree(const struct mesh *mesh, enum status status, struct error *error);
/* What a rank brings that has no fault of its own but heard of one: returns STATUS_FAILED, with an
 * empty message. */
enum status mesh_fault_heard(struct error *error);

/* Tell all other ranks that this one leaves the stream. */
void mesh_fault_raise(struct mesh *mesh);
/* Whether another rank has. */
bool mesh_fault_pending(struct mesh *mesh);
/* Wait for a request, MPI_REQUEST_NULL included. False when another rank raised a fault: the
 * request is then cancelled and freed, its buffer free to reuse. */
bool mesh_wait(struct mesh *mesh, MPI_Request *request);
/* Give a request up, MPI_REQUEST_NULL included. */
void mesh_cancel(MPI_Request *request);
/* Collective, after the stream: settle what mesh_fault_raise sent, so that a next stream starts
 * clean. */
void mesh_fault_settle(struct mesh *mesh);

#endif
