"""Which rows are trained on, held out and how much they count: the data of a `fit`.

Nothing here copies X. An index of the rows takes 8 bytes a sample, weights another 8.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _validation as check
from fanin import losses

# Rows gathered or predicted at a time: about this many bytes of X.
BLOCK_BYTES = 8 << 20
LABEL_ROWS = 1 << 16

# One for each row, or None if all count the same.
Weights = NDArray[np.float64] | None


class Samples(NamedTuple):
    """Rows of a data set, and how much each row of the set counts."""

    X: NDArray[Any]
    y: NDArray[Any]
    rows: NDArray[np.intp] | None  # None: all
    weight: Weights  # in the loss
    own_weight: Weights  # in metrics: without the weights of classes


def blocks(n: int, row_bytes: int) -> Iterator[slice]:
    """Cut range(n) into slices of some megabytes of rows."""
    step = min(16384, max(256, BLOCK_BYTES // max(1, row_bytes)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def class_labels(
    loss: losses.Loss, y: NDArray[Any]
) -> tuple[NDArray[np.int64] | None, str]:
    """Return the class of every row, or None and why it has none.

    Labels of a softmax as they are, one-hot rows as their column, and 0 or 1 of a
    single logit.
    """
    if isinstance(loss, losses.SoftmaxCrossEntropy):
        if y.ndim == 1:
            return np.asarray(y, np.int64), ""
        found = np.empty(y.shape[0], np.int64)
        for part in (slice(s, s + LABEL_ROWS) for s in range(0, len(y), LABEL_ROWS)):
            rows = np.asarray(y[part])
            found[part] = rows.argmax(axis=1)
            if (
                not ((rows == 0).sum(axis=1) == rows.shape[1] - 1).all()
                or not (rows.max(axis=1) == 1).all()
            ):
                return None, "y holds probabilities that are not one-hot"
        return found, ""
    if isinstance(loss, losses.BinaryCrossEntropy):
        if y.shape[1] != 1:
            return None, f"y holds {y.shape[1]} labels a sample"
        column = np.asarray(y[:, 0])
        if not ((column == 0) | (column == 1)).all():
            return None, "y holds probabilities that are neither 0 nor 1"
        return column.astype(np.int64), ""
    return None, f"the loss {loss.name} is not one of classes"


def sample_weights(
    sample_weight: ArrayLike | None,
    class_weight: Any,
    loss: losses.Loss,
    y: NDArray[Any],
    n_outputs: int,
) -> tuple[Weights, Weights]:
    """Return the weights of the rows by themselves, and times those of their classes.

    None stands for weights that are all the same.
    """
    own: Weights = None
    if sample_weight is not None:
        own = check.sample_weights(sample_weight, y.shape[0])
    if class_weight is None:
        return own, own
    weight = _class_factors(class_weight, loss, y, n_outputs)
    name = "the weights that class_weight gives the samples"
    if own is not None:
        name = "sample_weight * class_weight"
        with np.errstate(over="ignore"):
            weight *= own
    check.weight_sum(weight, name)
    return own, weight


def _class_factors(
    class_weight: Any, loss: losses.Loss, y: NDArray[Any], n_outputs: int
) -> NDArray[np.float64]:
    balanced = isinstance(class_weight, str) and class_weight == "balanced"
    if not balanced and not isinstance(class_weight, Mapping):
        raise (ValueError if isinstance(class_weight, str) else TypeError)(
            'class_weight must be "balanced", a dict of label to weight or None; '
            f"got {class_weight!r}"
        )
    labels, why = class_labels(loss, y)
    if labels is None:
        raise ValueError(f"class_weight needs one label a sample, but {why}")
    n_classes = max(2, n_outputs)
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        raise ValueError(loss.bad_target(y, int(outside.argmax())))
    table = np.ones(n_classes)
    if balanced:
        counts = np.bincount(labels, minlength=n_classes)
        there = counts > 0
        table[there] = len(labels) / (np.count_nonzero(there) * counts[there])
    else:
        for label, factor in class_weight.items():
            if isinstance(label, (bool, np.bool_)) or not isinstance(
                label, numbers.Integral
            ):
                raise TypeError(
                    "the keys of class_weight must be labels, which are integers; "
                    f"got {label!r}"
                )
            if not 0 <= int(label) < n_classes:
                raise ValueError(
                    f"class_weight has the label {label}; the labels are 0 to "
                    f"{n_classes - 1}"
                )
            table[int(label)] = check.real(
                factor, f"class_weight[{label}]", minimum=0.0
            )
    return table[labels]


def hold_out(
    fraction: float,
    source: np.random.Generator,
    loss: losses.Loss,
    y: NDArray[Any],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split the rows into those to train on and those held out, both ascending.

    Rows with one label each are split by class: each class gives its share of the
    held-out rows to within one row (largest remainders), and keeps a row to train on.
    """
    n = y.shape[0]
    n_held = max(1, round(fraction * n))
    if n_held >= n:
        raise ValueError(
            f"validation_fraction={fraction:g} of {n} samples leaves none to train on"
        )
    order = source.permutation(n).astype(np.intp, copy=False)
    labels, _ = class_labels(loss, y)
    held = np.zeros(n, bool)
    if labels is None:
        held[order[:n_held]] = True
    else:
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        share = counts * (n_held / n)
        quota = np.minimum(np.floor(share).astype(np.intp), counts - 1)
        # Who lost most by rounding down is next, if it can spare a row; equals by lot.
        room = counts - 1 - quota
        lot = source.permutation(len(counts))
        by_need = lot[np.argsort(-(share - quota)[lot], kind="stable")]
        missing = n_held - int(quota.sum())
        by_need = by_need[room[by_need] > 0]
        quota[by_need[:missing]] += 1
        # A stable sort by class keeps the random order within each.
        grouped = order[np.argsort(inverse[order], kind="stable")]
        start = np.cumsum(counts) - counts
        place = np.arange(n) - np.repeat(start, counts)
        held[grouped[place < np.repeat(quota, counts)]] = True
        if not held.any():
            raise ValueError(
                f"validation_fraction={fraction:g} holds nothing out: every class of y "
                "has a single sample"
            )
    return np.flatnonzero(~held), np.flatnonzero(held)
