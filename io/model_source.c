#include "io/model_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/digest.h"
#include "io/gguf_model.h"
#include "io/safetensors.h"

struct named_tensor {
    const char *name; /* Hugging Face's */
    struct tensor tensor;
};

struct named_unread {
    const char *name;
    const char *reason, *file;
};

struct model_source {
    char *path;
    bool is_gguf;
    json_t *config;
    struct gguf gguf;
    char (*names)[128];      /* GGUF: Hugging Face names made here */
    int64_t heads, head_dim; /* GGUF: for the order of rows */
    struct safetensors *shards;
    char **shard_names; /* as the folder has them */
    int64_t shard_count;
    json_t *index;                /* model.safetensors.index.json */
    struct named_tensor *tensors; /* sorted by name */
    int64_t count;
    struct named_unread *unread;
    int64_t unread_count;
};

static enum status out_of_memory(const char *path, struct error *error) {
    return error_set(error, STATUS_FAILED, "%s: out of memory", path);
}

static char *join_path(const char *folder, const char *name) {
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static bool exists(const char *folder, const char *name) {
    char *path = join_path(folder, name);
    struct stat information;
    const bool there = path && !stat(path, &information);
    free(path);
    return there;
}

/* A JSON object from a file. */
static enum status load_object(const char *path, json_t **object, struct error *error) {
    struct mapped_file file;
    *object = NULL;
    const enum status status = mapped_file_open(path, &file, error);
    if (status != STATUS_OK)
        return status;
    json_error_t fault = {.text = "empty"};
    if (file.size)
        *object = json_loadb((const char *)file.data, file.size, JSON_REJECT_DUPLICATES, &fault);
    mapped_file_close(&file);
    if (!*object)
        return error_set(error, STATUS_INPUT, "%s: line %d: %s", path, fault.line, fault.text);
    if (!json_is_object(*object)) {
        json_decref(*object);
        *object = NULL;
        return error_set(error, STATUS_INPUT, "%s: not a JSON object", path);
    }
    return STATUS_OK;
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const struct named_tensor *)left)->name,
                  ((const struct named_tensor *)right)->name);
}

/* --- a GGUF file --- */

static enum status check_permuted_rows(const struct model_source *source,
                                       const struct tensor *tensor, struct error *error) {
    const enum gguf_row_order order = gguf_row_order(&source->gguf, tensor->name);
    const int64_t rows = tensor->shape[0], d = source->head_dim;
    const bool whole = order == GGUF_ROWS_ROTARY  ? rows % d == 0 && d % 2 == 0
                       : order == GGUF_ROWS_SPLIT ? rows == 3 * source->heads * d
                                                  : true;
    if (!whole)
        return error_set(error, STATUS_INPUT, "%s: tensor %.200s: %lld rows are not whole heads",
                         source->path, tensor->name, (long long)rows);
    return STATUS_OK;
}

static enum status name_gguf_tensors(struct model_source *source, struct error *error) {
    const struct gguf *gguf = &source->gguf;
    const size_t total = (size_t)(gguf->count + gguf->unread_count) + 1;
    source->names = calloc(total, sizeof *source->names);
    source->tensors = calloc(total, sizeof *source->tensors);
    source->unread = calloc(total, sizeof *source->unread);
    if (!source->names || !source->tensors || !source->unread)
        return out_of_memory(source->path, error);
    char(*name)[128] = source->names;
    for (int64_t i = 0; i < gguf->count; i++) {
        const struct tensor *tensor = &gguf->tensors[i];
        if (!gguf_tensor_name(gguf, tensor->name, *name, sizeof *name))
            continue; /* rope_freqs.weight and the like: what they say is in the config */
        const enum status status = check_permuted_rows(source, tensor, error);
        if (status != STATUS_OK)
            return status;
        source->tensors[source->count++] = (struct named_tensor){*name++, *tensor};
    }
    for (int64_t i = 0; i < gguf->unread_count; i++)
        if (gguf_tensor_name(gguf, gguf->unread[i].name, *name, sizeof *name))
            source->unread[source->unread_count++] =
                (struct named_unread){*name++, gguf->unread[i].reason, source->path};
    return STATUS_OK;
}

