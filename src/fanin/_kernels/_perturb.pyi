from typing import Any

from numpy.typing import NDArray

from fanin._kernels._dense import Plan

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
) -> None: ...
