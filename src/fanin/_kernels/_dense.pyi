from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from fanin._kernels._activations import ACTIVATIONS as ACTIVATIONS

@disjoint_base
class Plan:
    n_inputs: int
    n_outputs: int
    n_parameters: int
    chunk_rows: int
    itemsize: int
    def __new__(
        cls,
        layers: list[tuple[int, int, str, bool]],
        loss: str,
        dtype: np.dtype[Any],
        parameter: float = 0.0,
        quantiles: tuple[float, ...] | None = None,
    ) -> Self: ...
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
        optimizer: Any = None,
    ) -> tuple[float, int, bool]: ...
