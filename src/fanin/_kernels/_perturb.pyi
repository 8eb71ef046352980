from typing import Any

from numpy.typing import NDArray

from fanin._kernels._plan import Plan

def central_differences(
    plan: Plan,
    theta: NDArray[Any],
    X: NDArray[Any],
    y: NDArray[Any],
    step: NDArray[Any],
    f_plus: NDArray[Any],
    f_minus: NDArray[Any],
    difference: NDArray[Any],
    span: NDArray[Any],
    n_threads: int = 1,
    state: NDArray[Any] | None = None,
    training: bool = False,
    key: tuple[int, int] | None = None,
    draw: int = 0,
    weights: NDArray[Any] | None = None,
    entries: NDArray[Any] | None = None,
) -> None: ...
