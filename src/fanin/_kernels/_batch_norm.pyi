from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def norm_statistics(
    stats: NDArray[np.float64],
    state: NDArray[np.float64],
    exponent: NDArray[np.int32],
    n_rows: float,
    eps: float,
    centre: bool,
) -> None: ...
def batch_norm_forward(
    out: NDArray[np.floating],
    X: NDArray[Any],
    axes: Sequence[int],
    stats: NDArray[np.float64],
    gamma: NDArray[np.float64],
    beta: NDArray[np.float64],
    n_threads: int,
) -> None: ...
def batch_norm_backward(
    out: NDArray[np.floating],
    sums: NDArray[np.float64],
    dY: NDArray[Any],
    X: NDArray[Any],
    axes: Sequence[int],
    stats: NDArray[np.float64],
    gamma: NDArray[np.float64],
    training: bool,
    wanted: bool,
    n_threads: int,
) -> None: ...
