/* Documents from .jsonl.zst (The Pile's shards), .jsonl and .txt files, streamed.
 *
 * A .jsonl line is an object with a string "text"; "meta" may be an object, a string or absent;
 * other keys are ignored. A .txt file is one document. Several zstd frames in a file are read one
 * after the other. Memory does not grow with the size of the files: it is bounded by the longest
 * line (an error beyond 256 MiB). */
#ifndef FPTQ_IO_CORPUS_H
#define FPTQ_IO_CORPUS_H

#include <stddef.h>
#include <stdint.h>

#include "io/watch.h"

struct corpus;

struct corpus_document {
    const char *text; /* valid UTF-8, valid until the next call */
    size_t length;
    const char *file;
    int64_t line; /* 1-based; 0 for .txt */
};

/* patterns: paths or globs, expanded in order (a glob's matches sorted by name). One that matches
 * nothing, or an ending that is not known, is an error. */
enum status corpus_open(const char *const *patterns, int pattern_count, struct corpus **corpus,
                        struct error *error);
int corpus_file_count(const struct corpus *corpus);
const char *corpus_file(const struct corpus *corpus, int index);
int64_t corpus_file_size(const struct corpus *corpus, int index);
/* From now on corpus_next asks `watch`, which must stay. */
void corpus_set_watch(struct corpus *corpus, const struct watch *watch);
/* The next document; *found is 0 at the end. */
enum status corpus_next(struct corpus *corpus, struct corpus_document *document, int *found,
                        struct error *error);
void corpus_close(struct corpus *corpus);

#endif
