/* Who quantizes what: the replicas of a stage share its layers; with fewer layers than replicas,
 * several share a layer's linears, and the first of them writes. */
#ifndef FPTQ_PIPELINE_QUANTIZE_TEAM_H
#define FPTQ_PIPELINE_QUANTIZE_TEAM_H

#include <stdbool.h>
#include <stdint.h>

/* Replicas first, first + step ...: `size` of them, which work on one layer. */
struct quantize_team {
    int first, step, size;
};

/* For layer `index` of the stage's `layers`: with as many layers as replicas or more, replica index
 * % replicas; with fewer, those with replica % layers == index. */
struct quantize_team quantize_team_of(int index, int layers, int replicas);
int quantize_team_replica(const struct quantize_team *team, int member);
bool quantize_team_has(const struct quantize_team *team, int replica);
/* Which member takes each of `count` linears of so many weights: the next one goes to who has least
 * so far. */
void quantize_team_share(const struct quantize_team *team, int count, const int64_t *weights,
                         int *member_of);

#endif
