from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def normalize_forward(
    out: NDArray[np.floating],
    X: NDArray[Any],
    axes: Sequence[int],
    mean: NDArray[np.float64],
    mean_lo: NDArray[np.float64] | None,
    std: NDArray[np.float64],
    exponent: NDArray[np.int32] | None,
    zero: bool,
    inverse: bool,
    n_threads: int,
) -> None: ...
def normalize_small(
    out: NDArray[Any] | None, X: Any, mean: Any, std: Any, zero: bool, inverse: bool
) -> NDArray[Any] | None: ...
