"""fanin: normalize the features, initialize by fan-in, check the gradient."""

from fanin._threads import get_num_threads, set_num_threads
from fanin._version import __version__
from fanin.preprocessing import Moments, moments, standardize, unstandardize

__all__ = [
    "Moments",
    "__version__",
    "get_num_threads",
    "moments",
    "set_num_threads",
    "standardize",
    "unstandardize",
]
