// Forced into llama.cpp's build (-include). gcc 12 believes that loading a tile configuration reads
// 8 bytes, drops the stores to the other 56, and the first AMX product faults. The address escapes
// here first, so every store happens. Harmless with compilers that know better.
#pragma once
#if defined(__AMX_TILE__) && defined(__cplusplus)
#include <immintrin.h>
#define _tile_loadconfig(config)                                 \
    do {                                                         \
        const void* escaped_config = (config);                   \
        __asm__ volatile("" : : "r"(escaped_config) : "memory"); \
        (_tile_loadconfig)(escaped_config);                      \
    } while (0)
#endif
