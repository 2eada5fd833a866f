#include "pipeline/quantize_team.h"

struct quantize_team quantize_team_of(int index, int layers, int replicas) {
    if (layers >= replicas)
        return (struct quantize_team){index % replicas, 1, 1};
    return (struct quantize_team){index, layers, (replicas - index + layers - 1) / layers};
}

int quantize_team_replica(const struct quantize_team *team, int member) {
    return team->first + member * team->step;
}

bool quantize_team_has(const struct quantize_team *team, int replica) {
    const int from_first = replica - team->first;
    return from_first >= 0 && from_first % team->step == 0 && from_first / team->step < team->size;
}

void quantize_team_share(const struct quantize_team *team, int count, const int64_t *weights,
                         int *member_of) {
    enum { MEMBERS_MAX = 64 }; /* more than linears: the rest have none */
    int64_t load[MEMBERS_MAX] = {0};
    const int members = team->size < MEMBERS_MAX ? team->size : MEMBERS_MAX;
    for (int i = 0; i < count; i++) {
        int least = 0;
        for (int member = 1; member < members; member++)
            if (load[member] < load[least])
                least = member;
        member_of[i] = least;
        load[least] += weights[i];
    }
}
