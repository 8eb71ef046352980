from typing import Any

import numpy as np
from numpy.typing import NDArray

LOSSES: dict[str, int]

def forward(
    Z: NDArray[np.floating], Y: NDArray[Any], loss: str, scale: float = 1.0
) -> tuple[float, NDArray[np.floating], int]: ...
def link(Z: NDArray[np.floating], loss: str) -> None: ...
