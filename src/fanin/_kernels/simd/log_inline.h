/* log1p as straight-line code that compilers vectorize.
 *
 * Design: 1 + x = 2^k m with m in [sqrt(1/2), sqrt(2)), and with f = m - 1,
 * s = f / (2 + f),
 *     log m = 2 artanh s = f - (f^2/2 - s (f^2/2 + R)),  R = sum_i 2 s^(2i) / (2i + 1)
 * (the arrangement of FreeBSD's log1p, by K. C. Ng), where the series to s^22 leaves
 * out less than 1e-18. What 1 + x rounds off comes back as a correction c / (1 + x),
 * and below sqrt(2) - 1 there is no rounding: f = x. ln2 is in two words, so that k
 * times the first is exact. No branch, no table; two divisions and some 40 other
 * operations a value. Error: below 1 unit in the last place and a half
 * (tests/test_losses.py measures it).
 */
#ifndef FANIN_LOG_INLINE_H
#define FANIN_LOG_INLINE_H

#include <float.h>
#include <stdint.h>
#include <string.h>

/* log(1 + x) for x >= 0; infinity and NaN go through. */
static inline double fanin_log1p_f64(double x)
{
    double u = 1.0 + x;
    uint64_t bits, k_bits, m_bits;
    memcpy(&bits, &u, sizeof bits);
    bits += 0x3ff0000000000000u - 0x3fe6a09e667f3bcdu;
    /* An integer in the last bits of 2^52 is that integer as a double, once 2^52 is
     * taken off: AVX2 has no conversion of 64-bit integers. */
    k_bits = (bits >> 52) | 0x4330000000000000u;
    m_bits = (bits & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
    double k, m;
    memcpy(&k, &k_bits, sizeof k);
    memcpy(&m, &m_bits, sizeof m);
    k -= 4503599627370496.0 + 1023.0;
    double below = x - (u - 1.0), above = 1.0 - (u - x);
    double c = (x < 1.0 ? below : above) / u;
    double f = m - 1.0;
    int small = x < 0.41421356;
    f = small ? x : f;
    c = small ? 0.0 : c;
    double s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
    double R = 2.0 / 23.0;
    R = R * z + 2.0 / 21.0;
    R = R * z + 2.0 / 19.0;
    R = R * z + 2.0 / 17.0;
    R = R * z + 2.0 / 15.0;
    R = R * z + 2.0 / 13.0;
    R = R * z + 2.0 / 11.0;
    R = R * z + 2.0 / 9.0;
    R = R * z + 2.0 / 7.0;
    R = R * z + 2.0 / 5.0;
    R = R * z + 2.0 / 3.0;
    R = R * z;
    double low = s * (half + R) + (c + k * 1.90821492927058770002e-10);
    double log = k * 6.93147180369123816490e-01 - ((half - low) - f);
    return x <= DBL_MAX ? log : x;
}

#endif
