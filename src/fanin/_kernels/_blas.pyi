from typing import Any

import numpy as np
from numpy.typing import NDArray

def addresses() -> dict[str, int]: ...
def config() -> dict[str, Any]: ...
def matmul(
    A: NDArray[np.floating],
    B: NDArray[np.floating],
    transpose_a: bool = False,
    transpose_b: bool = False,
    C: NDArray[np.floating] | None = None,
    alpha: float = 1,
    beta: float = 0,
) -> NDArray[np.floating]: ...
def matvec(
    A: NDArray[np.floating], x: NDArray[np.floating], transpose: bool = False
) -> NDArray[np.floating]: ...
