from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._kernels._custom import Pair

def dense_forward(
    out: NDArray[Any],
    X: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    activation: str | Pair,
    parameter: float,
    n_threads: int,
) -> None: ...
def dense_backward(
    dX: NDArray[Any],
    dweight: NDArray[Any],
    sums: NDArray[np.float64],
    dA: NDArray[Any],
    X: NDArray[Any],
    weight: NDArray[Any],
    A: NDArray[Any] | None,
    bias: NDArray[Any] | None,
    activation: str | Pair,
    parameter: float,
    n_threads: int,
) -> None: ...
