"""Metrics of predictions, by name or by the user's function.

The weights of samples are scikit-learn's `sample_weight`: a weight of 2 is a row twice,
and None is all the same.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._sampling import Weights

Metric = Callable[..., float]


def accuracy(
    y: NDArray[Any], prediction: NDArray[Any], sample_weight: Weights = None
) -> float:
    """Fraction of labels that are right; with several outputs, of all of them."""
    return _mean(_like_prediction(y, prediction) == prediction, sample_weight)


def balanced_accuracy(
    y: NDArray[Any], prediction: NDArray[Any], sample_weight: Weights = None
) -> float:
    """Mean over the classes in y of the fraction of their samples that are right.

    scikit-learn's ``balanced_accuracy_score``.
    """
    y = _like_prediction(y, prediction)
    weight = np.ones(len(y)) if sample_weight is None else sample_weight
    weight = np.repeat(weight, y.size // len(y))
    _, inverse = np.unique(y.ravel(), return_inverse=True)
    right = np.bincount(inverse, weights=weight * (y == prediction).ravel())
    return float(np.mean(right / np.bincount(inverse, weights=weight)))


def r2(
    y: NDArray[Any], prediction: NDArray[Any], sample_weight: Weights = None
) -> float:
    """1 - residual over total sum of squares, averaged over the outputs.

    scikit-learn's ``r2_score``, also where an output is constant: 1 if it is predicted
    exactly, else 0.
    """
    y, prediction = _float64(y, prediction)
    residual = np.average((y - prediction) ** 2, axis=0, weights=sample_weight)
    y = y - y[0]  # 0 where it is constant, whatever a mean is rounded to
    mean = np.average(y, axis=0, weights=sample_weight)
    total = np.average((y - mean) ** 2, axis=0, weights=sample_weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(total > 0, 1.0 - residual / total, residual == 0)
    return float(np.mean(score))


def mean_squared_error(
    y: NDArray[Any], prediction: NDArray[Any], sample_weight: Weights = None
) -> float:
    """Mean of the squared differences, over samples and outputs."""
    y, prediction = _float64(y, prediction)
    return _mean((y - prediction) ** 2, sample_weight)


def root_mean_squared_error(
    y: NDArray[Any], prediction: NDArray[Any], sample_weight: Weights = None
) -> float:
    """Root of the mean squared difference, averaged over the outputs."""
    y, prediction = _float64(y, prediction)
    squares = np.average((y - prediction) ** 2, axis=0, weights=sample_weight)
    return float(np.mean(np.sqrt(squares)))


def mean_absolute_error(
    y: NDArray[Any], prediction: NDArray[Any], sample_weight: Weights = None
) -> float:
    """Mean of the absolute differences, over samples and outputs."""
    y, prediction = _float64(y, prediction)
    return _mean(np.abs(y - prediction), sample_weight)


def _mean(values: NDArray[Any], sample_weight: Weights) -> float:
    """Mean over the samples of their mean over the outputs."""
    rows = values if values.ndim == 1 else values.mean(axis=1)
    return float(np.average(rows, weights=sample_weight))


def _float64(
    y: NDArray[Any], prediction: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    return y.astype(np.float64), prediction.astype(np.float64)


def _like_prediction(y: NDArray[Any], prediction: NDArray[Any]) -> NDArray[Any]:
    """Return labels, also where y gives them as one column a class."""
    if y.ndim == 2 and prediction.ndim == 1 and y.shape[1] > 1:
        return np.asarray(y.argmax(axis=1))
    return y


# Of labels: only for a classifier. Of numbers: only for the others.
OF_LABELS: dict[str, Metric] = {f.__name__: f for f in (accuracy, balanced_accuracy)}
OF_NUMBERS: dict[str, Metric] = {
    f.__name__: f
    for f in (
        r2,
        mean_absolute_error,
        mean_squared_error,
        root_mean_squared_error,
    )
}
BY_NAME = OF_LABELS | OF_NUMBERS
MORE_IS_BETTER = frozenset({"accuracy", "balanced_accuracy", "r2"})
RESERVED = frozenset({"loss", "seconds", "learning_rate"})


def resolve(metrics: Any, classifier: bool) -> dict[str, Metric]:
    """Return {name: function} for names, callables, a sequence or dict of them."""
    if isinstance(metrics, str) or callable(metrics):
        metrics = [metrics]
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(metrics, Mapping):
        pairs = metrics.items()
    else:
        try:
            pairs = [(None, metric) for metric in metrics]
        except TypeError:
            raise TypeError(
                "metrics must be names or callables, in a sequence or a dict; "
                f"got {type(metrics).__name__}"
            ) from None
    found: dict[str, Metric] = {}
    for name, metric in pairs:
        if isinstance(metric, str):
            function = _named(metric, classifier)
            key = metric if name is None else name
        elif callable(metric):
            function = metric
            key = getattr(metric, "__name__", None) if name is None else name
            if key is None:
                key = type(metric).__name__
        else:
            raise TypeError(
                "a metric must be a name or a callable (y_true, prediction) -> float; "
                f"got {type(metric).__name__}"
            )
        if not isinstance(key, str):
            raise TypeError(f"the name of a metric must be a string; got {key!r}")
        if key in RESERVED or key.startswith("validation_"):
            raise ValueError(
                f"a metric must not be named {key!r}, which names something else in a "
                "History; give metrics as a dict of other names"
            )
        if key in found:
            raise ValueError(
                f"two metrics are named {key!r}; give metrics as a dict of names"
            )
        found[key] = function
    return found


def _named(name: str, classifier: bool) -> Metric:
    if name not in BY_NAME:
        listed = ", ".join(repr(known) for known in BY_NAME)
        raise ValueError(
            f"a metric must be one of {listed} or a callable; got {name!r}"
        )
    if (name in OF_LABELS) != classifier:
        needs = "a cross-entropy" if name in OF_LABELS else "a loss of numbers"
        raise ValueError(f"the metric {name!r} is for a network with {needs}")
    return BY_NAME[name]


def value(
    name: str,
    metric: Metric,
    y: NDArray[Any],
    prediction: NDArray[Any],
    sample_weight: Weights = None,
) -> float:
    """Return the metric's value, a float; NaN is one.

    A user's function gets the weights if it has a parameter for them whose default is
    None or nothing: ``functools.partial(f, sample_weight=w)`` has weights of its own.
    """
    if any(metric is known for known in BY_NAME.values()):
        if sample_weight is not None and not sample_weight.all():
            # A row of weight 0 is none: no class of y, and its NaN nobody's.
            counts = sample_weight > 0
            y, prediction = y[counts], prediction[counts]
            sample_weight = sample_weight[counts]
        found: Any = metric(y, prediction, sample_weight)
    elif _takes_weights(metric):
        found = metric(y, prediction, sample_weight=sample_weight)
    else:
        found = metric(y, prediction)
    if isinstance(found, np.ndarray) and found.ndim == 0:
        found = found[()]
    if isinstance(found, (bool, np.bool_)) or not isinstance(found, numbers.Real):
        raise TypeError(
            f"the metric {name!r} must return a real number; got {type(found).__name__}"
        )
    return float(found)


def _takes_weights(metric: Metric) -> bool:
    try:
        parameter = inspect.signature(metric).parameters.get("sample_weight")
    except (TypeError, ValueError):  # compiled code need not tell
        return False
    return (
        parameter is not None
        and parameter.kind is not parameter.POSITIONAL_ONLY
        and any(parameter.default is default for default in (None, parameter.empty))
    )


def direction(monitor: str, mode: str) -> float:
    """Return 1.0 if less of the monitored value is better, -1.0 if more is."""
    if mode != "auto":
        return 1.0 if mode == "min" else -1.0
    name = monitor.removeprefix("validation_")
    if name == "loss" or (name in BY_NAME and name not in MORE_IS_BETTER):
        return 1.0
    if name in MORE_IS_BETTER:
        return -1.0
    raise ValueError(
        f"whether less or more of {monitor!r} is better is not known: give "
        'EarlyStopping mode="min" or "max"'
    )


def improves(found: float, best: float, sign: float, margin: float = 0.0) -> bool:
    """Whether `found` beats `best` by more than `margin`; NaN beats nothing."""
    if math.isnan(best):
        return not math.isnan(found)
    return sign * (best - found) > margin
