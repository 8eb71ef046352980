"""fanin: normalize the features, initialize by fan-in, check the gradient."""

# A name is imported when it is first asked for (PEP 562, as SciPy's subpackages are),
# so that a program pays for the part of fanin that it uses.
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from fanin._version import __version__

if _TYPE_CHECKING:
    from fanin import (
        activations,
        callbacks,
        estimators,  # noqa: F401 (no part of a star import)
        functional,
        initializers,
        layers,
        losses,
        optimizers,
        propagation,
        schedules,
    )
    from fanin._config import show_config
    from fanin._threads import get_num_threads, set_num_threads
    from fanin.calibration import CalibrationReport, calibrate
    from fanin.diagnostics import SignalReport, SignalWarning, diagnose_signals
    from fanin.functional import dense, dense_backward
    from fanin.gradcheck import (
        GradientError,
        GradientReport,
        check_gradient,
        check_hessian_product,
        check_vjp,
    )
    from fanin.history import History
    from fanin.initializers import gain
    from fanin.network import Network
    from fanin.normalization import (
        batch_norm,
        batch_norm_backward,
        layer_norm,
        layer_norm_backward,
        rms_norm,
        rms_norm_backward,
    )
    from fanin.preprocessing import Moments, moments, standardize, unstandardize
    from fanin.propagation import plot_initialization

# "estimators" is no part of a star import: it needs scikit-learn.
__all__ = [
    "CalibrationReport",
    "GradientError",
    "GradientReport",
    "History",
    "Moments",
    "Network",
    "SignalReport",
    "SignalWarning",
    "__version__",
    "activations",
    "batch_norm",
    "batch_norm_backward",
    "calibrate",
    "callbacks",
    "check_gradient",
    "check_hessian_product",
    "check_vjp",
    "dense",
    "dense_backward",
    "diagnose_signals",
    "functional",
    "gain",
    "get_num_threads",
    "initializers",
    "layer_norm",
    "layer_norm_backward",
    "layers",
    "losses",
    "moments",
    "optimizers",
    "plot_initialization",
    "propagation",
    "rms_norm",
    "rms_norm_backward",
    "schedules",
    "set_num_threads",
    "show_config",
    "standardize",
    "unstandardize",
]

_MODULES = (
    "activations",
    "callbacks",
    "estimators",
    "functional",
    "initializers",
    "layers",
    "losses",
    "optimizers",
    "propagation",
    "schedules",
)
_HOMES = {
    "CalibrationReport": "calibration",
    "GradientError": "gradcheck",
    "GradientReport": "gradcheck",
    "History": "history",
    "Moments": "preprocessing",
    "Network": "network",
    "SignalReport": "diagnostics",
    "SignalWarning": "diagnostics",
    "batch_norm": "normalization",
    "batch_norm_backward": "normalization",
    "calibrate": "calibration",
    "check_gradient": "gradcheck",
    "check_hessian_product": "gradcheck",
    "check_vjp": "gradcheck",
    "dense": "functional",
    "dense_backward": "functional",
    "diagnose_signals": "diagnostics",
    "gain": "initializers",
    "get_num_threads": "_threads",
    "layer_norm": "normalization",
    "layer_norm_backward": "normalization",
    "moments": "preprocessing",
    "plot_initialization": "propagation",
    "rms_norm": "normalization",
    "rms_norm_backward": "normalization",
    "set_num_threads": "_threads",
    "show_config": "_config",
    "standardize": "preprocessing",
    "unstandardize": "preprocessing",
}


def __getattr__(name: str) -> _Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"fanin.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"fanin.{_HOMES[name]}"), name)
        globals()[name] = value  # from now on without this function
        return value
    raise AttributeError(f"module 'fanin' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "estimators"})
