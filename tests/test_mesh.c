/* Ranks agree, and a fault frees those that wait. Run with any number of ranks >= 2:
 *   mpirun -n 4 test_mesh */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/mesh.h"

static int failures;

static void check(bool holds, const struct mesh *mesh, const char *what) {
    if (holds)
        return;
    failures++;
    printf("FAIL (rank %d): %s\n", mesh->rank, what);
}

/* The lowest rank with a fault of its own speaks for all; one that only heard of it does not. */
static void test_agree(struct mesh *mesh) {
    struct error error = {0};
    check(mesh_agree(mesh, STATUS_OK, &error) == STATUS_OK, mesh, "all well is agreed");
    enum status status = STATUS_OK;
    if (mesh->rank == 0)
        status = mesh_fault_heard(&error);
    else
        status = error_set(&error, STATUS_INPUT, "fault of rank %d", mesh->rank);
    status = mesh_agree(mesh, status, &error);
    check(status == STATUS_INPUT, mesh, "the status of the first rank at fault");
    check(!strcmp(error.message, "fault of rank 1"), mesh, "its message on every rank");
}

/* Every rank waits for a message that never comes, but the last one raises a fault. */
static void test_fault(struct mesh *mesh) {
    struct error error = {0};
    enum status status = STATUS_OK;
    if (mesh->rank == mesh->size - 1) {
        status = error_set(&error, STATUS_FAILED, "the last rank is at fault");
        mesh_fault_raise(mesh);
    } else {
        int never = 0;
        MPI_Request request;
        MPI_Irecv(&never, 1, MPI_INT, mesh->size - 1, 99, MPI_COMM_WORLD, &request);
        check(!mesh_wait(mesh, &request), mesh, "a fault ends the wait");
        status = mesh_fault_heard(&error);
    }
    status = mesh_agree(mesh, status, &error);
    check(status == STATUS_FAILED, mesh, "the fault is agreed");
    check(!strcmp(error.message, "the last rank is at fault"), mesh, "with its message");
    mesh_fault_settle(mesh);
    check(!mesh_fault_pending(mesh), mesh, "settled: the next stream starts clean");
}

/* A message between neighbours arrives as usual. */
static void test_wait(struct mesh *mesh) {
    const int next = (mesh->rank + 1) % mesh->size;
    const int before = (mesh->rank + mesh->size - 1) % mesh->size;
    int received = -1;
    MPI_Request receive, send;
    MPI_Irecv(&received, 1, MPI_INT, before, 5, MPI_COMM_WORLD, &receive);
    MPI_Isend(&mesh->rank, 1, MPI_INT, next, 5, MPI_COMM_WORLD, &send);
    check(mesh_wait(mesh, &receive) && mesh_wait(mesh, &send), mesh, "the wait succeeds");
    check(received == before, mesh, "the neighbour's message");
}

int main(int count, char **arguments) {
    MPI_Init(&count, &arguments);
    struct mesh mesh;
    struct error error = {0};
    if (mesh_create(&mesh, &error))
        MPI_Abort(MPI_COMM_WORLD, 1);
    const int stages = mesh.size > 2 ? 2 : 1, replicas = mesh.size / 2;
    check(mesh_arrange(&mesh, stages, replicas, &error) == STATUS_OK, &mesh, "arranged");
    check(mesh.stage == (mesh.rank < stages * replicas ? mesh.rank % stages : -1), &mesh,
          "its stage");
    test_agree(&mesh);
    test_fault(&mesh);
    test_wait(&mesh);
    MPI_Barrier(MPI_COMM_WORLD); /* phases of a job are apart: each ends with mesh_agree */
    test_fault(&mesh);
    mesh_destroy(&mesh);
    MPI_Allreduce(MPI_IN_PLACE, &failures, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Finalize();
    return failures ? 1 : 0;
}
