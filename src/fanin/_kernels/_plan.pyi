from typing import Any, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

KINDS: dict[str, int]

# Name, place in the flat vector, shape.
_Block = tuple[str, slice, tuple[int, ...]]

@disjoint_base
class Plan:
    blocks: list[_Block]
    state_blocks: list[_Block]
    n_inputs: int
    n_outputs: int
    n_parameters: int
    n_state: int
    chunk_rows: int
    itemsize: int
    def __new__(
        cls,
        layers: list[dict[str, Any]],
        n_inputs: int,
        loss: Any,
        dtype: np.dtype[Any],
    ) -> Self: ...
    def forward(
        self,
        theta: NDArray[Any],
        X: NDArray[Any],
        out: NDArray[Any],
        state: NDArray[np.float64] | None = None,
        link: bool = False,
        n_threads: int = 1,
    ) -> None: ...
    def takes(self, X: object) -> TypeGuard[NDArray[Any]]: ...
    def pick(
        self,
        theta: NDArray[Any],
        X: NDArray[Any],
        state: NDArray[np.float64] | None = None,
        n_threads: int = 1,
    ) -> NDArray[np.int64]: ...
    def record(
        self,
        theta: NDArray[Any],
        X: NDArray[Any],
        out: NDArray[Any],
        state: NDArray[np.float64] | None = None,
        training: bool = False,
        key: tuple[int, int] | None = None,
        draw: int = 0,
        update_state: bool = True,
        n_threads: int = 1,
        network: Any = None,
    ) -> Tape: ...
    def evaluate(
        self,
        theta: NDArray[Any],
        X: NDArray[Any],
        y: NDArray[Any],
        gradient: NDArray[Any] | None = None,
        n_threads: int = 1,
        state: NDArray[np.float64] | None = None,
        training: bool = False,
        key: tuple[int, int] | None = None,
        draw: int = 0,
        weights: NDArray[np.float64] | None = None,
        dX: NDArray[Any] | None = None,
        index: NDArray[np.intp] | None = None,
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
        state: NDArray[np.float64] | None = None,
        key: tuple[int, int] | None = None,
        draw: int = 0,
        weights: NDArray[np.float64] | None = None,
        network: Any = None,
    ) -> tuple[float, int, bool]: ...
    def observe(
        self,
        theta: NDArray[Any],
        X: NDArray[Any],
        features: NDArray[np.float64],
        outputs: list[NDArray[np.float64]],
        gradients: list[NDArray[np.float64]],
        samples: list[NDArray[Any]],
        bounds: list[tuple[float, float, bool]],
        sampled: NDArray[np.intp],
        gradient: NDArray[Any],
        y: NDArray[Any] | None = None,
        dA: NDArray[Any] | None = None,
        state: NDArray[np.float64] | None = None,
        training: bool = False,
        key: tuple[int, int] | None = None,
        draw: int = 0,
        n_threads: int = 1,
    ) -> tuple[float | None, int]: ...

@disjoint_base
class Tape:
    n_rows: int
    X: NDArray[Any]
    def backward(
        self,
        dA: NDArray[Any],
        gradient: NDArray[Any] | None = None,
        dX: NDArray[Any] | None = None,
        n_threads: int = 1,
    ) -> None: ...
    def output(self, layer: int) -> NDArray[Any] | None: ...