static enum status open_gguf(struct model_source *source, struct error *error) {
    source->is_gguf = true;
    enum status status = gguf_open(source->path, &source->gguf, error);
    if (status == STATUS_OK)
        status = gguf_config(&source->gguf, &source->config, error);
    if (status != STATUS_OK)
        return status;
    const json_t *config = source->config;
    const bool bloom = json_object_get(config, "n_head");
    source->heads =
        json_integer_value(json_object_get(config, bloom ? "n_head" : "num_attention_heads"));
    source->head_dim =
        bloom ? json_integer_value(json_object_get(config, "hidden_size")) / source->heads
              : json_integer_value(json_object_get(config, "head_dim"));
    return name_gguf_tensors(source, error);
}

/* --- a Hugging Face folder --- */

static enum status open_shard(struct model_source *source, const char *name, struct error *error) {
    char *path = join_path(source->path, name);
    source->shard_names[source->shard_count] = strdup(name);
    if (!path || !source->shard_names[source->shard_count]) {
        free(path);
        return out_of_memory(source->path, error);
    }
    const enum status status = safetensors_open(path, &source->shards[source->shard_count], error);
    source->shard_count++;
    free(path);
    return status;
}

static int compare_strings(const void *left, const void *right) {
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* Open each file that the index names, in the order of their names. */
static enum status open_indexed_shards(struct model_source *source, const json_t *map,
                                       struct error *error) {
    const size_t total = json_object_size(map);
    const char **names = calloc(total + 1, sizeof *names);
    source->shards = calloc(total + 1, sizeof *source->shards);
    source->shard_names = calloc(total + 1, sizeof *source->shard_names);
    if (!names || !source->shards || !source->shard_names) {
        free(names);
        return out_of_memory(source->path, error);
    }
    size_t count = 0;
    const char *tensor;
    json_t *value;
    enum status status = STATUS_OK;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !*name || strchr(name, '/') || strchr(name, '\\') || strstr(name, "..")) {
            status =
                error_set(error, STATUS_INPUT,
                          "%s/model.safetensors.index.json: tensor %.200s: \"%.200s\" is no name "
                          "of a file in the folder",
                          source->path, tensor, name ? name : "");
            break;
        }
        names[count++] = name;
    }
    if (status == STATUS_OK)
        qsort(names, count, sizeof *names, compare_strings);
    for (size_t i = 0; i < count && status == STATUS_OK; i++)
        if (i == 0 || strcmp(names[i], names[i - 1]))
            status = open_shard(source, names[i], error);
    free(names);
    return status;
}

static enum status open_shards(struct model_source *source, struct error *error) {
    if (exists(source->path, "model.safetensors")) {
        source->shards = calloc(1, sizeof *source->shards);
        source->shard_names = calloc(1, sizeof *source->shard_names);
        if (!source->shards || !source->shard_names)
            return out_of_memory(source->path, error);
        return open_shard(source, "model.safetensors", error);
    }
    if (!exists(source->path, "model.safetensors.index.json"))
        return error_set(
            error, STATUS_INPUT,
            "%s: neither model.safetensors nor model.safetensors.index.json (weights in "
            "another format: save them with transformers' save_pretrained)",
            source->path);
    char *path = join_path(source->path, "model.safetensors.index.json");
    if (!path)
        return out_of_memory(source->path, error);
    enum status status = load_object(path, &source->index, error);
    const json_t *map = json_object_get(source->index, "weight_map");
    if (status == STATUS_OK && !json_is_object(map))
        status = error_set(error, STATUS_INPUT, "%s: no object \"weight_map\"", path);
    free(path);
    return status == STATUS_OK ? open_indexed_shards(source, map, error) : status;
}

/* Whether the index, if there is one, says that shard `shard` has tensor `name`. */
static bool belongs(const struct model_source *source, const char *name, int64_t shard) {
    if (!source->index)
        return true;
    const json_t *map = json_object_get(source->index, "weight_map");
    const char *file = json_string_value(json_object_get(map, name));
    return file && !strcmp(file, source->shard_names[shard]);
}

