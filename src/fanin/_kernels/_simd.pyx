"""Which SIMD level the kernels run at: the CPU's best, or FANIN_SIMD's choice.

Design: decided once, when this module is first imported, so that every kernel of
the process agrees. ``FANIN_SIMD`` may name a level at or below the CPU's best;
anything else is an error rather than a silent fallback.
"""

import os

cdef extern from "cpu.h":
    int fanin_cpu_level() nogil

LEVELS = ("baseline", "avx2", "avx512")

cdef int level = fanin_cpu_level()

_asked = os.environ.get("FANIN_SIMD", "").strip().lower()
if _asked:
    if _asked not in LEVELS[:level + 1]:
        raise ImportError(
            f"FANIN_SIMD={_asked!r}: this CPU runs {', '.join(LEVELS[:level + 1])}")
    level = LEVELS.index(_asked)


cdef int simd_level() noexcept nogil:
    return level


def current():
    """Return the name of the level in use."""
    return LEVELS[level]


def available():
    """Return the names of the levels this CPU can run, lowest first."""
    return LEVELS[:fanin_cpu_level() + 1]
