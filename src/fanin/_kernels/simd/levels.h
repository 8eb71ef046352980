/* Run-time choice between builds of one C file for several SIMD levels.
 *
 * A file simd/NAME.c is compiled once per level with -DFANIN_LEVEL=<level> and
 * defines one constant struct of function pointers,
 *
 *     const struct fanin_NAME FANIN_AT_LEVEL(fanin_NAME) = { ... };
 *
 * declared in simd/NAME.h, which ends with FANIN_DECLARE(NAME). The Cython
 * module takes FANIN_SELECT(NAME, level) once, at import. All levels follow the
 * same source, so they differ in rounding only (fused multiply-add, lanes); three
 * functions of activations_lanes.h also in the polynomials within that rounding.
 */
#ifndef FANIN_LEVELS_H
#define FANIN_LEVELS_H

#include <stddef.h>
#include <stdint.h>

enum { FANIN_BASELINE = 0, FANIN_AVX2 = 1, FANIN_AVX512 = 2 };

#define FANIN_PASTE_(a, b) a##_##b
#define FANIN_PASTE(a, b) FANIN_PASTE_(a, b)
#define FANIN_AT_LEVEL(name) FANIN_PASTE(name, FANIN_LEVEL)

#if FANIN_X86_64
#define FANIN_DECLARE(NAME)                                      \
    extern const struct fanin_##NAME fanin_##NAME##_baseline;    \
    extern const struct fanin_##NAME fanin_##NAME##_avx2;        \
    extern const struct fanin_##NAME fanin_##NAME##_avx512;
#define FANIN_SELECT(NAME, level)                                \
    ((level) == FANIN_AVX512 ? &fanin_##NAME##_avx512            \
     : (level) == FANIN_AVX2 ? &fanin_##NAME##_avx2              \
                             : &fanin_##NAME##_baseline)
#else
#define FANIN_DECLARE(NAME)                                      \
    extern const struct fanin_##NAME fanin_##NAME##_baseline;
#define FANIN_SELECT(NAME, level) (&fanin_##NAME##_baseline)
#endif

#if defined(_MSC_VER)
#define FANIN_RESTRICT __restrict
#else
#define FANIN_RESTRICT restrict
#endif

/* The iterations of the loop that follows do not depend on each other. */
#if defined(__clang__)
#define FANIN_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define FANIN_INDEPENDENT _Pragma("GCC ivdep")
#else
#define FANIN_INDEPENDENT
#endif

#endif
