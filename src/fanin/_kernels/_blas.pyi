from typing import Any

import numpy as np
from numpy.typing import NDArray

def config() -> dict[str, Any]: ...
def matmul(
    A: NDArray[np.floating], B: NDArray[np.floating]
) -> NDArray[np.floating]: ...
