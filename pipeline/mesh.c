#include "pipeline/mesh.h"

#include <sched.h>
#include <string.h>

#include "pipeline/log.h"
#include "pipeline/slice.h"

enum { TAG_FAULT = 7001, TAG_ARRIVED = 7002, TAG_ANSWER = 7003 };

enum status mesh_create(struct mesh *mesh, struct error *error) {
    memset(mesh, 0, sizeof *mesh);
    mesh->stage = mesh->replica = -1;
    mesh->phase = "start";
    mesh->stage_peers = MPI_COMM_NULL;
    mesh->fault_receive = MPI_REQUEST_NULL;
    MPI_Comm_rank(MPI_COMM_WORLD, &mesh->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mesh->size);
    MPI_Comm host = MPI_COMM_NULL;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, mesh->rank, MPI_INFO_NULL, &host))
        return error_set(error, STATUS_FAILED, "MPI cannot tell which ranks share a host");
    MPI_Comm_rank(host, &mesh->host_rank);
    MPI_Comm_size(host, &mesh->host_size);
    MPI_Comm_free(&host);
    const int leads = mesh->host_rank == 0;
    MPI_Allreduce(&leads, &mesh->hosts, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    return STATUS_OK;
}

static void fault_listen(struct mesh *mesh) {
    MPI_Irecv(&mesh->fault_from, 1, MPI_INT, MPI_ANY_SOURCE, TAG_FAULT, MPI_COMM_WORLD,
              &mesh->fault_receive);
}

static void fault_deafen(struct mesh *mesh) {
    if (mesh->fault_receive == MPI_REQUEST_NULL)
        return;
    MPI_Cancel(&mesh->fault_receive);
    MPI_Wait(&mesh->fault_receive, MPI_STATUS_IGNORE);
}

void mesh_destroy(struct mesh *mesh) {
    fault_deafen(mesh);
    if (mesh->stage_peers != MPI_COMM_NULL)
        MPI_Comm_free(&mesh->stage_peers);
}

enum status mesh_arrange(struct mesh *mesh, int stages, int replicas, struct error *error) {
    mesh->stages = stages;
    mesh->replicas = replicas;
    const bool works = mesh->rank < stages * replicas;
    mesh->stage = works ? mesh->rank % stages : -1;
    mesh->replica = works ? mesh->rank / stages : -1;
    if (MPI_Comm_split(MPI_COMM_WORLD, works ? mesh->stage : MPI_UNDEFINED, mesh->rank,
                       &mesh->stage_peers))
        return error_set(error, STATUS_FAILED, "MPI cannot split the ranks into stages");
    fault_listen(mesh);
    return STATUS_OK;
}

/* Answers that are no rank. */
enum { NO_RANK = -1, PULSE = -2 };

void mesh_enter(struct mesh *mesh, const char *phase) {
    mesh->phase = phase;
}

static void end_stalled(const struct mesh *mesh, const struct mesh_awaited *awaited,
                        double waited) {
    log_set_speaker(true);
    if (awaited->layer_end > awaited->layer_begin)
        log_error(
            "rank %d has waited %.0f s for rank %d, which has layers %d to %d, in %s: the job "
            "ends. Is its host, or the disk it reads from, stuck?",
            mesh->rank, waited, awaited->rank, awaited->layer_begin, awaited->layer_end - 1,
            mesh->phase);
    else
        log_error("rank %d has waited %.0f s for rank %d in %s: the job ends. Is its host, or the "
                  "disk it reads from, stuck?",
                  mesh->rank, waited, awaited->rank, mesh->phase);
    MPI_Abort(MPI_COMM_WORLD, STATUS_FAILED);
}

struct mesh_awaited mesh_rank_layers(const struct mesh *mesh, int rank) {
    struct mesh_awaited awaited = {.rank = rank};
    if (mesh->layers && rank < mesh->stages * mesh->replicas) {
        awaited.layer_begin = slice_begin(mesh->layers, mesh->stages, rank % mesh->stages);
        awaited.layer_end = slice_begin(mesh->layers, mesh->stages, rank % mesh->stages + 1);
    }
    return awaited;
}

/* A few bytes: sent eagerly, so the request needs no one's waiting. */
static void send_number(const int *number, int rank, int tag) {
    MPI_Request request;
    MPI_Isend(number, 1, MPI_INT, rank, tag, MPI_COMM_WORLD, &request);
    MPI_Request_free(&request);
}

/* Seldom: a quarter of the time that would alarm the others. */
static void send_pulse(const struct mesh *mesh, double *last_pulse) {
    static const int pulse = PULSE;
    const double now = MPI_Wtime();
    if (mesh->rank != 0 || mesh->stall_limit <= 0 || now - *last_pulse < mesh->stall_limit / 4)
        return;
    *last_pulse = now;
    for (int rank = 1; rank < mesh->size; rank++)
        send_number(&pulse, rank, TAG_ANSWER);
}

void mesh_pulse(struct mesh *mesh) {
    send_pulse(mesh, &mesh->last_pulse);
}

