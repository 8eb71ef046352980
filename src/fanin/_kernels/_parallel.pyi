import numpy as np
from numpy.typing import NDArray

def pool_size() -> int: ...
def probe(
    n_tasks: int, n_threads: int, *, n_inner: int = 1, seconds: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.intc], NDArray[np.float64]]: ...
