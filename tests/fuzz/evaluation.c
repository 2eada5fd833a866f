/* The files of an evaluation set. The first byte says which set, the second the limit and the
 * shots; what follows the first NUL of the rest is the second file of the sets that have two. */
#include <string.h>
#include <sys/stat.h>

#include "io/evaluation.h"
#include "tests/fuzz/fuzz.h"

static void check_items(const struct evaluation_items *items) {
    fuzz_require(items->count > 0, "an item");
    for (int64_t i = 0; i < items->count; i++) {
        const struct evaluation_item *item = &items->items[i];
        fuzz_require(item->choices >= 1 && item->choices <= EVALUATION_CHOICES_MAX &&
                         item->answer >= 0 && item->answer < item->choices && item->contexts[0],
                     "choices, a right one and a context");
        for (int choice = 0; choice < item->choices; choice++)
            fuzz_require(item->continuations[choice] != NULL, "a continuation of each choice");
    }
}

static void read_set(enum evaluation_set set, const char *path, int64_t limit, int shots) {
    struct evaluation_items items;
    struct text_buffer text = {0};
    struct error error;
    if (evaluation_set_is_text(set)) {
        if (evaluation_read_text(set, path, &text, &error) == STATUS_OK)
            text_buffer_free(&text);
    } else if (evaluation_read_items(set, path, limit, shots, &items, &error) == STATUS_OK) {
        fuzz_require(!limit || items.count <= limit, "no more items than the limit");
        check_items(&items);
        evaluation_items_free(&items);
    }
}

/* NAME's parent is made, a folder of fuzz_path(""). */
static void write_file(const char *folder, const char *name, const uint8_t *data, size_t size) {
    mkdir(fuzz_path(folder), 0700);
    fuzz_file(name, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2)
        return 0;
    const enum evaluation_set set = (enum evaluation_set)(data[0] % EVALUATION_SET_COUNT);
    const int64_t limit = data[1] % 4;
    const int shots = data[1] / 4 % 6;
    const bool plain = data[0] / EVALUATION_SET_COUNT % 2; /* lambada as .txt */
    data += 2;
    size -= 2;
    const bool two = set == EVALUATION_PIQA || set == EVALUATION_MMLU;
    const uint8_t *end = two && size ? memchr(data, '\0', size) : NULL;
    const size_t first = end ? (size_t)(end - data) : size, second = end ? size - first - 1 : 0;
    const char *path = plain ? "one.txt" : "one.jsonl";
    if (set == EVALUATION_PIQA) {
        write_file("", "valid.jsonl", data, first);
        write_file("", "valid-labels.lst", end ? end + 1 : data, second);
        path = "";
    } else if (set == EVALUATION_MMLU) {
        write_file("test", "test/an_art_test.csv", data, first);
        write_file("dev", "dev/an_art_dev.csv", end ? end + 1 : data, second);
        path = "";
    } else {
        fuzz_file(path, data, first);
    }
    fuzz_memory_begin();
    read_set(set, fuzz_path(path), limit, shots);
    fuzz_memory_end((1 << 20) + 400 * size +
                    first * second); /* each question has all shots before it */
    return 0;
}
