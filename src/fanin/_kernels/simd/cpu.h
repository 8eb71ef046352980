/* The best SIMD level that this CPU and operating system run. */
#ifndef FANIN_CPU_H
#define FANIN_CPU_H

#include "levels.h"

#if FANIN_X86_64 && defined(_MSC_VER)
#include <intrin.h>
static int fanin_cpu_level(void)
{
    int r[4];
    __cpuid(r, 0);
    if (r[0] < 7) return FANIN_BASELINE;
    __cpuid(r, 1);
    int osxsave = (r[2] >> 27) & 1, fma = (r[2] >> 12) & 1, f16c = (r[2] >> 29) & 1;
    if (!osxsave || !fma || !f16c) return FANIN_BASELINE;
    unsigned long long state = _xgetbv(0);
    if ((state & 0x6) != 0x6) return FANIN_BASELINE;
    __cpuidex(r, 7, 0);
    if (!((r[1] >> 5) & 1)) return FANIN_BASELINE;
    int wanted = (1 << 16) | (1 << 17) | (1 << 30) | (int)(1u << 31);
    if ((state & 0xe6) == 0xe6 && (r[1] & wanted) == wanted) return FANIN_AVX512;
    return FANIN_AVX2;
}
#elif FANIN_X86_64
#include <cpuid.h>
static int fanin_cpu_level(void)
{
    unsigned a, b, c = 0, d;
    __builtin_cpu_init();
    /* (Not every compiler knows __builtin_cpu_supports("f16c").) */
    int f16c = __get_cpuid(1, &a, &b, &c, &d) && ((c >> 29) & 1);
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !f16c) {
        return FANIN_BASELINE;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return FANIN_AVX512;
    }
    return FANIN_AVX2;
}
#else
static int fanin_cpu_level(void) { return FANIN_BASELINE; }
#endif

#endif
