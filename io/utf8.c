#include "io/utf8.h"

#include <stdint.h>
#include <string.h>

static int is_continuation(unsigned char byte) {
    return (byte & 0xc0) == 0x80;
}

size_t utf8_character(const char *text, size_t length) {
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char lead = bytes[0];
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    size_t count = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (length < count)
        return 0;
    for (size_t i = 1; i < count; i++)
        if (!is_continuation(bytes[i]))
            return 0;
    /* The second byte rules out overlong forms, surrogates and what is above U+10FFFF. */
    if ((lead == 0xe0 && bytes[1] < 0xa0) || (lead == 0xed && bytes[1] > 0x9f) ||
        (lead == 0xf0 && bytes[1] < 0x90) || (lead == 0xf4 && bytes[1] > 0x8f))
        return 0;
    return count;
}

size_t utf8_valid_prefix(const char *text, size_t length) {
    size_t at = 0;
    while (at < length) {
        uint64_t eight;
        if (length - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if (!(eight & UINT64_C(0x8080808080808080))) {
                at += sizeof eight;
                continue;
            }
        }
        size_t count = utf8_character(text + at, length - at);
        if (count == 0)
            return at;
        at += count;
    }
    return length;
}
