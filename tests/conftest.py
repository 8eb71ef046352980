"""Fixtures shared by all tests."""

from __future__ import annotations

import signal

import numpy as np
import pytest

# A shell starts its background jobs with Ctrl-C ignored, and so would be every process
# that the tests start in order to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator, so that a failure can be repeated."""
    return np.random.default_rng(20240607)
