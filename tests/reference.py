"""Plain NumPy twins of every kernel: same name, same arguments, no tricks.

They are written to be read, and to be believed; the tests hold the kernels to
them. tests/test_registry.py fails when a public function has no test, or when a
kernel has no twin here.
"""

from __future__ import annotations

import numpy as np

# --- _fill: random weights by index -------------------------------------------------


def philox4x32(out, first, key):
    """Write word j of the counters first, ..., first + 63 to out[j].

    Philox4x32-10 of Salmon, Moraes, Dror & Shaw (SC 2011), section 3.3.
    """
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    counter = np.uint64(first) + np.arange(64, dtype=np.uint64)
    c0, c1 = counter & low, counter >> shift
    c2, c3 = (np.full(64, word, dtype=np.uint64) for word in key[2:])
    k0, k1 = (int(word) for word in key[:2])
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0 = (p1 >> shift) ^ c1 ^ np.uint64(k0)
        c1 = p1 & low
        c2 = (p0 >> shift) ^ c3 ^ np.uint64(k1)
        c3 = p0 & low
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    out[...] = c0, c1, c2, c3


def fill(out, distribution, scale, first, key, n_threads):
    """Fill `out` in C order of index; see simd/fill.c for the layout of the words.

    Uniforms have the kernel's bits. Normals are computed in float64 from the bits
    that the kernel uses, so a float32 result here is the correctly rounded one.
    """
    if out.dtype == np.float32:
        one, n_bits = np.uint32(1), 24
    else:
        one, n_bits = np.uint64(1), 53
    per_group = 1024 // out.itemsize
    n_groups = -(-out.size // per_group)
    words = np.empty((n_groups, 4, 64), dtype=np.uint32)
    for g in range(n_groups):
        philox4x32(words[g], (first + g) * 64, key)
    if out.dtype == np.float64:
        words = words[:, 0::2].astype(np.uint64) | (
            words[:, 1::2].astype(np.uint64) << np.uint64(32)
        )
    width = 8 * words.itemsize

    def sign(word):
        return 1.0 - 2.0 * (word & one).astype(np.float64)

    def unit(word):
        k = (word >> type(one)(width - n_bits + 1)).astype(np.float64)
        return (k + 0.5) * 2.0 ** (1 - n_bits)

    scale = float(out.dtype.type(scale))
    if distribution == 0:
        values = (sign(words) * unit(words)).astype(out.dtype) * out.dtype.type(scale)
    elif distribution == 1:
        radius, angle = words[:, 0::2], words[:, 1::2]
        if out.dtype == np.float32:
            u = (radius >> one).astype(np.float32) + np.float32(0.5)
            u = u.astype(np.float64) * 2.0**-31
        else:
            u = unit(radius)
        r = scale * np.sqrt(-2.0 * np.log(u))
        a = np.pi / 4 * unit(angle) * sign(angle)
        c, s = np.cos(a) * sign(angle >> one), np.sin(a)
        swap = (angle >> type(one)(2) & one).astype(bool)
        values = np.empty(words.shape)
        values[:, 0::2] = r * np.where(swap, s, c)
        values[:, 1::2] = r * np.where(swap, c, s)
    else:
        from scipy.special import erf, erfinv

        root = np.sqrt(2.0)
        cut = root * erfinv(unit(words) * erf(root))
        values = scale * sign(words) * np.minimum(cut, 2.0)
    out[...] = values.ravel()[: out.size].reshape(out.shape)