static enum status check_index(const struct model_source *source, struct error *error) {
    json_t *map = json_object_get(source->index, "weight_map");
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        char **shard = bsearch(&file, source->shard_names, (size_t)source->shard_count,
                               sizeof *source->shard_names, compare_strings);
        const struct safetensors *holder = &source->shards[shard - source->shard_names];
        if (!json_object_get(holder->header, name) || !strcmp(name, "__metadata__"))
            return error_set(error, STATUS_INPUT,
                             "%s: no tensor %.200s, which model.safetensors.index.json says it has",
                             holder->file.path, name);
    }
    return STATUS_OK;
}

static enum status name_folder_tensors(struct model_source *source, struct error *error) {
    size_t tensors = 1, unread = 1;
    for (int64_t i = 0; i < source->shard_count; i++) {
        tensors += (size_t)source->shards[i].count;
        unread += (size_t)source->shards[i].unread_count;
    }
    source->tensors = calloc(tensors, sizeof *source->tensors);
    source->unread = calloc(unread, sizeof *source->unread);
    if (!source->tensors || !source->unread)
        return out_of_memory(source->path, error);
    for (int64_t i = 0; i < source->shard_count; i++) {
        const struct safetensors *shard = &source->shards[i];
        for (int64_t j = 0; j < shard->count; j++)
            if (belongs(source, shard->tensors[j].name, i))
                source->tensors[source->count++] = (struct named_tensor){
                    .name = shard->tensors[j].name, .tensor = shard->tensors[j]};
        for (int64_t j = 0; j < shard->unread_count; j++)
            if (belongs(source, shard->unread[j].name, i))
                source->unread[source->unread_count++] = (struct named_unread){
                    shard->unread[j].name, shard->unread[j].reason, shard->file.path};
    }
    return source->index ? check_index(source, error) : STATUS_OK;
}

static enum status open_folder(struct model_source *source, struct error *error) {
    char *path = join_path(source->path, "config.json");
    if (!path)
        return out_of_memory(source->path, error);
    enum status status = load_object(path, &source->config, error);
    free(path);
    if (status == STATUS_OK)
        status = open_shards(source, error);
    if (status == STATUS_OK)
        status = name_folder_tensors(source, error);
    return status;
}

/* --- both --- */

enum status model_source_open(const char *path, struct model_source **result, struct error *error) {
    *result = NULL;
    struct stat information;
    if (stat(path, &information))
        return error_set(error, STATUS_INPUT, "%s: %s", path, strerror(errno));
    struct model_source *source = calloc(1, sizeof *source);
    if (!source)
        return out_of_memory(path, error);
    source->path = strdup(path);
    enum status status;
    if (!source->path)
        status = out_of_memory(path, error);
    else if (S_ISDIR(information.st_mode))
        status = open_folder(source, error);
    else
        status = open_gguf(source, error);
    if (status != STATUS_OK) {
        model_source_close(source);
        return status;
    }
    qsort(source->tensors, (size_t)source->count, sizeof *source->tensors, by_name);
    *result = source;
    return STATUS_OK;
}

void model_source_close(struct model_source *source) {
    if (!source)
        return;
    for (int64_t i = 0; i < source->shard_count; i++) {
        safetensors_close(&source->shards[i]);
        free(source->shard_names[i]);
    }
    free(source->shards);
    free(source->shard_names);
    gguf_close(&source->gguf);
    free(source->names);
    free(source->tensors);
    free(source->unread);
    json_decref(source->index);
    json_decref(source->config);
    free(source->path);
    free(source);
}

const char *model_source_path(const struct model_source *source) {
    return source->path;
}

bool model_source_is_gguf(const struct model_source *source) {
    return source->is_gguf;
}

const json_t *model_source_config(const struct model_source *source) {
    return source->config;
}

