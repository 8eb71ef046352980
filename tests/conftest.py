"""Fixtures shared by all tests."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator, so that a failure can be repeated."""
    return np.random.default_rng(20240607)
