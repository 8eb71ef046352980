from typing import Any

import numpy as np
from numpy.typing import NDArray

def observe(
    statistics: NDArray[np.float64],
    A: NDArray[Any],
    low: float,
    high: float,
    n_threads: int,
) -> None: ...
