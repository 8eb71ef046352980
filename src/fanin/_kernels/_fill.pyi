from typing import Any

import numpy as np
from numpy.typing import NDArray

DISTRIBUTIONS: tuple[str, ...]

def philox4x32(
    out: NDArray[np.uint32], first: int, key: NDArray[np.uint32]
) -> None: ...
def fill(
    out: NDArray[Any],
    distribution: int,
    scale: float,
    first: int,
    key: NDArray[np.uint32],
    n_threads: int,
) -> None: ...
