#include "io/digest.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct digest {
    EVP_MD_CTX *context;
};

struct digest *digest_create(void) {
    struct digest *digest = malloc(sizeof *digest);
    if (!digest)
        return NULL;
    digest->context = EVP_MD_CTX_new();
    if (!digest->context || !EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL)) {
        EVP_MD_CTX_free(digest->context);
        free(digest);
        return NULL;
    }
    return digest;
}

void digest_update(struct digest *digest, const void *data, size_t bytes) {
    EVP_DigestUpdate(digest->context, data, bytes);
}

static void write_hexadecimal(const unsigned char sum[32], char text[65]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        text[2 * i] = digits[sum[i] >> 4];
        text[2 * i + 1] = digits[sum[i] & 15];
    }
    text[64] = '\0';
}

void digest_finish(struct digest *digest, char text[65]) {
    unsigned char sum[32] = {0};
    EVP_DigestFinal_ex(digest->context, sum, NULL);
    write_hexadecimal(sum, text);
    EVP_MD_CTX_free(digest->context);
    free(digest);
}

void digest_bytes(const void *data, size_t bytes, char text[65]) {
    unsigned char sum[32] = {0};
    EVP_Digest(data, bytes, sum, NULL, EVP_sha256(), NULL);
    write_hexadecimal(sum, text);
}
