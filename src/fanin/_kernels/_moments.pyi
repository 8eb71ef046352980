from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def moments_forward(
    state: NDArray[np.float64],
    exponent: NDArray[np.int32],
    X: NDArray[Any],
    axes: Sequence[int],
    n_threads: int,
) -> None: ...
def moments_update(
    state: NDArray[np.float64],
    exponent: NDArray[np.int32],
    X: NDArray[Any],
    axes: Sequence[int],
    weights: NDArray[np.float64] | None,
    n_threads: int,
) -> None: ...
def first_bad_weight(weights: NDArray[np.float64]) -> int: ...
def group_rows(X: NDArray[Any], axes: Sequence[int]) -> int: ...
def moments_finish(
    var: NDArray[np.float64],
    std: NDArray[np.float64],
    state: NDArray[np.float64],
    exponent: NDArray[np.int32],
    ddof: float,
) -> bool: ...
def moments_merge(
    state: NDArray[np.float64],
    exponent: NDArray[np.int32],
    state_b: NDArray[np.float64],
    exponent_b: NDArray[np.int32],
) -> None: ...
