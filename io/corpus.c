/* Documents from files, one after the other. */
#include "io/corpus.h"

#include <errno.h>
#include <glob.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/byte_stream.h"
#include "io/corpus_record.h"
#include "io/text_buffer.h"
#include "io/utf8.h"

static const size_t longest_line = (size_t)256 << 20;
enum { READ_BYTES = 1 << 17 };

enum corpus_form { FORM_UNKNOWN, FORM_JSONL, FORM_JSONL_ZSTD, FORM_TEXT };

struct corpus_entry {
    char *path;
    int64_t size;
    enum corpus_form form;
};

struct corpus {
    struct corpus_entry *entries;
    int count, capacity;
    int current; /* the entry being read */
    struct byte_stream *stream;
    int64_t line;      /* the last one read */
    int64_t documents; /* of the current entry so far */
    struct text_buffer buffer;
    size_t begin, searched; /* of the buffer: not yet given out; no newline before `searched` */
    bool at_end;            /* of the current entry's bytes */
    struct text_buffer text;
    const struct watch *watch;
};

static bool ends_with(const char *path, const char *ending) {
    size_t length = strlen(path), count = strlen(ending);
    return length > count && strcmp(path + length - count, ending) == 0;
}

static enum corpus_form form_of(const char *path) {
    return ends_with(path, ".jsonl.zst") ? FORM_JSONL_ZSTD
           : ends_with(path, ".jsonl")   ? FORM_JSONL
           : ends_with(path, ".txt")     ? FORM_TEXT
                                         : FORM_UNKNOWN;
}

