from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

LOSSES: dict[str, int]

def quotients(
    plus: NDArray[np.float64],
    minus: NDArray[np.float64],
    span: NDArray[np.float64],
    expected: NDArray[np.float64],
    near: float,
    n_threads: int,
) -> tuple[NDArray[np.float64], bool]: ...

@disjoint_base
class Increments:
    def __new__(cls, m: int) -> Self: ...
    def linear(
        self, W: NDArray[np.float64], A: NDArray[np.float64], weight: int, bias: int
    ) -> int: ...
    def activation(
        self,
        z: NDArray[np.float64],
        a: NDArray[np.float64],
        name: Any,
        parameter: float,
    ) -> None: ...
    def scale(self, factor: NDArray[np.float64]) -> None: ...
    def norm(
        self,
        kind: str,
        xhat: NDArray[np.float64],
        rstd: NDArray[np.float64],
        gamma: NDArray[np.float64] | None,
        weight: int,
        bias: int,
    ) -> int: ...
    def loss(
        self,
        kind: str,
        tables: NDArray[np.float64],
        column_kind: str,
        column_tables: NDArray[np.float64],
        sums: NDArray[np.float64],
        reference: NDArray[np.intp],
        weight: NDArray[np.float64],
        parameter: float,
    ) -> None: ...
    def custom_loss(
        self,
        loss: Any,
        z: NDArray[np.float64],
        y: NDArray[np.float64],
        losses: NDArray[np.float64],
        weight: NDArray[np.float64],
    ) -> None: ...
    def task_size(self, stage: int) -> int: ...
    def run(
        self,
        tasks: NDArray[np.intp],
        rows: NDArray[np.intp] | None,
        first: int,
        last: int,
        theta: NDArray[np.float64],
        step: NDArray[np.float64] | float,
        plus: NDArray[np.float64],
        minus: NDArray[np.float64],
        span: NDArray[np.float64],
        crossed: NDArray[np.uint8],
        adds: bool,
        n_threads: int,
    ) -> None: ...
