"""fanin: normalize the features, initialize by fan-in, check the gradient."""

from fanin import initializers
from fanin._threads import get_num_threads, set_num_threads
from fanin._version import __version__

__all__ = [
    "__version__",
    "get_num_threads",
    "initializers",
    "set_num_threads",
]
