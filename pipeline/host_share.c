#include "pipeline/host_share.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipeline/log.h"

/* Where the first member's memory is to be found: through its open file. */
struct offer {
    int process, file; /* file < 0: there is none */
    unsigned long device, node;
};

static struct offer make_offer(size_t bytes) {
    struct offer offer = {.process = getpid(),
                          .file = memfd_create("fptq-pipeline weights", MFD_CLOEXEC)};
    struct stat information;
    if (offer.file >= 0 &&
        (ftruncate(offer.file, (off_t)bytes) || fstat(offer.file, &information))) {
        close(offer.file);
        offer.file = -1;
    }
    if (offer.file >= 0) {
        offer.device = information.st_dev;
        offer.node = information.st_ino;
    }
    return offer;
}

/* The file, or -1: where processes are numbered otherwise there is another file, or none. */
static int take_offer(const struct offer *offer) {
    char path[64];
    struct stat information;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", offer->process, offer->file);
    const int file = offer->file < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (file >= 0 && (fstat(file, &information) || information.st_dev != offer->device ||
                      information.st_ino != offer->node)) {
        close(file);
        return -1;
    }
    return file;
}

void host_share_create(const struct mesh *mesh, size_t bytes, struct host_share *share) {
    *share = (struct host_share){.bytes = bytes, .members = 1};
    MPI_Comm peers = MPI_COMM_NULL;
    if (!bytes || mesh->stage < 0 || mesh->replicas == 1 ||
        MPI_Comm_split_type(mesh->stage_peers, MPI_COMM_TYPE_SHARED, mesh->replica, MPI_INFO_NULL,
                            &peers))
        return;
    int member, members;
    MPI_Comm_rank(peers, &member);
    MPI_Comm_size(peers, &members);
    if (members > 1) {
        struct offer offer = {.file = -1};
        if (member == 0)
            offer = make_offer(bytes);
        MPI_Bcast(&offer, (int)sizeof offer, MPI_BYTE, 0, peers);
        const int file = member == 0 ? offer.file : take_offer(&offer);
        void *data =
            file < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        int all = data != MAP_FAILED;
        MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, peers);
        if (file >= 0)
            close(file);
        if (all)
            *share = (struct host_share){data, bytes, member, members};
        else if (data != MAP_FAILED)
            munmap(data, bytes);
        if (!all && member == 0)
            log_warning("ranks of a host cannot share memory here: each has weights of its own");
    }
    MPI_Comm_free(&peers);
}

void host_share_free(struct host_share *share) {
    if (share->data)
        munmap(share->data, share->bytes);
    *share = (struct host_share){.members = 1};
}
