"""fanin: normalize the features, initialize by fan-in, check the gradient."""

from fanin._threads import get_num_threads, set_num_threads
from fanin._version import __version__
from fanin.gradcheck import GradientError, GradientReport, check_gradient

__all__ = [
    "GradientError",
    "GradientReport",
    "__version__",
    "check_gradient",
    "get_num_threads",
    "set_num_threads",
]
