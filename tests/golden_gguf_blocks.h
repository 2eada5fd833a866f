// clang-format off
/* Made by make_golden_gguf_blocks.py with the gguf package. */
static const struct {
    enum tensor_type type;
    uint64_t seed;
    int64_t blocks;
    uint32_t first[4];  /* values 0 .. 3 as bits */
    const char *sha256; /* of all values, little endian */
} golden_blocks[] = {
    {TENSOR_Q4_0, 1, 4096, {0xc4e43000, 0x43982000, 0x44982000, 0x44be2800},
     "3a9482eea863d7bee3a96185d41d7a7d71badfac0412b8b9b42073aacfd5b390"},
    {TENSOR_Q4_1, 2, 4096, {0x44be8825, 0x44081849, 0x4459c049, 0x443e8849},
     "ed9d39fdc6c82cd1cae1473b335279a7793188c89b4b5c9bf7e1898eaee8ef54"},
    {TENSOR_Q5_0, 3, 4096, {0xbbae5e00, 0x3abe3800, 0x3b5dec00, 0x3b5dec00},
     "b84ddb16ae311bb946606b5d77c6b09a731c379f4e34e3dda8b75e753fc7d4ea"},
    {TENSOR_Q5_1, 4, 4096, {0xc4466000, 0xc4466036, 0xc446601b, 0xc4466025},
     "9f6d36a78ac61cc687568f06c80f00b7e3c5498fc795951d5589c875d741b06d"},
    {TENSOR_Q8_0, 5, 4096, {0x43dab580, 0x43aaec80, 0xc2307000, 0xc358df00},
     "0a0968020208877e212f1d3be7980e9326a1fd51ab1db0d32d0d70539f61ac26"},
    {TENSOR_Q4_K, 6, 4096, {0xc795fed7, 0xc83b7f6c, 0xc7f9fed7, 0xc6c7fb5d},
     "621fabcf2446c7d3643566a3847bea1771e80e600f3ea189a4f9c22455c705a8"},
    {TENSOR_Q5_K, 7, 4096, {0xc5917762, 0xc5917800, 0xc5917627, 0xc59177b1},
     "685216f9b3366ef9b2c7c26ff5ebb6fa1d737b1cb76db2a0ccab7fee873606c6"},
    {TENSOR_Q6_K, 8, 4096, {0xc529ce00, 0x45bac900, 0xc5e53c80, 0xc387d800},
     "2fb093cf4d7b0fff0f269c1e07e1705b48ee593bd944888209261f7842d44963"},
};
