from typing import Any

import numpy as np
from numpy.typing import NDArray

class Plan:
    n_inputs: int
    n_outputs: int
    n_parameters: int
    chunk_rows: int
    itemsize: int
    def __init__(
        self,
        layers: list[tuple[int, int, str, bool]],
        loss: str,
        dtype: np.dtype[Any],
    ) -> None: ...
    def forward(
        self,
        theta: NDArray[Any],
        X: NDArray[Any],
        out: NDArray[Any],
        link: bool = False,
        n_threads: int = 1,
    ) -> None: ...
    def evaluate(
        self,
        theta: NDArray[Any],
        X: NDArray[Any],
        y: NDArray[Any],
        gradient: NDArray[Any] | None = None,
        n_threads: int = 1,
    ) -> tuple[float, int]: ...
    def step(
        self,
        theta: NDArray[Any],
        gradient: NDArray[Any],
        X: NDArray[Any],
        y: NDArray[Any],
        update: tuple[Any, ...],
        index: NDArray[np.intp] | None = None,
        n_threads: int = 1,
    ) -> tuple[float, int, bool]: ...
