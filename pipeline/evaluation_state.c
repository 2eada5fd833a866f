#include "pipeline/evaluation_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/digest.h"
#include "io/state.h"
#include "pipeline/fingerprint.h"
#include "pipeline/log.h"
#include "pipeline/timing.h"

/* A record: this, then its entries. */
struct record_head {
    int64_t request_count, entry_count, model_count;
};

/* ---- The fingerprint ---- */

/* The manifest has the sum of every dataset. */
static void digest_checkpoint(const struct checkpoint *checkpoint, char sum[65]) {
    struct digest *digest = digest_create();
    sum[0] = '\0';
    if (!digest)
        return;
    for (size_t i = 0; checkpoint && i < checkpoint_line_count(checkpoint); i++) {
        const char *path = checkpoint_line_path(checkpoint, i);
        const char *content = checkpoint_line_sum(checkpoint, i);
        digest_update(digest, path, strlen(path));
        digest_update(digest, content, strlen(content));
    }
    digest_finish(digest, sum);
}

/* Which tokens are asked for after which. */
static void digest_task(const struct evaluation_task *task, char sum[65]) {
    struct digest *digest = digest_create();
    sum[0] = '\0';
    if (!digest)
        return;
    digest_update(digest, task->ids, (size_t)task->id_count * sizeof *task->ids);
    for (int64_t i = 0; i < task->request_count; i++) {
        const struct evaluation_request *request = &task->requests[i];
        const int64_t places[] = {request->item, request->context, request->continuation,
                                  request->context_tokens, request->continuation_tokens};
        digest_update(digest, places, sizeof places);
    }
    digest_finish(digest, sum);
}

static enum status make_fingerprint(const struct evaluation_state_run *run, char **text,
                                    struct error *error) {
    static const char *const keys[] = {"evaluation.full_precision", "evaluation.kv_cache",
                                       "run.precision", NULL};
    *text = NULL;
    char *toml, sum[65];
    enum status status = config_full_text(run->config, &toml, error);
    if (status)
        return status;
    size_t size;
    FILE *out = open_memstream(text, &size);
    if (out) {
        fingerprint_add_settings(out, toml, keys);
        status = fingerprint_add_model(out, run->model->source, run->path, error);
        digest_checkpoint(run->checkpoint, sum);
        fprintf(out, "the checkpoint's content = %s\n", run->checkpoint ? sum : "no checkpoint");
        for (int i = 0; i < run->task_count; i++) {
            digest_task(&run->tasks[i], sum);
            fprintf(out, "the requests of %s = %s\n", evaluation_set_name(run->tasks[i].set), sum);
        }
        fprintf(out, "version = %s, scores 1\n", FPTQ_VERSION);
    }
    free(toml);
    if (!out || fclose(out) != 0)
        return error_set(error, STATUS_FAILED, "no memory for the fingerprint");
    return status;
}

/* Rank 0. */
static enum status take_up(struct evaluation_state *state, const struct evaluation_state_run *run,
                           struct error *error) {
    char *text = NULL;
    bool same = false;
    enum status status = state_begin(run->output, &state->lock, error);
    if (!status)
        status = make_fingerprint(run, &text, error);
    if (!status && run->restart)
        state_clear(run->output);
    else if (!status)
        status = fingerprint_compare(run->output, text, &same, error);
    if (!status)
        status = fingerprint_take(run->output, text, same, state->owner, error);
    free(text);
    return status;
}

enum status evaluation_state_open(struct evaluation_state *state,
                                  const struct evaluation_state_run *run, struct error *error) {
    const struct mesh *mesh = run->mesh;
    struct stat found;
    int keeps = run->output && (stat(run->output, &found) != 0 || S_ISREG(found.st_mode));
    MPI_Bcast(&keeps, 1, MPI_INT, 0, MPI_COMM_WORLD);
    *state = (struct evaluation_state){
        .mesh = mesh,
        .output = keeps ? run->output : NULL,
        .model_count = run->model_count,
        .lock = -1,
    };
    if (!keeps)
        return STATUS_OK;
    const enum status status =
        mesh_agree(mesh, mesh->rank ? STATUS_OK : take_up(state, run, error), error);
    if (!status)
        MPI_Bcast(state->owner, sizeof state->owner, MPI_CHAR, 0, MPI_COMM_WORLD);
    return status;
}

static bool has_scores(const char *output) {
    char(*names)[STATE_NAME];
    int count = 0;
    if (!state_list(output, "scores-", &names, &count, NULL))
        free(names);
    return count > 0;
}

void evaluation_state_close(struct evaluation_state *state, bool written) {
    if (state->output && state->lock >= 0) {
        if (written || !has_scores(state->output))
            state_remove_all(state->output);
        close(state->lock);
    }
    free(state->entries);
    *state = (struct evaluation_state){.lock = -1};
}

/* ---- A set ---- */

static void record_name(const struct evaluation_state *state, const char *of,
                        char name[STATE_NAME]) {
    char layer[20] = "";
    if (state->layer >= 0)
        snprintf(layer, sizeof layer, "layer-%04d-", state->layer);
    snprintf(name, STATE_NAME, "%sscores-%s-%s", layer, evaluation_set_name(state->task->set), of);
}

