"""The losses of a network: their names, and what targets they take.

The formulas and the loops are in the kernels; see the page on the mathematics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _validation as check

__all__ = ["BinaryCrossEntropy", "Loss", "SoftmaxCrossEntropy", "SquaredError", "get"]


class Loss:
    """A loss: the mean over the samples of a batch. Use one of its subclasses."""

    name = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def targets(self, y: ArrayLike, n_rows: int, n_outputs: int) -> NDArray[Any]:
        """Return `y` in the form the kernels read; its values are checked there."""
        array = check.real_array(y, "y")
        if array.ndim == 1 and n_outputs == 1:
            array = array[:, np.newaxis]
        if array.shape != (n_rows, n_outputs):
            hint = f" or ({n_rows},)" if n_outputs == 1 else ""
            raise ValueError(
                f"y must have shape ({n_rows}, {n_outputs}){hint}; got {np.shape(y)}"
            )
        return array

    def bad_target(self, y: NDArray[Any], row: int) -> str:
        """Say what is wrong with the target that the kernel refused."""
        return f"y[{row}] is {y[row].tolist()}: a target must not be NaN"


class SquaredError(Loss):
    r"""The mean squared error, over samples and outputs.

    ``L = mean((Z - y)**2)`` for outputs ``Z`` and targets ``y`` of shape
    (n_samples, n_outputs), or (n_samples,) for one output: scikit-learn's
    ``mean_squared_error`` and PyTorch's ``MSELoss``, without a factor 1/2.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.get("squared_error")
    SquaredError()
    """

    name = "squared_error"


class BinaryCrossEntropy(Loss):
    """The cross-entropy of independent yes-or-no targets, from logits.

    ``L = mean(log(1 + exp(Z)) - y * Z)`` over samples and outputs, for logits ``Z``
    and targets ``y`` in [0, 1]: PyTorch's ``BCEWithLogitsLoss``. The probability
    that a logit stands for is ``1 / (1 + exp(-Z))``.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.get("binary_cross_entropy")
    BinaryCrossEntropy()
    """

    name = "binary_cross_entropy"

    def bad_target(self, y: NDArray[Any], row: int) -> str:
        """Say what is wrong with the target that the kernel refused."""
        return f"y[{row}] is {y[row].tolist()}: a target must lie in [0, 1]"


class SoftmaxCrossEntropy(Loss):
    """The cross-entropy of one class among several, from logits.

    ``L = -mean(sum(y * log(softmax(Z)), axis=1))`` over samples, for logits ``Z`` of
    shape (n_samples, n_classes) and ``y`` either integer labels (n_samples,) from 0
    to n_classes - 1 or probabilities (n_samples, n_classes) that sum to 1:
    PyTorch's ``CrossEntropyLoss``.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.get("softmax_cross_entropy")
    SoftmaxCrossEntropy()
    """

    name = "softmax_cross_entropy"

    def targets(self, y: ArrayLike, n_rows: int, n_outputs: int) -> NDArray[Any]:
        """Return `y` in the form the kernels read; its values are checked there."""
        array = check.real_array(y, "y")
        if array.ndim == 1:
            if array.dtype.kind not in "iu":
                raise TypeError(
                    "y must be integer labels (n_samples,) or probabilities "
                    f"(n_samples, {n_outputs}); got shape {array.shape} with dtype "
                    f"{array.dtype}"
                )
            if array.shape != (n_rows,):
                raise ValueError(
                    f"y must have one label for each of the {n_rows} rows of X; "
                    f"got shape {array.shape}"
                )
            return array
        if array.shape != (n_rows, n_outputs):
            raise ValueError(
                f"y must have shape ({n_rows},) or ({n_rows}, {n_outputs}); "
                f"got {array.shape}"
            )
        return array

    def bad_target(self, y: NDArray[Any], row: int) -> str:
        """Say what is wrong with the target that the kernel refused."""
        if y.ndim == 1:
            return (
                f"y[{row}] is {y[row]}: not a label that the network has an output for"
            )
        return (
            f"y[{row}] sums to {float(y[row].sum()):g} with minimum "
            f"{float(y[row].min()):g}: probabilities must be >= 0 and sum to 1"
        )


_BY_NAME: dict[str, Loss] = {
    loss.name: loss
    for loss in (SquaredError(), BinaryCrossEntropy(), SoftmaxCrossEntropy())
}


def get(loss: str | Loss) -> Loss:
    """Return the loss of that name, or the loss itself.

    Parameters
    ----------
    loss : {"squared_error", "binary_cross_entropy", "softmax_cross_entropy"} or Loss
        What to look up.

    Returns
    -------
    Loss
        The loss.

    Raises
    ------
    ValueError, TypeError
        If no loss has that name, or `loss` is of another class than those here.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.get("squared_error").name
    'squared_error'
    """
    if isinstance(loss, Loss):
        if type(loss) not in map(type, _BY_NAME.values()):
            raise TypeError(
                f"loss must be one of {', '.join(_BY_NAME)}; "
                f"got {type(loss).__name__}, which the kernels do not know"
            )
        return loss
    return _BY_NAME[check.choice(loss, _BY_NAME, "loss")]