static enum status add_file(struct corpus *corpus, const char *path, struct error *error) {
    struct stat facts;
    enum corpus_form form = form_of(path);
    if (form == FORM_UNKNOWN)
        return error_set(error, STATUS_INPUT,
                         "%s: not a data file: its name should end in .jsonl.zst, .jsonl or .txt",
                         path);
    if (stat(path, &facts) != 0 || access(path, R_OK) != 0)
        return error_set(error, STATUS_INPUT, "%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(facts.st_mode))
        return error_set(error, STATUS_INPUT, "%s: not a regular file", path);
    if (corpus->count == corpus->capacity) {
        int capacity = corpus->capacity ? corpus->capacity * 2 : 16;
        struct corpus_entry *entries = realloc(corpus->entries, (size_t)capacity * sizeof *entries);
        if (!entries)
            return error_set(error, STATUS_FAILED, "out of memory for the list of data files");
        corpus->entries = entries;
        corpus->capacity = capacity;
    }
    char *copy = strdup(path);
    if (!copy)
        return error_set(error, STATUS_FAILED, "out of memory for the list of data files");
    corpus->entries[corpus->count++] =
        (struct corpus_entry){.path = copy, .size = facts.st_size, .form = form};
    return STATUS_OK;
}

static int compare_paths(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A path that is there is taken as it is, whatever characters it has. The order of a glob's matches
 * is that of their bytes, in every locale. */
static enum status add_pattern(struct corpus *corpus, const char *pattern, struct error *error) {
    if (access(pattern, F_OK) == 0)
        return add_file(corpus, pattern, error);
    glob_t matches = {0};
    int result = glob(pattern, GLOB_NOSORT | GLOB_BRACE | GLOB_TILDE | GLOB_ERR, NULL, &matches);
    enum status status = STATUS_OK;
    if (result == GLOB_NOMATCH)
        status = error_set(error, STATUS_INPUT, "%s: no such file", pattern);
    else if (result != 0)
        status = error_set(error, STATUS_INPUT, "%s: cannot list the files: %s", pattern,
                           result == GLOB_NOSPACE ? "out of memory" : strerror(errno));
    else
        qsort(matches.gl_pathv, matches.gl_pathc, sizeof *matches.gl_pathv, compare_paths);
    for (size_t i = 0; status == STATUS_OK && i < matches.gl_pathc; i++)
        status = add_file(corpus, matches.gl_pathv[i], error);
    globfree(&matches);
    return status;
}

enum status corpus_open(const char *const *patterns, int pattern_count, struct corpus **result,
                        struct error *error) {
    *result = NULL;
    struct corpus *corpus = calloc(1, sizeof *corpus);
    if (!corpus)
        return error_set(error, STATUS_FAILED, "out of memory for the list of data files");
    enum status status = STATUS_OK;
    for (int i = 0; status == STATUS_OK && i < pattern_count; i++)
        status = add_pattern(corpus, patterns[i], error);
    if (status == STATUS_OK && corpus->count == 0)
        status = error_set(error, STATUS_INPUT, "no data files are given");
    if (status != STATUS_OK) {
        corpus_close(corpus);
        return status;
    }
    *result = corpus;
    return STATUS_OK;
}

int corpus_file_count(const struct corpus *corpus) {
    return corpus->count;
}

const char *corpus_file(const struct corpus *corpus, int index) {
    return corpus->entries[index].path;
}

int64_t corpus_file_size(const struct corpus *corpus, int index) {
    return corpus->entries[index].size;
}

void corpus_close(struct corpus *corpus) {
    if (!corpus)
        return;
    for (int i = 0; i < corpus->count; i++)
        free(corpus->entries[i].path);
    free(corpus->entries);
    byte_stream_close(corpus->stream);
    text_buffer_free(&corpus->buffer);
    text_buffer_free(&corpus->text);
    free(corpus);
}

static enum status open_current(struct corpus *corpus, struct error *error) {
    const struct corpus_entry *entry = &corpus->entries[corpus->current];
    corpus->line = corpus->documents = 0;
    corpus->begin = corpus->searched = corpus->buffer.length = 0;
    corpus->at_end = false;
    return byte_stream_open(entry->path, entry->form == FORM_JSONL_ZSTD, &corpus->stream, error);
}

/* Read on at the end of the buffer, whose used-up front makes room first. */
static enum status read_more(struct corpus *corpus, struct error *error) {
    struct text_buffer *buffer = &corpus->buffer;
    const struct corpus_entry *entry = &corpus->entries[corpus->current];
    if (corpus->begin > 0) {
        memmove(buffer->data, buffer->data + corpus->begin, buffer->length - corpus->begin);
        buffer->length -= corpus->begin;
        corpus->searched -= corpus->begin;
        corpus->begin = 0;
    }
    if (buffer->length > longest_line)
        return error_set(error, STATUS_INPUT, "%s: line %lld: longer than 256 MiB", entry->path,
                         (long long)corpus->line + 1);
    if (!text_buffer_reserve(buffer, READ_BYTES))
        return error_set(error, STATUS_FAILED, "%s: line %lld: out of memory", entry->path,
                         (long long)corpus->line + 1);
    size_t count;
    int64_t line = entry->form == FORM_TEXT ? 0 : corpus->line + 1;
    enum status status = byte_stream_read(corpus->stream, buffer->data + buffer->length, READ_BYTES,
                                          line, &count, error);
    buffer->length += count;
    corpus->at_end = count == 0;
    return status;
}

/* The next line without its end; for a .txt file, all of it. *found is false at the end of the
 * file. */
static enum status next_line(struct corpus *corpus, const char **line, size_t *length, bool *found,
                             struct error *error) {
    struct text_buffer *buffer = &corpus->buffer;
    bool whole = corpus->entries[corpus->current].form == FORM_TEXT;
    const char *newline = NULL;
    *found = false;
    for (;;) {
        if (!whole && corpus->searched < buffer->length)
            newline =
                memchr(buffer->data + corpus->searched, '\n', buffer->length - corpus->searched);
        if (newline || corpus->at_end)
            break;
        corpus->searched = buffer->length;
        enum status status = read_more(corpus, error);
        if (status != STATUS_OK)
            return status;
    }
    if (!newline && corpus->begin == buffer->length)
        return STATUS_OK;
    size_t end = newline ? (size_t)(newline - buffer->data) : buffer->length;
    *line = buffer->data + corpus->begin;
    *length = end - corpus->begin;
    *found = true;
    corpus->begin = corpus->searched = end + (newline != NULL);
    corpus->line++;
    return STATUS_OK;
}

static bool is_blank(const char *line, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r' && line[i] != '\n')
            return false;
    return true;
}

/* A byte order mark at the start of a file is no part of its text. */
static void skip_mark(const struct corpus *corpus, const char **line, size_t *length) {
    if (corpus->line == 1 && *length >= 3 && memcmp(*line, "\xef\xbb\xbf", 3) == 0) {
        *line += 3;
        *length -= 3;
    }
}

static enum status check_utf8(const char *line, size_t length, const char *path, int64_t number,
                              struct error *error) {
    size_t good = utf8_valid_prefix(line, length);
    if (good == length)
        return STATUS_OK;
    int64_t text_line = number;
    if (text_line == 0) { /* a .txt file: count its lines up to the bad byte */
        text_line = 1;
        size_t begin = 0;
        for (size_t i = 0; i < good; i++)
            if (line[i] == '\n') {
                text_line++;
                begin = i + 1;
            }
        good -= begin;
        line += begin;
    }
    return error_set(error, STATUS_INPUT, "%s: line %lld: byte %zu (0x%02x) is not valid UTF-8",
                     path, (long long)text_line, good + 1, (unsigned char)line[good]);
}

/* The next document of the current file. */
static enum status next_in_file(struct corpus *corpus, struct corpus_document *document,
                                bool *found, struct error *error) {
    const struct corpus_entry *entry = &corpus->entries[corpus->current];
    bool is_text = entry->form == FORM_TEXT;
    for (;;) {
        const char *line;
        size_t length;
        enum status status = next_line(corpus, &line, &length, found, error);
        if (status != STATUS_OK || !*found)
            return status;
        int64_t number = is_text ? 0 : corpus->line;
        status = check_utf8(line, length, entry->path, number, error);
        if (status != STATUS_OK)
            return status;
        skip_mark(corpus, &line, &length);
        if (is_blank(line, length))
            continue;
        *document = (struct corpus_document){
            .text = line, .length = length, .file = entry->path, .line = number};
        if (is_text)
            return STATUS_OK;
        status = corpus_record_read(line, length, entry->path, corpus->line, &corpus->text, error);
        document->text = corpus->text.data ? corpus->text.data : "";
        document->length = corpus->text.length;
        return status;
    }
}

void corpus_set_watch(struct corpus *corpus, const struct watch *watch) {
    corpus->watch = watch;
}

enum status corpus_next(struct corpus *corpus, struct corpus_document *document, int *found,
                        struct error *error) {
    *document = (struct corpus_document){0};
    *found = 0;
    const enum status interrupted = watch_check(corpus->watch, error);
    if (interrupted != STATUS_OK)
        return interrupted;
    while (corpus->current < corpus->count) {
        enum status status = corpus->stream ? STATUS_OK : open_current(corpus, error);
        bool in_file = false;
        if (status == STATUS_OK)
            status = next_in_file(corpus, document, &in_file, error);
        if (status != STATUS_OK) {
            *document = (struct corpus_document){0};
            return status;
        }
        if (in_file) {
            corpus->documents++;
            *found = 1;
            return STATUS_OK;
        }
        if (corpus->documents == 0)
            return error_set(error, STATUS_INPUT, "%s: holds no document",
                             corpus->entries[corpus->current].path);
        byte_stream_close(corpus->stream);
        corpus->stream = NULL;
        corpus->current++;
    }
    return STATUS_OK;
}
