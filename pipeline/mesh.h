/* The mesh of ranks: world = replicas x stages (+ ranks left over), and how ranks agree.
 *
 * Rank r works in replica r / stages as stage r % stages; ranks from replicas * stages on have no
 * part in calibration. Neighbouring stages are neighbouring ranks, so mpirun's default placement
 * keeps most of the traffic inside a host.
 *
 * Faults. In a phase where all ranks come to the same points, a fault is agreed by mesh_agree.
 * While ranks wait for each other point to point (the stream), a rank with a fault calls
 * mesh_fault_raise; the others see it in mesh_wait or mesh_fault_pending, leave the stream, and all
 * meet in mesh_agree. So every rank leaves with the same status and one rank has the message.
 *
 * Stalls. A rank that waits in mesh_wait, and rank 0 that waits in mesh_agree, longer than
 * stall_limit names the rank that it waits for, its layers and the phase, and ends the job
 * (MPI_Abort): a rank that hangs will not come to agree on anything. The other ranks wait in
 * mesh_agree for rank 0, which lets them know that it is alive (mesh_pulse) where it works alone or
 * they have no part; after half as much again without a sign they end the job. */
#ifndef FPTQ_PIPELINE_MESH_H
#define FPTQ_PIPELINE_MESH_H

#include <mpi.h>
#include <stdbool.h>

#include "io/status.h"

struct mesh {
    int rank, size;
    int host_rank, host_size; /* among the ranks of this host */
    int hosts;
    /* after mesh_arrange: */
    int stages, replicas;
    int layers;           /* of the model, for messages; 0: not known */
    int stage, replica;   /* -1 for a rank left over */
    MPI_Comm stage_peers; /* ranks with the same stage, by replica; MPI_COMM_NULL if left over */
    MPI_Request fault_receive; /* waits for another rank's fault */
    int fault_from;
    bool fault_sent;
    /* The watchdog: */
    double stall_limit; /* seconds that a rank may wait for another; 0: any time */
    double last_pulse;  /* of MPI_Wtime(), rank 0's */
    const char *phase;  /* what the ranks are at, for its message */
    struct mesh_awaited {
        int rank, layer_begin, layer_end; /* whom mesh_wait waits for, and its layers */
    } awaited;
};

enum status mesh_create(struct mesh *mesh, struct error *error);
void mesh_destroy(struct mesh *mesh);
/* Collective: so many stages and replicas, as planned. */
enum status mesh_arrange(struct mesh *mesh, int stages, int replicas, struct error *error);

/* Before a phase: its name ("calibration"), for messages. */
void mesh_enter(struct mesh *mesh, const char *phase);

/* Collective. Every rank brings its status; all return the status of the lowest rank that has a
 * fault of its own, and that rank's message is copied to *error on all ranks. */
enum status mesh_agree(const struct mesh *mesh, enum status status, struct error *error);
/* Rank 0 is alive, the others need not worry; nothing on other ranks, and often enough it may be
 * called at any time. mesh_fault_pending does. */
void mesh_pulse(struct mesh *mesh);
/* What a rank brings that has no fault of its own but heard of one: returns STATUS_FAILED, with an
 * empty message. */
enum status mesh_fault_heard(struct error *error);

/* Tell all other ranks that this one leaves the stream. */
void mesh_fault_raise(struct mesh *mesh);
/* Whether another rank has. */
bool mesh_fault_pending(struct mesh *mesh);
/* A rank with the layers of its stage (none when it has no part). */
struct mesh_awaited mesh_rank_layers(const struct mesh *mesh, int rank);
/* Wait for a request, MPI_REQUEST_NULL included, of the rank in mesh->awaited. False when another
 * rank raised a fault: the request is then cancelled and freed, its buffer free to reuse. */
bool mesh_wait(struct mesh *mesh, MPI_Request *request);
/* Give a request up, MPI_REQUEST_NULL included. */
void mesh_cancel(MPI_Request *request);
/* Collective, after the stream: settle what mesh_fault_raise sent, so that a next stream starts
 * clean. */
void mesh_fault_settle(struct mesh *mesh);

#endif
