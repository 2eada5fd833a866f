/* A corpus file. The first byte says of which kind: j .jsonl, t .txt, z .jsonl.zst as it is, and
 * all others .jsonl.zst made of the rest in two frames. */
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "io/corpus.h"
#include "io/utf8.h"
#include "tests/fuzz/fuzz.h"

static const char *compressed_file(const uint8_t *data, size_t size) {
    const size_t capacity = 2 * ZSTD_compressBound(size) + 64;
    char *frames = malloc(capacity);
    fuzz_require(frames != NULL, "memory for the frames");
    const size_t half = size / 2;
    size_t used = ZSTD_compress(frames, capacity, data, half, 1);
    used += ZSTD_compress(frames + used, capacity - used, data + half, size - half, 1);
    const char *path = fuzz_file("c.jsonl.zst", frames, used);
    free(frames);
    return path;
}

/* A zstd file of a few bytes may ask for a window of 128 MiB, and hold a line of 256 MiB. */
static void read_all(const char *path, size_t bound) {
    struct corpus *corpus;
    struct corpus_document document;
    struct error error;
    int found = 1;
    fuzz_memory_begin();
    if (corpus_open(&path, 1, &corpus, &error) == STATUS_OK) {
        while (found && corpus_next(corpus, &document, &found, &error) == STATUS_OK)
            if (found)
                fuzz_require(utf8_valid_prefix(document.text, document.length) == document.length,
                             "a document is UTF-8");
        corpus_close(corpus);
    }
    fuzz_memory_end(bound);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    const size_t plain = (1 << 20) + 16 * size, zstd = (size_t)768 << 20;
    switch (*data++) {
    case 'j':
        read_all(fuzz_file("c.jsonl", data, size - 1), plain);
        break;
    case 't':
        read_all(fuzz_file("c.txt", data, size - 1), plain);
        break;
    case 'z':
        read_all(fuzz_file("c.jsonl.zst", data, size - 1), zstd);
        break;
    default:
        read_all(compressed_file(data, size - 1), plain);
    }
    return 0;
}
