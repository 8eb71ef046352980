from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

def column_order(X: NDArray[Any], axes: Sequence[int]) -> tuple[int, ...]: ...
def row_order(X: NDArray[Any], axes: Sequence[int]) -> tuple[int, ...]: ...
