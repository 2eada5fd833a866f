#include "pipeline/evaluation_task.h"

#include <stdlib.h>
#include <string.h>

struct builder {
    const struct config *config;
    const struct model_shape *shape;
    struct tokenizer *tokenizer;
    struct evaluation_task *task;
    struct token_list ids;  /* of the task */
    struct token_list list; /* of one text */
    int64_t capacity;       /* of the requests */
    size_t context_ids;     /* that the last context has when it is encoded */
    const char *path;
    struct error *error;
};

static enum status out_of_memory(const struct builder *builder) {
    return error_set(builder->error, STATUS_FAILED, "%s: out of memory for its tokens",
                     builder->path);
}

static struct evaluation_request *add_request(struct builder *builder) {
    struct evaluation_task *task = builder->task;
    if (task->request_count == builder->capacity) {
        builder->capacity = builder->capacity ? 2 * builder->capacity : 256;
        void *grown = realloc(task->requests, (size_t)builder->capacity * sizeof *task->requests);
        if (!grown)
            return NULL;
        task->requests = grown;
    }
    struct evaluation_request *request = &task->requests[task->request_count++];
    *request = (struct evaluation_request){0};
    return request;
}

/* The ids of a text in builder->list. */
static enum status encode(struct builder *builder, const char *text, size_t length, bool bos) {
    builder->list.count = 0;
    const enum status status =
        tokenizer_encode(builder->tokenizer, text, length, bos, &builder->list, builder->error);
    for (size_t i = 0; !status && i < builder->list.count; i++)
        if (builder->list.ids[i] >= builder->shape->vocabulary)
            return error_set(builder->error, STATUS_INPUT,
                             "the tokenizer gives token %d, but the model's vocabulary has only "
                             "%lld: they do not belong together (%s)",
                             (int)builder->list.ids[i], (long long)builder->shape->vocabulary,
                             builder->path);
    return status;
}

/* Append the ids from `first` on of builder->list to the task's; *place: where they begin. */
static enum status keep(struct builder *builder, size_t first, int64_t *place, int64_t *count) {
    *place = (int64_t)builder->ids.count;
    *count = first < builder->list.count ? (int64_t)(builder->list.count - first) : 0;
    enum status status = STATUS_OK;
    for (size_t i = first; !status && i < builder->list.count; i++)
        status = token_list_append(&builder->ids, builder->list.ids[i], builder->error);
    return status;
}

/* ---- Texts ---- */

static enum status build_windows(struct builder *builder) {
    struct evaluation_task *task = builder->task;
    const struct config_evaluation *evaluation = &builder->config->evaluation;
    int64_t length = evaluation->sequence_length, most = evaluation->windows;
    if (!length)
        length = builder->shape->max_positions < 2048 ? builder->shape->max_positions : 2048;
    struct text_buffer text = {0};
    enum status status = evaluation_read_text(task->set, builder->path, &text, builder->error);
    if (!status)
        status = encode(builder, text.data, text.length, evaluation->bos != EVALUATION_BOS_NEVER);
    text_buffer_free(&text);
    if (status)
        return status;
    int64_t place, count;
    if ((status = keep(builder, 0, &place, &count)))
        return status;
    const int64_t windows = most && most < count / length ? most : count / length;
    if (!windows)
        return error_set(builder->error, STATUS_INPUT,
                         "%s: %lld tokens make no window of %lld (evaluation.sequence_length)",
                         builder->path, (long long)count, (long long)length);
    builder->ids.count = (size_t)(windows * length); /* the tail is dropped */
    for (int64_t w = 0; w < windows; w++) {
        struct evaluation_request *request = add_request(builder);
        if (!request)
            return out_of_memory(builder);
        *request = (struct evaluation_request){
            .item = w,
            .context = w * length,
            .context_tokens = 1,
            .continuation = w * length + 1,
            .continuation_tokens = length - 1,
        };
    }
    task->item_count = windows;
    task->window_tokens = length;
    return STATUS_OK;
}

/* ---- Items ---- */

/* The ids of a context; white space at its end is not one of its `length` bytes. An empty one is
 * BOS, or the end-of-text token. */
static enum status keep_context(struct builder *builder, const char *text, size_t length,
                                struct evaluation_request *request) {
    const bool bos = builder->config->evaluation.bos == EVALUATION_BOS_ALWAYS;
    enum status status = encode(builder, text, length, bos);
    builder->context_ids = builder->list.count;
    if (!status && !builder->list.count) {
        const int32_t first = tokenizer_bos(builder->tokenizer);
        const int32_t id = first >= 0 ? first : tokenizer_eos(builder->tokenizer);
        if (id < 0 || id >= builder->shape->vocabulary)
            return error_set(builder->error, STATUS_INPUT,
                             "%s: an item has an empty context, and the tokenizer has no token to "
                             "begin a text with",
                             builder->path);
        status = token_list_append(&builder->list, id, builder->error);
    }
    return status ? status : keep(builder, 0, &request->context, &request->context_tokens);
}

/* The ids that the continuation adds to its context's. */
static enum status keep_continuation(struct builder *builder, const char *context,
                                     const char *continuation, int64_t item,
                                     struct evaluation_request *request) {
    const bool bos = builder->config->evaluation.bos == EVALUATION_BOS_ALWAYS;
    struct text_buffer text = {0};
    enum status status = text_buffer_append(&text, context, strlen(context)) &&
                                 text_buffer_append(&text, continuation, strlen(continuation))
                             ? encode(builder, text.data, text.length, bos)
                             : out_of_memory(builder);
    text_buffer_free(&text);
    if (!status)
        status = keep(builder, builder->context_ids, &request->continuation,
                      &request->continuation_tokens);
    if (!status && !request->continuation_tokens)
        status = error_set(builder->error, STATUS_INPUT,
                           "%s: item %lld: a choice has no token of its own", builder->path,
                           (long long)item);
    return status;
}