enum status model_source_tokenizer_json(const struct model_source *source, char **text,
                                        size_t *length, struct error *error) {
    *text = NULL;
    *length = 0;
    if (source->is_gguf)
        return gguf_tokenizer_json(&source->gguf, text, length, error);
    if (!exists(source->path, "tokenizer.json"))
        return error_set(error, STATUS_INPUT, "%s: no tokenizer.json%s", source->path,
                         exists(source->path, "tokenizer.model")
                             ? " (only tokenizer.model: save the tokenizer with transformers)"
                             : "");
    char *path = join_path(source->path, "tokenizer.json");
    if (!path)
        return out_of_memory(source->path, error);
    struct mapped_file file;
    enum status status = mapped_file_open(path, &file, error);
    free(path);
    if (status != STATUS_OK)
        return status;
    *text = malloc(file.size + 1);
    if (*text) {
        if (file.size)
            memcpy(*text, file.data, file.size);
        (*text)[file.size] = '\0';
        *length = file.size;
    } else {
        status = out_of_memory(source->path, error);
    }
    mapped_file_close(&file);
    return status;
}

int64_t model_source_tensor_count(const struct model_source *source) {
    return source->count;
}

const struct tensor *model_source_tensor(const struct model_source *source, int64_t index) {
    return &source->tensors[index].tensor;
}

const char *model_source_tensor_name(const struct model_source *source, int64_t index) {
    return source->tensors[index].name;
}

const struct tensor *model_source_find(const struct model_source *source, const char *name) {
    const struct named_tensor wanted = {.name = name};
    const struct named_tensor *found =
        bsearch(&wanted, source->tensors, (size_t)source->count, sizeof wanted, by_name);
    return found ? &found->tensor : NULL;
}

enum status model_source_require(const struct model_source *source, const char *name,
                                 const struct tensor **tensor, struct error *error) {
    *tensor = model_source_find(source, name);
    if (*tensor)
        return STATUS_OK;
    for (int64_t i = 0; i < source->unread_count; i++)
        if (!strcmp(source->unread[i].name, name))
            return error_set(
                error, STATUS_INPUT,
                "%s: tensor %s (%s) cannot be read; types that can: F32, F16, BF16, Q4_0, "
                "Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K",
                source->unread[i].file, name, source->unread[i].reason);
    return error_set(error, STATUS_INPUT, "%s: no tensor %s", source->path, name);
}

bool model_source_rows_permuted(const struct model_source *source, const struct tensor *tensor) {
    return source->is_gguf && gguf_row_order(&source->gguf, tensor->name) != GGUF_ROWS_SAME;
}

int64_t model_source_file_row(const struct model_source *source, const struct tensor *tensor,
                              int64_t row) {
    if (!source->is_gguf)
        return row;
    const int64_t d = source->head_dim;
    switch (gguf_row_order(&source->gguf, tensor->name)) {
    case GGUF_ROWS_ROTARY: {
        const int64_t head = row / d, j = row % d, half = d / 2;
        return head * d + 2 * (j % half) + (j >= half);
    }
    case GGUF_ROWS_SPLIT: {
        const int64_t head = row / (3 * d), part = row / d % 3;
        return (part * source->heads + head) * d + row % d;
    }
    default:
        return row;
    }
}

static void digest_file(struct digest *digest, const char *name, const struct mapped_file *file,
                        size_t header_bytes) {
    char text[40];
    digest_update(digest, name, strlen(name) + 1);
    snprintf(text, sizeof text, "%zu", file->size);
    digest_update(digest, text, strlen(text) + 1);
    digest_update(digest, file->data, header_bytes);
}

enum status model_source_fingerprint(const struct model_source *source, char digest[65],
                                     struct error *error) {
    struct digest *sum = digest_create();
    char *config = json_dumps(source->config, JSON_COMPACT | JSON_SORT_KEYS);
    if (!sum || !config) {
        if (sum)
            digest_finish(sum, digest);
        free(config);
        digest[0] = '\0';
        return out_of_memory(source->path, error);
    }
    digest_update(sum, config, strlen(config) + 1);
    free(config);
    if (source->is_gguf) {
        const char *slash = strrchr(source->path, '/');
        digest_file(sum, slash ? slash + 1 : source->path, &source->gguf.file,
                    source->gguf.data_begin);
    }
    for (int64_t i = 0; i < source->shard_count; i++)
        digest_file(sum, source->shard_names[i], &source->shards[i].file,
                    source->shards[i].data_begin);
    digest_finish(sum, digest);
    return STATUS_OK;
}
