"""The vectorized random source (simd/fill.c), chosen once for this CPU."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "fill.h" nogil:
    enum:
        FANIN_LANES
    ctypedef void (*FillGroups "fanin_fill_groups")(
        void *out, ptrdiff_t n_groups, uint64_t first, const uint32_t *key,
        double scale) noexcept nogil
    struct fanin_fill:
        void (*philox4x32)(
            uint32_t *out, uint64_t first, const uint32_t *key) noexcept nogil
        FillGroups f32[3]
        FillGroups f64[3]

cdef const fanin_fill *source
