#!/usr/bin/env python3
"""Write golden_gguf_blocks.h: what the `gguf` package makes of random blocks of every type.

    make_golden_gguf_blocks.py > golden_gguf_blocks.h

The blocks' bytes are splitmix64's outputs from the seed (random.h), each little endian, so their scales
take every kind of f16 value: subnormal, infinite, NaN. NaN results count as 0x7fc00000.
"""
import hashlib

import gguf
import numpy as np

BLOCKS = 4096
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


def splitmix64(seed, count):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return z ^ z >> np.uint64(31)


print("// clang-format off\n/* Made by make_golden_gguf_blocks.py with the gguf package. */")
print("static const struct {")
print("    enum tensor_type type;")
print("    uint64_t seed;")
print("    int64_t blocks;")
print("    uint32_t first[4];  /* values 0 .. 3 as bits */")
print("    const char *sha256; /* of all values, little endian */")
print("} golden_blocks[] = {")
for seed, name in enumerate(TYPES, start=1):
    quantization = gguf.GGMLQuantizationType[name]
    block_bytes = gguf.GGML_QUANT_SIZES[quantization][1]
    words = splitmix64(seed, (BLOCKS * block_bytes + 7) // 8)
    blocks = words.astype("<u8").view(np.uint8)[: BLOCKS * block_bytes].reshape(BLOCKS, block_bytes)
    with np.errstate(all="ignore"):
        values = gguf.dequantize(blocks, quantization).astype("<f4").ravel()
    bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view("<u4")).astype("<u4")
    first = ", ".join(f"0x{word:08x}" for word in bits[:4])
    print(f"    {{TENSOR_{name}, {seed}, {BLOCKS}, {{{first}}},")
    print(f'     "{hashlib.sha256(bits.tobytes()).hexdigest()}"}},')
print("};")
