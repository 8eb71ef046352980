from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._kernels._custom import Pair

LOSSES: dict[str, int]

def forward(
    Z: NDArray[Any],
    Y: NDArray[Any],
    loss: str | Pair,
    scale: float = 1.0,
    parameter: float = 0.0,
    quantiles: Sequence[float] | None = None,
    weight: NDArray[np.float64] | None = None,
    gradient: bool = True,
    n_threads: int = 1,
) -> tuple[float, NDArray[Any] | None, int]: ...
def link(Z: NDArray[np.floating], loss: str | Pair) -> None: ...
