from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._kernels._custom import Pair

ACTIVATIONS: dict[str, int]

def forward(
    A: NDArray[np.floating],
    activation: str | Pair,
    bias: NDArray[np.floating] | None = None,
    parameter: float = 0.0,
    P: NDArray[np.floating] | None = None,
    Z: NDArray[np.floating] | None = None,
) -> None: ...
def backward(
    dA: NDArray[np.floating],
    A: NDArray[np.floating],
    activation: str | Pair,
    parameter: float = 0.0,
    Z: NDArray[np.floating] | None = None,
) -> None: ...
def needs_input(activation: str | Pair, parameter: float = 0.0) -> bool: ...
def apply(
    out: NDArray[Any],
    X: NDArray[Any],
    activation: str | Pair,
    parameter: float,
    derivative: bool,
    n_threads: int,
) -> None: ...
