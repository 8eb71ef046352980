import numpy as np
from numpy.typing import NDArray

def dropout_mask(
    key: tuple[int, int], draw: int, number: int, rate: float, shape: tuple[int, int]
) -> NDArray[np.float64]: ...
