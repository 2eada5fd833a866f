/* SHA-256 (libcrypto), in hexadecimal. */
#ifndef FPTQ_IO_DIGEST_H
#define FPTQ_IO_DIGEST_H

#include <stddef.h>

struct digest;

/* NULL when memory runs out. */
struct digest *digest_create(void);
void digest_update(struct digest *digest, const void *data, size_t bytes);
/* Write 64 digits and a NUL, and free the digest. */
void digest_finish(struct digest *digest, char text[65]);
/* All in one. */
void digest_bytes(const void *data, size_t bytes, char text[65]);

#endif
