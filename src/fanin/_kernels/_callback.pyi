import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

@disjoint_base
class Callback:
    def __init__(self, address: int, data: int | None) -> None: ...
    def evaluate(self, theta: NDArray[np.float64]) -> float: ...
    def differences(
        self,
        f_plus: NDArray[np.float64],
        f_minus: NDArray[np.float64],
        theta: NDArray[np.float64],
        entries: NDArray[np.int64],
        plus: NDArray[np.float64],
        minus: NDArray[np.float64],
        n_threads: int = 1,
    ) -> None: ...
