"""The rows of ``benchmarks/compare.py``: what is measured, beside whom, and checked.

Each module but `model` and `timing` holds the rows of one part of the library.
"""

from __future__ import annotations

from comparison import (
    activations,
    functional,
    gradients,
    initialization,
    networks,
    normalization,
    normalization_layers,
    signals,
)
from comparison.model import Row

__all__ = ["all_rows"]


def all_rows() -> list[Row]:
    """Return every row in the order of the table."""
    return [
        *normalization.rows(),
        *normalization_layers.rows(),
        *activations.rows(),
        *networks.rows(),
        *functional.rows(),
        *initialization.rows(),
        *signals.rows(),
        *gradients.rows(),
    ]
