/* Calibration windows: which tokens the model sees. They follow from the data and the seed alone.
 *
 * Documents are taken in a seeded order (a shuffle buffer of bounded size over the stream), tokenized
 * (BOS in front where the tokenizer has one, end-of-text after it where it has one), joined, and cut
 * into windows of sequence_length. Reading stops as soon as there are enough. */
#ifndef FPTQ_IO_SAMPLE_H
#define FPTQ_IO_SAMPLE_H

#include <stdint.h>

#include "io/corpus.h"
#include "io/tokenizer.h"

struct sample_windows {
    int32_t *ids; /* (samples, sequence_length), malloc'ed */
    int64_t samples, sequence_length;
    int64_t documents; /* how many were used */
    char digest[65];   /* sha256 of ids as little-endian int32, hexadecimal */
};

/* STATUS_INPUT when the data has fewer than samples * sequence_length tokens (says how many windows
 * there would be), or the tokenizer gives an id >= vocabulary_size (it does not fit the model). */
enum status sample_from_corpus(struct corpus *corpus, struct tokenizer *tokenizer, int64_t samples,
                               int64_t sequence_length, uint64_t seed, int64_t vocabulary_size,
                               struct sample_windows *windows, struct error *error);
/* Uniform random ids in [0, vocabulary_size). */
enum status sample_random_tokens(int64_t samples, int64_t sequence_length, uint64_t seed,
                                 int64_t vocabulary_size, struct sample_windows *windows,
                                 struct error *error);
void sample_free(struct sample_windows *windows);

#endif
