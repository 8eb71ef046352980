from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS: dict[str, int]

def norm(gradient: NDArray[np.floating], n_threads: int = 1) -> float: ...
def update(
    theta: NDArray[np.floating],
    gradient: NDArray[np.floating],
    numbers: tuple[Any, ...],
    decayed: NDArray[np.intp] | None = None,
    n_threads: int = 1,
    optimizer: Any = None,
) -> bool: ...
