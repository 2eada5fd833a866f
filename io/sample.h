/* Calibration windows: which tokens the model sees. They follow from the data, the tokenizer and
 * the seed alone, to the bit, on every machine.
 *
 * From a corpus. Random numbers are io/random.h's, started with the seed.
 *  1. A buffer is filled with documents in the order of the files: until it holds 1024 documents or
 * 64 MiB of text, or there are no more. Documents with empty text are passed over.
 *  2. Of the n documents in the buffer the one at random_below(n) is taken out; the last one moves
 * to its place.
 *  3. Its text is tokenized on its own, with the post-processor's tokens (BOS in front where the
 * tokenizer has one), and the end-of-text id (tokenizer_eos) is put after it where there is one and
 * it is not there yet.
 *  4. Its ids join the row of ids so far. Once that has samples * sequence_length ids the rest is
 * cut off and reading stops; else the buffer is filled up again (1) and the next one is taken out
 * (2). Window w is ids w * sequence_length up to (w + 1) * sequence_length of the row: documents
 * follow each other within a window, and a long one goes on in the next.
 *
 * Random tokens: id i of the row is random_below(vocabulary_size), drawn one after the other. */
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
