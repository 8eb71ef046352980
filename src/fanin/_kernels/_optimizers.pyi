from typing import Any

import numpy as np
from numpy.typing import NDArray

def sgd_update(
    theta: NDArray[np.floating],
    gradient: NDArray[np.floating],
    velocity: NDArray[np.floating] | None,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    optimizer: Any = None,
) -> None: ...
def adam_update(
    theta: NDArray[np.floating],
    gradient: NDArray[np.floating],
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    step: float,
    beta_1: float,
    beta_2: float,
    correction_2: float,
    epsilon: float,
    optimizer: Any = None,
) -> None: ...
