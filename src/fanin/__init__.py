"""fanin: normalize the features, initialize by fan-in, check the gradient."""

from typing import Any as _Any

from fanin import initializers, layers, losses, optimizers
from fanin._config import show_config
from fanin._threads import get_num_threads, set_num_threads
from fanin._version import __version__
from fanin.gradcheck import GradientError, GradientReport, check_gradient
from fanin.network import History, Network
from fanin.normalization import (
    batch_norm,
    batch_norm_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from fanin.preprocessing import Moments, moments, standardize, unstandardize

__all__ = [
    "GradientError",
    "GradientReport",
    "History",
    "Moments",
    "Network",
    "__version__",
    "batch_norm",
    "batch_norm_backward",
    "check_gradient",
    "get_num_threads",
    "initializers",
    "layer_norm",
    "layer_norm_backward",
    "layers",
    "losses",
    "moments",
    "optimizers",
    "rms_norm",
    "rms_norm_backward",
    "set_num_threads",
    "show_config",
    "standardize",
    "unstandardize",
]


def __getattr__(name: str) -> _Any:
    # It imports scikit-learn, which fanin does without.
    if name == "estimators":
        from importlib import import_module

        return import_module("fanin.estimators")
    raise AttributeError(f"module 'fanin' has no attribute {name!r}")
