/* Memory that the replicas of one stage on one host share, for weights that cannot be used where
 * the file is mapped: decoded once, by all of them together. */
#ifndef FPTQ_PIPELINE_HOST_SHARE_H
#define FPTQ_PIPELINE_HOST_SHARE_H

#include <stddef.h>

#include "pipeline/mesh.h"

struct host_share {
    unsigned char *data; /* NULL: nothing is shared, each rank has its own */
    size_t bytes;
    int member, members; /* this rank among those that share */
};

/* Collective over the replicas of a stage, with the same bytes: a mapping of so many, if there is
 * more than one replica on this host and the system allows it; it begins at a page. It goes when
 * all have freed it or ended. */
void host_share_create(const struct mesh *mesh, size_t bytes, struct host_share *share);
void host_share_free(struct host_share *share);

#endif