/* The entries of a record. False when it does not fit the set. */
static bool add_record(const struct evaluation_state *state, const unsigned char *data,
                       size_t bytes, const struct evaluation_scores *scores, bool *done) {
    struct record_head head;
    struct evaluation_state_entry entry;
    if (bytes < sizeof head)
        return false;
    memcpy(&head, data, sizeof head);
    const int64_t count = (int64_t)((bytes - sizeof head) / sizeof entry);
    if (head.request_count != state->task->request_count ||
        head.model_count != state->model_count || head.entry_count != count ||
        bytes != sizeof head + (size_t)count * sizeof entry)
        return false;
    for (int64_t i = 0; i < count; i++) {
        memcpy(&entry, data + sizeof head + (size_t)i * sizeof entry, sizeof entry);
        if (entry.request < 0 || entry.request >= head.request_count)
            return false;
        for (int model = 0; model < state->model_count; model++)
            scores[model].requests[entry.request] = entry.scores[model];
        done[entry.request] = true;
    }
    return true;
}

static enum status write_record(const struct evaluation_state *state, const char *name,
                                struct error *error) {
    const struct record_head head = {state->task->request_count, state->entry_count,
                                     state->model_count};
    const struct state_piece pieces[] = {
        {&head, sizeof head},
        {state->entries, (size_t)state->entry_count * sizeof *state->entries},
    };
    return state_write_pieces(state->output, name, state->owner, pieces, 2, error);
}

/* One record of all that was found; the others then go. */
static enum status join_records(struct evaluation_state *state, char (*names)[STATE_NAME],
                                int count, const struct evaluation_scores *scores, const bool *done,
                                struct error *error) {
    char joined[STATE_NAME];
    record_name(state, "joined", joined);
    for (int64_t i = 0; i < state->task->request_count; i++)
        if (done[i])
            evaluation_state_add(state, scores, i);
    const enum status status = write_record(state, joined, error);
    char layer[24] = "";
    if (state->layer >= 0)
        snprintf(layer, sizeof layer, ", layer %d", state->layer);
    if (!status && state->entry_count)
        log_info("%s%s: going on with an interrupted run: %lld of %lld requests are done",
                 evaluation_set_name(state->task->set), layer, (long long)state->entry_count,
                 (long long)state->task->request_count);
    for (int i = 0; !status && i < count; i++)
        if (strcmp(names[i], joined) != 0)
            state_remove(state->output, names[i]);
    state->entry_count = 0;
    return status;
}

/* Rank 0. */
static enum status read_records(struct evaluation_state *state,
                                const struct evaluation_scores *scores, bool *done,
                                struct error *error) {
    char prefix[STATE_NAME], (*names)[STATE_NAME];
    int count;
    record_name(state, "", prefix);
    enum status status = state_list(state->output, prefix, &names, &count, error);
    for (int i = 0; !status && i < count; i++) {
        void *data;
        size_t bytes;
        struct error fault = {0};
        if (state_read(state->output, names[i], state->owner, &data, &bytes, &fault))
            log_warning("%s: left out, its requests are computed again", fault.message);
        else if (data && !add_record(state, data, bytes, scores, done))
            log_warning("%s: does not fit; left out", names[i]);
        free(data);
    }
    if (!status && count)
        status = join_records(state, names, count, scores, done, error);
    free(names);
    return status;
}

enum status evaluation_state_begin(struct evaluation_state *state,
                                   const struct evaluation_task *task, int layer,
                                   const struct evaluation_scores *scores, bool *done,
                                   struct error *error) {
    const size_t requests = (size_t)task->request_count;
    memset(done, 0, requests * sizeof *done);
    if (!state->output)
        return STATUS_OK;
    free(state->entries);
    state->task = task;
    state->layer = layer;
    state->entry_count = 0;
    state->entries = malloc(requests * sizeof *state->entries);
    enum status status = STATUS_OK;
    if (!state->entries)
        status = error_set(error, STATUS_FAILED, "no memory for the state of %s",
                           evaluation_set_name(task->set));
    else if (state->mesh->rank == 0)
        status = read_records(state, scores, done, error);
    status = mesh_agree(state->mesh, status, error);
    if (!status)
        MPI_Bcast(done, (int)requests, MPI_C_BOOL, 0, MPI_COMM_WORLD);
    state->next_save = timing_next_save(0);
    return status;
}

void evaluation_state_add(struct evaluation_state *state, const struct evaluation_scores *scores,
                          int64_t request) {
    if (!state->output)
        return;
    struct evaluation_state_entry *entry = &state->entries[state->entry_count++];
    *entry = (struct evaluation_state_entry){.request = request};
    for (int model = 0; model < state->model_count; model++)
        entry->scores[model] = scores[model].requests[request];
}

enum status evaluation_state_save(struct evaluation_state *state, struct error *error) {
    if (!state->output || !state->entry_count)
        return STATUS_OK;
    char rank[16], name[STATE_NAME];
    snprintf(rank, sizeof rank, "%05d", state->mesh->rank);
    record_name(state, rank, name);
    const double begin = timing_now();
    const enum status status = write_record(state, name, error);
    state->save_seconds = timing_now() - begin;
    state->next_save = timing_next_save(state->save_seconds);
    return status;
}

enum status evaluation_state_save_when_due(struct evaluation_state *state, struct error *error) {
    return timing_now() < state->next_save ? STATUS_OK : evaluation_state_save(state, error);
}
