/* Reading ahead of the cache, and writing past it.
 *
 * a) A plain store to memory that is not in a cache reads its line first: writing
 *    costs twice. A store that goes past the cache does not. It is for results much
 *    larger than a cache, which nobody finds there afterwards; fanin_write_past_pays
 *    says when.
 * b) A kernel that computes for as long as its data takes to arrive gets no help from
 *    the hardware's own prefetching unless it asks for the next lines early enough.
 *
 * How to use: compute a chunk of at most 64 elements into a local array aligned to
 * FANIN_LINE, which stays in the L1 cache, and hand whole lines of it to
 * fanin_write_past; write what is before the first and after the last whole line of
 * the destination with plain stores. Call fanin_write_done before another thread may
 * read. Where the platform has no such stores, they are plain ones.
 */
#ifndef FANIN_STREAM_H
#define FANIN_STREAM_H

#include "levels.h"

#include <string.h>

#define FANIN_LINE 64
/* Bytes to read ahead: what a core computes while a line travels. */
#define FANIN_AHEAD 4096

#if defined(_MSC_VER)
#define FANIN_ALIGNED __declspec(align(64))
#else
#define FANIN_ALIGNED __attribute__((aligned(64)))
#endif

#if FANIN_X86_64
#include <immintrin.h>
#endif

/* Ask for the line at `p` + `bytes`; any address will do. */
static inline void fanin_read_ahead(const void *p, ptrdiff_t bytes)
{
#if FANIN_X86_64
    _mm_prefetch((const char *)((uintptr_t)p + (uintptr_t)bytes), _MM_HINT_T0);
#elif defined(__GNUC__)
    __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)bytes));
#else
    (void)p, (void)bytes;
#endif
}

/* Copy one line past the cache; both addresses are multiples of FANIN_LINE. */
static inline void fanin_write_past(void *to, const void *from)
{
#if FANIN_X86_64 && defined(__AVX512F__)
    _mm512_stream_si512((__m512i *)to, _mm512_load_si512(from));
#elif FANIN_X86_64 && defined(__AVX2__)
    for (int i = 0; i < 2; i++) {
        _mm256_stream_si256((__m256i *)to + i,
                            _mm256_load_si256((const __m256i *)from + i));
    }
#elif FANIN_X86_64
    for (int i = 0; i < 4; i++) {
        _mm_stream_si128((__m128i *)to + i, _mm_load_si128((const __m128i *)from + i));
    }
#else
    memcpy(to, from, FANIN_LINE);
#endif
}

/* Order the writes before everything that follows. */
static inline void fanin_write_done(void)
{
#if FANIN_X86_64
    _mm_sfence();
#endif
}

/* Whether a result of so many bytes is written past the cache. In place it never is:
 * reading has brought the line in. */
static inline int fanin_write_past_pays(ptrdiff_t bytes)
{
    return FANIN_X86_64 && bytes >= 16 * 1024 * 1024;
}

/* Bytes from `p` to the next line. */
static inline ptrdiff_t fanin_to_line(const void *p)
{
    return (ptrdiff_t)(-(uintptr_t)p % FANIN_LINE);
}

#endif