/* Wait for a message of each rank, so that the one that does not come can be named. The message
 * says whether the rank has a fault; returns the first that has, or `first`. */
static int await_ranks(const struct mesh *mesh, int first) {
    const double since = MPI_Wtime();
    double last_pulse = since;
    for (int rank = 1; rank < mesh->size; rank++) {
        const struct mesh_awaited awaited = mesh_rank_layers(mesh, rank);
        int arrived = 0, fault = 0;
        MPI_Request request;
        MPI_Irecv(&fault, 1, MPI_INT, rank, TAG_ARRIVED, MPI_COMM_WORLD, &request);
        for (;;) {
            MPI_Test(&request, &arrived, MPI_STATUS_IGNORE);
            if (arrived)
                break;
            const double waited = MPI_Wtime() - since;
            if (mesh->stall_limit > 0 && waited > mesh->stall_limit)
                end_stalled(mesh, &awaited, waited);
            send_pulse(mesh, &last_pulse);
            sched_yield();
        }
        if (fault && first == NO_RANK)
            first = rank;
    }
    return first;
}

/* Wait for rank 0's answer. When another rank hangs rank 0 knows which, and is given the time to
 * say so first. */
static int await_answer(const struct mesh *mesh) {
    const struct mesh_awaited awaited = mesh_rank_layers(mesh, 0);
    double since = MPI_Wtime();
    for (;;) {
        int answer, arrived = 0;
        MPI_Request request;
        MPI_Irecv(&answer, 1, MPI_INT, 0, TAG_ANSWER, MPI_COMM_WORLD, &request);
        for (;;) {
            MPI_Test(&request, &arrived, MPI_STATUS_IGNORE);
            if (arrived)
                break;
            const double waited = MPI_Wtime() - since;
            if (mesh->stall_limit > 0 && waited > 1.5 * mesh->stall_limit)
                end_stalled(mesh, &awaited, waited);
            sched_yield();
        }
        if (answer != PULSE)
            return answer;
        since = MPI_Wtime();
    }
}

enum status mesh_agree(const struct mesh *mesh, enum status status, struct error *error) {
    const int fault = status != STATUS_OK && error->message[0];
    int first;
    /* After a rank has arrived only rank 0 sends: one that stops then holds up no more than the
     * next agreement. */
    if (mesh->rank == 0) {
        first = await_ranks(mesh, fault ? 0 : NO_RANK);
        for (int rank = 1; rank < mesh->size; rank++)
            MPI_Send(&first, 1, MPI_INT, rank, TAG_ANSWER, MPI_COMM_WORLD);
    } else {
        MPI_Send(&fault, 1, MPI_INT, 0, TAG_ARRIVED, MPI_COMM_WORLD);
        first = await_answer(mesh);
    }
    if (first == NO_RANK)
        return STATUS_OK;
    MPI_Bcast(error, (int)sizeof *error, MPI_BYTE, first, MPI_COMM_WORLD);
    return error->status;
}

enum status mesh_fault_heard(struct error *error) {
    error->status = STATUS_FAILED;
    error->message[0] = 0;
    return STATUS_FAILED;
}

void mesh_fault_raise(struct mesh *mesh) {
    if (mesh->fault_sent)
        return;
    mesh->fault_sent = true;
    for (int rank = 0; rank < mesh->size; rank++)
        if (rank != mesh->rank)
            send_number(&mesh->rank, rank, TAG_FAULT);
}

bool mesh_fault_pending(struct mesh *mesh) {
    mesh_pulse(mesh);
    if (mesh->fault_receive == MPI_REQUEST_NULL)
        return true;
    int arrived = 0;
    MPI_Test(&mesh->fault_receive, &arrived, MPI_STATUS_IGNORE);
    return arrived;
}

void mesh_cancel(MPI_Request *request) {
    if (*request == MPI_REQUEST_NULL)
        return;
    MPI_Cancel(request);
    MPI_Request_free(request);
}

bool mesh_wait(struct mesh *mesh, MPI_Request *request) {
    const double since = MPI_Wtime();
    for (;;) {
        int done = 0;
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done)
            return true;
        if (mesh_fault_pending(mesh)) {
            mesh_cancel(request);
            return false;
        }
        const double waited = MPI_Wtime() - since;
        if (mesh->stall_limit > 0 && waited > mesh->stall_limit)
            end_stalled(mesh, &mesh->awaited, waited);
        /* Other ranks may share this core; they are the ones we wait for. */
        sched_yield();
    }
}

void mesh_fault_settle(struct mesh *mesh) {
    struct error none;
    mesh_agree(mesh, STATUS_OK, &none); /* a barrier that names who does not come */
    fault_deafen(mesh);
    int waiting = 1;
    while (waiting) {
        MPI_Iprobe(MPI_ANY_SOURCE, TAG_FAULT, MPI_COMM_WORLD, &waiting, MPI_STATUS_IGNORE);
        if (waiting)
            MPI_Recv(&mesh->fault_from, 1, MPI_INT, MPI_ANY_SOURCE, TAG_FAULT, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE);
    }
    mesh->fault_sent = false;
    fault_listen(mesh);
}
