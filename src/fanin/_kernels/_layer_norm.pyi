from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONG_ROW: int

def layer_norm_forward(
    out: NDArray[np.floating],
    stats: NDArray[np.float64],
    X: NDArray[Any],
    axes: Sequence[int],
    gamma: NDArray[np.float64],
    beta: NDArray[np.float64],
    eps: float,
    centre: bool,
    known: bool,
    n_threads: int,
) -> None: ...
def layer_norm_backward(
    out: NDArray[np.floating],
    sums: NDArray[np.float64],
    dY: NDArray[Any],
    X: NDArray[Any],
    axes: Sequence[int],
    stats: NDArray[np.float64],
    gamma: NDArray[np.float64],
    centre: bool,
    wanted: bool,
    n_threads: int,
) -> None: ...
