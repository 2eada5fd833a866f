#include "io/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* FIPS 180-2, appendix B */
static const char abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char long_text[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
static const char long_sum[] = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

static void all_at_once(void **state) {
    (void)state;
    char text[65];
    digest_bytes("abc", 3, text);
    assert_string_equal(text, abc);
    digest_bytes(long_text, strlen(long_text), text);
    assert_string_equal(text, long_sum);
    digest_bytes("", 0, text);
    assert_string_equal(text, empty);
}

static void in_pieces(void **state) {
    (void)state;
    char text[65];
    struct digest *digest = digest_create();
    assert_non_null(digest);
    for (size_t i = 0; i < strlen(long_text); i++)
        digest_update(digest, long_text + i, 1);
    digest_update(digest, NULL, 0);
    digest_finish(digest, text);
    assert_string_equal(text, long_sum);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_at_once),
        cmocka_unit_test(in_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
