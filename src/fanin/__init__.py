"""fanin: normalize the features, initialize by fan-in, check the gradient."""

from fanin._config import show_config
from fanin._threads import get_num_threads, set_num_threads
from fanin._version import __version__

__all__ = [
    "__version__",
    "get_num_threads",
    "set_num_threads",
    "show_config",
]
