"""The losses of a network: their formulas, and what targets they take.

A loss is declared by its name or by an object that also holds its parameter, such as
``Huber(delta=2.0)``; `evaluate` computes it, with its gradient, on arrays. Conventions
are PyTorch's, unless a class says otherwise. The loops are in the kernels; the page on
the mathematics says how each formula is kept accurate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _custom, _threads
from fanin import _validation as check
from fanin._kernels import _losses

if TYPE_CHECKING:
    from fanin._kernels._custom import Pair

__all__ = [
    "AbsoluteError",
    "BinaryCrossEntropy",
    "Custom",
    "Huber",
    "Loss",
    "Poisson",
    "Quantile",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "evaluate",
    "get",
]

_MOST = float(np.finfo(np.float64).max)


class Loss:
    """A loss: the mean over the samples of a batch. Use one of its subclasses."""

    name: ClassVar[str] = ""
    # Of one target: the interval it must lie in, and how that is called.
    _interval: ClassVar[tuple[float, float]] = (-_MOST, _MOST)
    _must: ClassVar[str] = "a target must be a finite number"

    @property
    def parameter(self) -> float:
        """The number that the kernels need beside the name; 0.0 if there is none."""
        return 0.0

    @property
    def quantiles(self) -> tuple[float, ...] | None:
        """The quantiles of a `Quantile` loss that has one for each output."""
        return None

    @property
    def _kernel(self) -> str | Pair:
        """What the kernels take."""
        return self.name

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

    def _first_bad(
        self, y: NDArray[Any], n_outputs: int, dtype: np.dtype[Any], n_threads: int
    ) -> int:
        """Return the first row of `targets` that the kernel would refuse, or -1."""
        if self.name not in _losses.LOSSES:
            return -1
        Z = np.broadcast_to(np.zeros((), dtype), (y.shape[0], n_outputs))
        _, _, bad = _losses.forward(
            Z,
            y,
            self.name,
            parameter=self.parameter,
            quantiles=self.quantiles,
            gradient=False,
            n_threads=n_threads,
        )
        return bad

    def bad_target(self, y: NDArray[Any], row: int) -> str:
        """Say what is wrong with the target that the kernel refused."""
        low, high = self._interval
        values = np.asarray(y[row], dtype=np.float64)
        wrong = ~((values >= low) & (values <= high))
        column = int(wrong.argmax() if wrong.any() else np.abs(values).argmax())
        # One target for all outputs has no column of its own.
        many = values.size > 1 and y.strides[1] != 0
        where = f" in column {column}" if many else ""
        must = self._must if wrong.any() else "a target must be finite in float32"
        return f"y[{row}] is {values[column]:g}{where}: {must}"


def _for_all_outputs(
    y: ArrayLike, n_rows: int, n_outputs: int, what: str
) -> NDArray[Any]:
    """Return targets of each output, or the same for all of them, without a copy."""
    array = check.real_array(y, "y")
    if array.shape in ((n_rows,), (n_rows, 1)):
        return np.broadcast_to(array.reshape(n_rows, 1), (n_rows, n_outputs))
    if array.shape != (n_rows, n_outputs):
        raise ValueError(
            f"y must have shape ({n_rows},), for all {what}, or "
            f"({n_rows}, {n_outputs}); got {array.shape}"
        )
    return array


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """The mean absolute error, over samples and outputs.

    ``L = mean(abs(Z - y))`` for outputs ``Z`` and targets ``y`` of shape
    (n_samples, n_outputs), or (n_samples,) for one output: scikit-learn's
    ``mean_absolute_error`` and PyTorch's ``L1Loss``. Its minimum is the median. The
    derivative where ``Z == y`` is taken as 0.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.evaluate([1.0, 4.0], [1.0, 2.0], "absolute_error")
    (1.0, array([0. , 0.5]))
    """

    name = "absolute_error"


@dataclass(frozen=True)
class Huber(Loss):
    """Squared error where it is small, absolute error where it is large (Huber 1964).

    With ``d = Z - y``, ``L`` is the mean over samples and outputs of ``d**2 / 2``
    where ``abs(d) <= delta`` and of ``delta * (abs(d) - delta / 2)`` elsewhere:
    PyTorch's ``HuberLoss``. An outlier pulls with the force `delta` at most. Targets
    have shape (n_samples, n_outputs), or (n_samples,) for one output.

    Parameters
    ----------
    delta : float, default=1.0
        Where the one becomes the other, > 0, in units of the target.

    Raises
    ------
    TypeError, ValueError
        If `delta` is not a positive number.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.evaluate([0.5, 4.0], [0.0, 0.0], fanin.losses.Huber(delta=1.0))
    (1.8125, array([0.25, 0.5 ]))
    """

    name = "huber"
    delta: float = 1.0

    def __post_init__(self) -> None:
        delta = check.real(self.delta, "delta", minimum=0.0, open_minimum=True)
        object.__setattr__(self, "delta", delta)

    @property
    def parameter(self) -> float:
        """The `delta`."""
        return self.delta


@dataclass(frozen=True)
class Quantile(Loss):
    """The quantile or "pinball" loss (Koenker & Bassett 1978).

    With ``d = y - Z``, ``L`` is the mean over samples and outputs of
    ``max(q * d, (q - 1) * d)``: scikit-learn's ``mean_pinball_loss``. Its minimum is
    the quantile ``q`` of the target; 0.5 is the median, at half the absolute error.
    The derivative where ``Z == y`` is taken as 0.

    Parameters
    ----------
    quantile : float or sequence of float, default=0.5
        The quantile, between 0 and 1. A number holds for all outputs, whose targets
        then have shape (n_samples, n_outputs), or (n_samples,) for one output. A
        sequence has one quantile for each output; targets of shape (n_samples,) or
        (n_samples, 1) then serve all outputs, which is how one network predicts a
        median and its margins. They are broadcast without a copy.

    Raises
    ------
    TypeError, ValueError
        If a quantile is not a number between 0 and 1.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.evaluate([1.0, 4.0], [2.0, 2.0], fanin.losses.Quantile(0.75))
    (0.625, array([-0.375,  0.125]))
    >>> loss = fanin.losses.Quantile([0.1, 0.5, 0.9])
    >>> fanin.losses.evaluate([[1.0, 2.0, 4.0]], [3.0], loss)[1].round(4)
    array([[-0.0333, -0.1667,  0.0333]])
    """

    name = "quantile"
    quantile: float | tuple[float, ...] = 0.5

    def __post_init__(self) -> None:
        given: Any = self.quantile
        if isinstance(given, np.ndarray) and given.ndim == 0:
            given = given.item()
        if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
            object.__setattr__(self, "quantile", self._one(given, "quantile"))
            return
        found = tuple(self._one(q, f"quantile[{i}]") for i, q in enumerate(given))
        if not found:
            raise ValueError("quantile must hold at least one number; got none")
        object.__setattr__(self, "quantile", found)

    @staticmethod
    def _one(value: Any, name: str) -> float:
        return check.real(
            value,
            name,
            minimum=0.0,
            maximum=1.0,
            open_minimum=True,
            open_maximum=True,
        )

    @property
    def parameter(self) -> float:
        """The quantile of all outputs; 0.0 if each has its own."""
        return 0.0 if isinstance(self.quantile, tuple) else self.quantile

    @property
    def quantiles(self) -> tuple[float, ...] | None:
        """The quantile of each output, or None if one holds for all."""
        return self.quantile if isinstance(self.quantile, tuple) else None

    def targets(self, y: ArrayLike, n_rows: int, n_outputs: int) -> NDArray[Any]:
        """Return `y` in the form the kernels read; its values are checked there."""
        if self.quantiles is None:
            return super().targets(y, n_rows, n_outputs)
        if len(self.quantiles) != n_outputs:
            raise ValueError(
                f"a loss of {len(self.quantiles)} quantiles needs as many outputs; "
                f"got {n_outputs}"
            )
        return _for_all_outputs(y, n_rows, n_outputs, "quantiles")


@dataclass(frozen=True)
class Poisson(Loss):
    """The Poisson loss of counts, from the logarithm of their rate.

    ``L = mean(exp(Z) - y * Z)`` over samples and outputs, for the log-rates ``Z`` and
    targets ``y >= 0`` of shape (n_samples, n_outputs), or (n_samples,) for one output:
    PyTorch's ``PoissonNLLLoss(log_input=True, full=False)``. That is -log of the
    probability of ``y``, less ``log(y!)``, which does not depend on ``Z``. The
    targets need not be whole numbers: counts over exposures, weighted by the
    exposures, are rates.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.evaluate([0.0, 0.0], [1.0, 3.0], "poisson")
    (1.0, array([ 0., -1.]))
    """

    name = "poisson"
    _interval = (0.0, _MOST)
    _must = "a target of the Poisson loss must be finite and not negative"


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """The cross-entropy of independent yes-or-no targets, from logits.

    ``L = mean(log(1 + exp(Z)) - y * Z)`` over samples and outputs, for logits ``Z``
    and targets ``y`` in [0, 1], of shape (n_samples, n_outputs), or (n_samples,) for
    one output: PyTorch's ``BCEWithLogitsLoss``. The probability that a logit stands
    for is ``1 / (1 + exp(-Z))``.

    Examples
    --------
    >>> import fanin
    >>> fanin.losses.evaluate([0.0], [True], "binary_cross_entropy")
    (0.6931471805599453, array([-0.5]))
    """

    name = "binary_cross_entropy"
    _interval = (0.0, 1.0)
    _must = "a target must lie in [0, 1]"


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """The cross-entropy of one class among several, from logits.

    ``L = -mean(sum(y * log(softmax(Z)), axis=1))`` over samples, for logits ``Z`` of
    shape (n_samples, n_classes) and ``y`` either integer labels (n_samples,) from 0
    to n_classes - 1 or probabilities (n_samples, n_classes) that sum to 1 (one-hot
    or not, of any real dtype): PyTorch's ``CrossEntropyLoss``. Bool labels are taken
    with two classes. Class weights are sample weights: the weighted mean is then that
    of ``CrossEntropyLoss(weight=...)``.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        With ``a`` from 0 to 1, ``(1 - a) * y + a / n_classes`` is taken for ``y``
        (Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2016, section 7).

    Raises
    ------
    TypeError, ValueError
        If `label_smoothing` is not a number from 0 to 1.

    Examples
    --------
    >>> import fanin
    >>> loss, dZ = fanin.losses.evaluate([[0.0, 0.0]], [1], "softmax_cross_entropy")
    >>> round(loss, 6), dZ.tolist()
    (0.693147, [[0.5, -0.5]])
    """

    name = "softmax_cross_entropy"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        found = check.real(
            self.label_smoothing, "label_smoothing", minimum=0.0, maximum=1.0
        )
        object.__setattr__(self, "label_smoothing", found)

    @property
    def parameter(self) -> float:
        """The `label_smoothing`."""
        return self.label_smoothing

    def targets(self, y: ArrayLike, n_rows: int, n_outputs: int) -> NDArray[Any]:
        """Return `y` in the form the kernels read; its values are checked there."""
        try:
            array = check.real_array(y, "y")
        except TypeError as error:
            if np.asarray(y).dtype.kind not in "USO":
                raise
            raise TypeError(
                f"{error}. For names of classes: "
                "classes, y = numpy.unique(y, return_inverse=True)"
            ) from None
        if array.ndim == 1:
            return self._labels(array, n_rows, n_outputs)
        if array.shape != (n_rows, n_outputs):
            hint = ""
            if array.shape == (n_rows, 1):
                hint = "; labels are one-dimensional: y.ravel()"
            raise ValueError(
                f"y must have shape ({n_rows},) or ({n_rows}, {n_outputs}); "
                f"got {array.shape}{hint}"
            )
        return array

    def _labels(self, array: NDArray[Any], n_rows: int, n_outputs: int) -> NDArray[Any]:
        if array.dtype.kind == "f":
            raise TypeError(
                "y must be integer labels (n_samples,) or probabilities "
                f"(n_samples, {n_outputs}); got shape {array.shape} with dtype "
                f"{array.dtype}. For labels that are whole numbers: y.astype(int)"
            )
        if array.dtype.kind == "b" and n_outputs != 2:
            raise TypeError(
                "y of dtype bool holds the labels of two classes, and there are "
                f"{n_outputs} outputs"
            )
        if array.shape != (n_rows,):
            raise ValueError(
                f"y must have one label for each of the {n_rows} rows of X; "
                f"got shape {array.shape}"
            )
        return array

    def bad_target(self, y: NDArray[Any], row: int) -> str:
        """Say what is wrong with the target that the kernel refused."""
        if y.ndim == 1:
            return (
                f"y[{row}] is {y[row]}: not a label (an integer from 0 to the number "
                "of outputs - 1)"
            )
        values = np.asarray(y[row], dtype=np.float64)
        return (
            f"y[{row}] sums to {float(values.sum()):g} with minimum "
            f"{float(values.min()):g}: probabilities must be >= 0 and sum to 1"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Custom(_custom.Registered, Loss):
    """A loss of your own: a function of outputs and targets, and its gradient.

    ``L = mean(function(Z, y))``, over samples, for outputs ``Z`` of shape
    (n_samples, n_outputs) and targets ``y`` of that shape, or (n_samples,) or
    (n_samples, 1) for targets that serve all outputs. With sample weights w it is
    ``sum(w * function(Z, y)) / sum(w)``. Any real targets are accepted, NaN too.

    Parameters
    ----------
    function : callable or compiled function
        A Python function ``function(Z, Y)`` takes two arrays of shape
        (rows, n_outputs), float32 or float64 as the network is, and returns the loss
        of each row, (rows,). The arrays hold some rows of the batch, and are
        read-only; the function may keep them. Or a compiled function ``double
        loss(const double *z, const double *y, intptr_t n)`` of one row: a SciPy
        `LowLevelCallable`, a ctypes function with its restype and argtypes, or a
        `numba.cfunc`. It may take a ``void *data`` as its last argument.
    derivative : callable or compiled function
        The gradient of each row's loss with respect to the outputs: ``derivative(Z,
        Y)`` of shape (rows, n_outputs), or ``void gradient(double *dz, const double
        *z, const double *y, intptr_t n)``.
    name : str, optional
        What to call it; by default the function's name.
    user_data : ndarray or ctypes object, optional
        What a compiled function's last argument points to, for both. A
        `LowLevelCallable` may have its own.
    sample_targets : array_like of shape (rows, n_outputs) or (rows,), optional
        Targets to check the gradient with, for a loss that is not defined for all. The
        first 21 rows are taken; by default they are normal random numbers.
    n_outputs : int, optional
        How many outputs to check the gradient with: by default those of
        `sample_targets`, or 3.

    Attributes
    ----------
    function, derivative, name, user_data
        The arguments.

    Raises
    ------
    fanin.GradientError
        If the derivative is not that of the function; the message is the report, as of
        `fanin.check_gradient`, which the attribute `report` holds. Looked at are random
        outputs, small and large, with central differences and an estimate of their
        error, so that a kink is not taken for an error.
    TypeError, ValueError
        If the functions are not a pair of such functions, the prototype is another,
        the values depend on other rows, or are NaN.

    See Also
    --------
    fanin.activations.Custom : The same for an activation, with more on what it costs.

    Examples
    --------
    The likelihood of a normal distribution, whose mean and logarithm of the standard
    deviation are the two outputs:

    >>> import numpy as np
    >>> import fanin
    >>> def likelihood(Z, Y):
    ...     return ((Y[:, 0] - Z[:, 0]) * np.exp(-Z[:, 1])) ** 2 / 2 + Z[:, 1]
    >>> def gradient(Z, Y):
    ...     r = (Y[:, 0] - Z[:, 0]) * np.exp(-Z[:, 1])
    ...     return np.stack([-r * np.exp(-Z[:, 1]), 1 - r**2], axis=1)
    >>> loss = fanin.losses.Custom(likelihood, gradient, n_outputs=2)
    >>> fanin.losses.evaluate([[0.0, 0.0], [1.0, 0.0]], [1.0, 3.0], loss)
    (1.25, array([[-0.5,  0. ],
           [-1. , -1.5]]))
    >>> net = fanin.Network(4, [fanin.layers.Dense(2)], loss=loss)
    """

    function: Any
    derivative: Any
    name: Any = field(default=None, kw_only=True)  # type: ignore[misc]
    user_data: Any = field(default=None, kw_only=True)
    sample_targets: InitVar[ArrayLike | None] = field(default=None, kw_only=True)
    n_outputs: InitVar[int | None] = field(default=None, kw_only=True)

    _prototypes = (_custom.LOSS, _custom.GRADIENT)

    def __post_init__(
        self, sample_targets: ArrayLike | None, n_outputs: int | None
    ) -> None:
        if n_outputs is not None:
            n_outputs = check.integer(n_outputs, "n_outputs", minimum=1)
        if sample_targets is None:
            rng = np.random.default_rng(0)
            sample = rng.standard_normal((21, n_outputs or 3))
        else:
            sample = check.real_array(sample_targets, "sample_targets")
            if sample.ndim not in (1, 2) or sample.size == 0:
                raise ValueError(
                    "sample_targets must have shape (rows, n_outputs) or (rows,), and "
                    f"not be empty; got {sample.shape}"
                )
            if n_outputs is None:
                n_outputs = 1 if sample.ndim == 1 else sample.shape[1]
            sample = self.targets(sample[:21], min(len(sample), 21), n_outputs)
        pair = self._register(_BY_NAME)
        sample = np.ascontiguousarray(sample, np.float64)
        _custom.check_loss(pair, f"loss {self.name!r}", sample)

    def targets(self, y: ArrayLike, n_rows: int, n_outputs: int) -> NDArray[Any]:
        """Return `y` in the form the kernels read; its values are not checked."""
        return _for_all_outputs(y, n_rows, n_outputs, "outputs")


_BY_NAME: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        SquaredError(),
        AbsoluteError(),
        Huber(),
        Quantile(),
        Poisson(),
        BinaryCrossEntropy(),
        SoftmaxCrossEntropy(),
    )
}


def get(loss: str | Loss) -> Loss:
    """Return the loss of that name, or the loss itself.

    Parameters
    ----------
    loss : str or Loss
        "squared_error", "absolute_error", "huber", "quantile", "poisson",
        "binary_cross_entropy" or "softmax_cross_entropy", with the default of its
        parameter; or a loss.

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
    >>> fanin.losses.get("huber")
    Huber(delta=1.0)
    """
    if isinstance(loss, Loss):
        if type(loss) not in (Custom, *map(type, _BY_NAME.values())):
            raise TypeError(
                f"loss must be one of {', '.join(_BY_NAME)}; "
                f"got {type(loss).__name__}, which the kernels do not know"
            )
        return loss
    if not isinstance(loss, str):
        raise TypeError(
            f"loss must be a name or an object of fanin.losses; got {check.what(loss)}"
        )
    return _BY_NAME[check.choice(loss, _BY_NAME, "loss")]


def evaluate(
    Z: ArrayLike,
    y: ArrayLike,
    loss: str | Loss,
    *,
    sample_weight: ArrayLike | None = None,
    n_threads: int | None = None,
) -> tuple[float, NDArray[Any]]:
    r"""Return a loss and its gradient with respect to the outputs `Z`.

    With a weight :math:`w_i` for each row (1 without) and the loss :math:`l_i` of a
    row, that is of each of its :math:`K` outputs added up,

    .. math:: L = \frac{\sum_i w_i\, l_i}{N \sum_i w_i}, \qquad
              N = 1 \text{ for softmax\_cross\_entropy, else } N = K ,

    and the gradient is :math:`\partial L / \partial Z`. A weight of 2 is the same as
    a row twice, a weight of 0 the same as none.

    Parameters
    ----------
    Z : array_like of shape (n_samples, n_outputs) or (n_samples,)
        Outputs, of any real dtype and memory layout: for the cross-entropies logits,
        for Poisson's loss the logarithm of the rate. One dimension is one output.
    y : array_like of shape (n_samples,) or (n_samples, n_outputs)
        Targets, of any real dtype, as the loss's class says.
    loss : str or Loss
        See `get`.
    sample_weight : array_like of shape (n_samples,), optional
        Weights >= 0 with a positive sum.
    n_threads : int, optional
        Overrides `fanin.set_num_threads` for this call.

    Returns
    -------
    loss : float
        The mean; summed over samples in float64, with the rounding of each addition
        kept.
    dZ : ndarray of the shape of `Z`
        The gradient: float32 for float32 and float16 `Z`, else float64.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong shape, dtype or value; the row of a bad target is
        named.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> Z = np.array([[2.0, 0.0], [0.0, 0.0]])
    >>> loss, dZ = fanin.losses.evaluate(Z, [0, 1], "softmax_cross_entropy")
    >>> round(loss, 6)
    0.410038
    >>> dZ.round(4)
    array([[-0.0596,  0.0596],
           [ 0.25  , -0.25  ]])
    >>> fanin.losses.evaluate([3.0, 0.0], [1.0, 5.0], "squared_error",
    ...                       sample_weight=[1.0, 0.0])
    (4.0, array([4., 0.]))
    """
    function = get(loss)
    array = check.real_array(Z, "Z")
    shape = array.shape
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            "Z must have shape (n_samples, n_outputs) or (n_samples,), and not be "
            f"empty; got {shape}"
        )
    n_rows, n_outputs = array.shape
    targets = function.targets(y, n_rows, n_outputs)
    weight = None
    count = float(n_rows)
    if sample_weight is not None:
        weight = check.sample_weights(sample_weight, n_rows)
        count = math.fsum(weight)
    if not isinstance(function, (SoftmaxCrossEntropy, Custom)):
        count *= n_outputs
    total, dZ, bad = _losses.forward(
        array,
        targets,
        function._kernel,
        1.0 / count,
        function.parameter,
        function.quantiles,
        weight,
        True,
        _threads.resolve(n_threads),
    )
    if bad >= 0:
        raise ValueError(function.bad_target(targets, bad))
    assert dZ is not None
    return total / count, dZ.reshape(shape)