/* Let a request fit the model: its last token is never an input. */
static enum status cut_context(struct builder *builder, int64_t item,
                               struct evaluation_request *request) {
    struct evaluation_task *task = builder->task;
    const int64_t most = builder->shape->max_positions;
    const int64_t excess = request->context_tokens + request->continuation_tokens - 1 - most;
    if (excess <= 0)
        return STATUS_OK;
    if (excess >= request->context_tokens)
        return error_set(builder->error, STATUS_INPUT,
                         "%s: item %lld has a choice of %lld tokens, more than the %lld positions "
                         "of the model",
                         builder->path, (long long)item, (long long)request->continuation_tokens,
                         (long long)most);
    request->context += excess;
    request->context_tokens -= excess;
    task->truncated++;
    return STATUS_OK;
}

static enum status build_item(struct builder *builder, const struct evaluation_item *item,
                              int64_t index) {
    struct evaluation_request kept = {0};
    size_t length = 0;
    for (int choice = 0; choice < item->choices; choice++) {
        const char *context = item->contexts[0];
        enum status status = STATUS_OK;
        if (choice == 0 || item->contexts[choice]) {
            context = item->contexts[choice];
            length = evaluation_stripped_length(context);
            status = keep_context(builder, context, length, &kept);
        }
        struct evaluation_request request = kept;
        request.item = index;
        request.characters = item->characters[choice];
        if (!status)
            status =
                keep_continuation(builder, context, item->continuations[choice], index, &request);
        if (!status)
            status = cut_context(builder, index, &request);
        if (status)
            return status;
        struct evaluation_request *added = add_request(builder);
        if (!added)
            return out_of_memory(builder);
        *added = request;
    }
    builder->task->answers[index] = item->answer;
    return STATUS_OK;
}

static enum status build_items(struct builder *builder) {
    struct evaluation_task *task = builder->task;
    const struct config_evaluation *evaluation = &builder->config->evaluation;
    struct evaluation_items items;
    task->shots = task->set == EVALUATION_MMLU ? evaluation->shots : 0;
    enum status status = evaluation_read_items(task->set, builder->path, evaluation->limit,
                                               task->shots, &items, builder->error);
    if (status)
        return status;
    task->item_count = items.count;
    task->answers = calloc((size_t)items.count, sizeof *task->answers);
    if (!task->answers)
        status = out_of_memory(builder);
    for (int64_t i = 0; !status && i < items.count; i++)
        status = build_item(builder, &items.items[i], i);
    evaluation_items_free(&items);
    return status;
}

enum status evaluation_task_create(enum evaluation_set set, const struct config *config,
                                   const struct model_shape *shape, struct tokenizer *tokenizer,
                                   struct evaluation_task *task, struct error *error) {
    *task = (struct evaluation_task){.set = set};
    struct builder builder = {
        .config = config,
        .shape = shape,
        .tokenizer = tokenizer,
        .task = task,
        .path = config->evaluation.sets[set],
        .error = error,
    };
    enum status status =
        evaluation_set_is_text(set) ? build_windows(&builder) : build_items(&builder);
    task->ids = builder.ids.ids;
    task->id_count = (int64_t)builder.ids.count;
    token_list_free(&builder.list);
    for (int64_t i = 0; i < task->request_count; i++) {
        const int64_t seen =
            task->requests[i].context_tokens + task->requests[i].continuation_tokens - 1;
        task->longest = seen > task->longest ? seen : task->longest;
    }
    if (status)
        evaluation_task_free(task);
    return status;
}

void evaluation_task_free(struct evaluation_task *task) {
    free(task->requests);
    free(task->answers);
    free(task->ids);
    *task = (struct evaluation_task){0};
}

/* Many bytes, in pieces that an int can count. */
static void broadcast(void *data, size_t bytes) {
    const size_t most = 1u << 30;
    for (size_t at = 0; at < bytes; at += most)
        MPI_Bcast((char *)data + at, (int)(bytes - at < most ? bytes - at : most), MPI_BYTE, 0,
                  MPI_COMM_WORLD);
}

enum status evaluation_task_share(const struct mesh *mesh, struct evaluation_task *task,
                                  struct error *error) {
    struct evaluation_task shared = *task;
    MPI_Bcast(&shared, (int)sizeof shared, MPI_BYTE, 0, MPI_COMM_WORLD);
    const size_t requests = (size_t)shared.request_count, items = (size_t)shared.item_count;
    if (mesh->rank) {
        *task = shared;
        task->requests = malloc(requests * sizeof *task->requests);
        task->answers = shared.answers ? malloc(items * sizeof *task->answers) : NULL;
        task->ids = malloc((size_t)shared.id_count * sizeof *task->ids);
    }
    const bool complete = task->requests && task->ids && (task->answers || !shared.answers);
    const enum status status = mesh_agree(
        mesh,
        complete ? STATUS_OK
                 : error_set(error, STATUS_FAILED, "no memory for the tokens of %s (rank %d)",
                             evaluation_set_name(shared.set), mesh->rank),
        error);
    if (status) {
        evaluation_task_free(task);
        return status;
    }
    broadcast(task->requests, requests * sizeof *task->requests);
    if (task->answers)
        broadcast(task->answers, items * sizeof *task->answers);
    broadcast(task->ids, (size_t)task->id_count * sizeof *task->ids);
    return STATUS_OK;
}
