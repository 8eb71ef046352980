"""The SIMD level that all kernels use in this process (see simd/levels.h)."""

cdef int simd_level() noexcept nogil
