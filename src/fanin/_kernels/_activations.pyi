import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: dict[str, int]

def forward(
    A: NDArray[np.floating], activation: str, bias: NDArray[np.floating] | None = None
) -> None: ...
def backward(
    dA: NDArray[np.floating], A: NDArray[np.floating], activation: str
) -> None: ...
