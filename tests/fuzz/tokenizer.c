/* A tokenizer.json, and a text for it: what follows the first NUL, or a fixed one. */
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static const char fixed[] = "Hello, w\xc3\xb6rld! abab 12345 \xe4\xb8\xad\xff <s>a</s>\r\n\n  it's "
                            "e\xcc\x81 \xf0\x9f\x98\x80\t_x__ \xe2\x96\x81";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = size ? memchr(data, '\0', size) : NULL;
    const size_t json_length = end ? (size_t)(end - data) : size;
    const char *text = end ? (const char *)end + 1 : fixed;
    const size_t length = end ? size - json_length - 1 : sizeof fixed - 1;
    struct tokenizer *tokenizer;
    struct error error;
    fuzz_memory_begin();
    if (tokenizer_create((const char *)data, json_length, "t", &tokenizer, &error) == STATUS_OK) {
        struct token_list list = {0};
        const int64_t ids = tokenizer_size(tokenizer);
        if (tokenizer_encode(tokenizer, text, length, 1, &list, &error) == STATUS_OK)
            for (size_t i = 0; i < list.count; i++)
                fuzz_require(list.ids[i] >= 0 && list.ids[i] < ids, "an id of the vocabulary");
        token_list_free(&list);
        tokenizer_destroy(tokenizer);
    }
    fuzz_memory_end(400000 + 400 * size);
    return 0;
}
