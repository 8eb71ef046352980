"""`Network`: layers and a loss, compiled into a plan that runs without the GIL."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fanin import _persistence, _threads, losses
from fanin import _validation as check
from fanin._kernels._dense import Plan
from fanin._kernels._perturb import central_differences
from fanin.gradcheck import GradientReport, check_compiled
from fanin.layers import Dense
from fanin.optimizers import Optimizer

__all__ = ["History", "Network"]

# Relative errors below which a gradient is correct, and from which it is wrong.
# Backpropagation in float32 rounds each entry to some units of 6e-8 and sums over
# samples and units, which makes 1e-7 to 1e-5 in all; the losses it is held against
# are float64 in either case.
THRESHOLDS = {
    np.dtype(np.float64): (1e-7, 1e-3),
    np.dtype(np.float32): (1e-4, 1e-2),
}


@dataclass
class History:
    """What `Network.fit` saw, epoch by epoch.

    Attributes
    ----------
    loss : list of float
        Mean loss of the epoch's batches, each taken before its step.
    validation_loss : list of float
        Loss on the validation set after the epoch; empty without one.
    seconds : list of float
        Wall time of the epoch, validation included.

    Examples
    --------
    >>> import fanin
    >>> fanin.History(loss=[0.5, 0.25], seconds=[0.1, 0.1])
    History(2 epochs, loss 0.5 -> 0.25)
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __repr__(self) -> str:
        if not self.loss:
            return "History(0 epochs)"
        text = (
            f"{len(self.loss)} epochs, loss {self.loss[0]:.4g} -> {self.loss[-1]:.4g}"
        )
        if self.validation_loss:
            text += f", validation loss {self.validation_loss[-1]:.4g}"
        return f"History({text})"


class Network:
    r"""A network of dense layers, with its parameters in one flat vector.

    Layer l computes ``A_l = activation(A_{l-1} @ weight + bias)`` with samples in
    rows. Forward, loss, backward and the optimizer's update of a call run as one
    piece of compiled code without the GIL, on BLAS.

    Parameters
    ----------
    n_inputs : int
        Number of features of a sample.
    layers : sequence of Dense
        The layers, first to last. The last one's activation is usually "identity":
        the cross-entropies take logits.
    loss : {"squared_error", "softmax_cross_entropy", "binary_cross_entropy"} or Loss
        See `fanin.losses` for the formulas and the targets they take.
    dtype : {numpy.float32, numpy.float64}, default=numpy.float32
        Of the parameters and the arithmetic. Sums of losses and of bias gradients
        over samples are taken in float64 in either case.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Source of the initial weights; None takes fresh entropy.

    Attributes
    ----------
    parameters : ndarray of shape (n_parameters,)
        All weights and biases, layer by layer, weight before bias; writable.
    gradient : ndarray of shape (n_parameters,)
        The gradient of the last `train_step`, in the same order.
    n_parameters, n_inputs, n_outputs : int
        Sizes.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    Input is read where it lies: C order, Fortran order, strided, read-only or
    memory-mapped. Other real dtypes than the network's are converted block by
    block. Different threads may call `forward`, `predict` and `loss` on one network
    at the same time; training it from two threads at once is the caller's to avoid.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> net = fanin.Network(
    ...     4,
    ...     [fanin.layers.Dense(8, activation="tanh"), fanin.layers.Dense(3)],
    ...     loss="softmax_cross_entropy", dtype=np.float64, rng=0,
    ... )
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 4)), rng.integers(0, 3, 20)
    >>> loss, gradient = net.loss_and_gradient(X, y)
    >>> gradient.shape
    (67,)
    >>> net.check_gradient(X, y).verdict
    'correct'
    """

    def __init__(
        self,
        n_inputs: int,
        layers: Iterable[Dense],
        *,
        loss: str | losses.Loss,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
    ) -> None:
        self._declare(n_inputs, layers, loss=loss, dtype=dtype)
        self._allocate()
        self.initialize(rng)

    def _declare(
        self,
        n_inputs: int,
        layers: Iterable[Dense],
        *,
        loss: str | losses.Loss,
        dtype: DTypeLike,
    ) -> None:
        """Check and keep what the network is made of; nothing of its size yet."""
        self._n_inputs = check.integer(
            n_inputs, "n_inputs", minimum=1, maximum=check.MAX_BLAS_INTEGER
        )
        if isinstance(layers, Dense):
            raise TypeError("layers must be a sequence of layers; got a single Dense")
        self._layers: tuple[Dense, ...] = tuple(layers)
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Dense):
                raise TypeError(
                    f"layers[{i}] must be a fanin.layers.Dense; "
                    f"got {type(layer).__name__}"
                )
        if not self.layers:
            raise ValueError("layers must hold at least one layer")
        self._loss_function = losses.get(loss)
        self._dtype = check.float_dtype(dtype)
        self._compile()

    def _allocate(self) -> None:
        self._parameters: NDArray[Any] = np.zeros(self.n_parameters, self.dtype)
        self._gradient: NDArray[Any] | None = None

    def _compile(self) -> None:
        """Make the plan and the table of named stretches of the flat vector."""
        self._plan = Plan(self._shapes(), self.loss_function.name, self.dtype)
        self._blocks: list[tuple[str, slice, tuple[int, ...]]] = []
        at = 0
        for i, (n_in, n_out, _, has_bias) in enumerate(self._shapes()):
            for name, shape in (("weight", (n_in, n_out)), ("bias", (n_out,))):
                if name == "weight" or has_bias:
                    size = math.prod(shape)
                    where = slice(at, at + size)
                    self._blocks.append((f"dense{i}.{name}", where, shape))
                    at += size

    def _shapes(self) -> list[tuple[int, int, str, bool]]:
        widths = [self.n_inputs, *(layer.units for layer in self.layers)]
        return [
            (n_in, layer.units, layer.activation, layer.bias)
            for n_in, layer in zip(widths, self.layers, strict=False)
        ]

    def __repr__(self) -> str:
        shape = " -> ".join(
            [str(self.n_inputs), *(f"{d.units} {d.activation}" for d in self.layers)]
        )
        return (
            f"Network({shape}, loss={self.loss_function.name!r}, "
            f"dtype={self.dtype}, n_parameters={self.n_parameters})"
        )

    def __getstate__(self) -> dict[str, Any]:
        # The plan is compiled code's memory; the copy compiles its own. Its arrays
        # are its own, too, also where a pickle's buffers are shared or read-only.
        state = {k: v for k, v in self.__dict__.items() if k != "_plan"}
        return state | {"_parameters": self._parameters.copy(), "_gradient": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._parameters = check.owned(self._parameters)
        self._compile()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file, to be read by `load`.

        The file holds the parameters by their names in `named_parameters`, and the
        architecture as JSON in its metadata. The safetensors libraries of all
        languages and frameworks read it. No pickle is involved.

        Parameters
        ----------
        path : str or os.PathLike
            Where to write. A file of that name is replaced in one step when the new
            one is complete: a crash on the way leaves the old file.

        Raises
        ------
        TypeError
            If the network has a part that is code, such as a function of the user's
            for an activation. (An ``init`` that is a function is left out: `load`
            sets "auto" in its place.)
        OSError
            If the file cannot be written.

        Examples
        --------
        >>> import os, tempfile
        >>> import fanin
        >>> net = fanin.Network(3, [fanin.layers.Dense(2)], loss="squared_error")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "net.safetensors")
        ...     net.save(path)
        ...     again = fanin.Network.load(path)
        >>> bool((again.parameters == net.parameters).all())
        True
        """
        _persistence.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a network that `save` has written.

        Nothing in the file is executed, and no more memory is taken than the file has
        bytes, whatever it claims: it may come from anywhere.

        Parameters
        ----------
        path : str or os.PathLike
            A file written by `save`, of this version of fanin or an older one.

        Returns
        -------
        Network
            The network, with the parameters bit for bit as they were, be they finite
            or not.

        Raises
        ------
        ValueError
            If the file is no such file, or is damaged; the message says in what.
        OSError
            If it cannot be read.

        Examples
        --------
        >>> import os, tempfile
        >>> import fanin
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "net.safetensors")
        ...     net = fanin.Network(1, [fanin.layers.Dense(2)], loss="squared_error")
        ...     net.save(path)
        ...     fanin.Network.load(path)
        Network(1 -> 2 identity, loss='squared_error', dtype=float32, n_parameters=4)
        """
        return _persistence.load(cls, path)

    # What the network is made of is fixed: the plan is compiled for it.

    @property
    def n_inputs(self) -> int:
        """Number of features of a sample."""
        return self._n_inputs

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the last layer."""
        return self._plan.n_outputs

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return self._plan.n_parameters

    @property
    def layers(self) -> tuple[Dense, ...]:
        """The layers, first to last."""
        return self._layers

    @property
    def loss_function(self) -> losses.Loss:
        """The loss."""
        return self._loss_function

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the parameters and the arithmetic: float32 or float64."""
        return self._dtype

    # --- parameters ---------------------------------------------------------------

    @property
    def parameters(self) -> NDArray[Any]:
        """All weights and biases as one flat, writable vector."""
        return self._parameters

    @parameters.setter
    def parameters(self, values: ArrayLike) -> None:
        array = check.real_array(values, "parameters")
        if array.shape != (self.n_parameters,):
            raise ValueError(
                f"parameters must have shape ({self.n_parameters},); got {array.shape}"
            )
        self._parameters[...] = array

    @property
    def gradient(self) -> NDArray[Any]:
        """The gradient of the last `train_step`, flat; zeros before the first."""
        if self._gradient is None:
            self._gradient = np.zeros(self.n_parameters, self.dtype)
        return self._gradient

    def initialize(self, rng: Any = None) -> None:
        """Draw new weights by each layer's initializer and set biases to 0.

        Parameters
        ----------
        rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
            Source of randomness; None takes fresh entropy.

        Examples
        --------
        >>> import fanin
        >>> net = fanin.Network(3, [fanin.layers.Dense(2)], loss="squared_error")
        >>> net.initialize(rng=1)
        """
        source = check.generator(rng)
        # Into a vector of its own: a function that raises must change nothing.
        vector = np.zeros(self.n_parameters, self.dtype)
        arrays = self.unflatten(vector)
        for i, layer in enumerate(self.layers):
            weight = arrays[f"dense{i}.weight"]
            init = layer.initializer()
            found = init(weight.shape, rng=source, dtype=self.dtype, out=weight)
            if found is not None and found is not weight:
                raise TypeError(
                    f"the init of layers[{i}] must fill its argument out and return it "
                    f"or None; it returned {type(found).__name__}"
                )
        self._parameters[...] = vector

    def named_parameters(self) -> dict[str, NDArray[Any]]:
        """Return the weights and biases as views into `parameters`, by name.

        Returns
        -------
        dict of str to ndarray
            ``"dense0.weight"`` of shape (n_in, units), ``"dense0.bias"`` of shape
            (units,), and so on. Writing to them writes to the network.

        Examples
        --------
        >>> import fanin
        >>> net = fanin.Network(3, [fanin.layers.Dense(2)], loss="squared_error")
        >>> {name: a.shape for name, a in net.named_parameters().items()}
        {'dense0.weight': (3, 2), 'dense0.bias': (2,)}
        """
        return self.unflatten(self._parameters)

    def unflatten(self, vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return views into any vector laid out like `parameters`, by name.

        Parameters
        ----------
        vector : ndarray of shape (n_parameters,)
            A gradient, for example.

        Returns
        -------
        dict of str to ndarray
            Named as in `named_parameters`.

        Raises
        ------
        ValueError
            If the shape is another.

        Examples
        --------
        >>> import fanin
        >>> net = fanin.Network(3, [fanin.layers.Dense(2)], loss="squared_error")
        >>> net.unflatten(net.gradient)["dense0.bias"]
        array([0., 0.], dtype=float32)
        """
        if np.shape(vector) != (self.n_parameters,):
            raise ValueError(
                f"vector must have shape ({self.n_parameters},); got {np.shape(vector)}"
            )
        return {
            name: vector[where].reshape(shape) for name, where, shape in self._blocks
        }

    # --- forward ------------------------------------------------------------------

    def forward(
        self,
        X: ArrayLike,
        out: NDArray[Any] | None = None,
        *,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """Return the output of the last layer (logits, for the cross-entropies).

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers, in any memory layout.
        out : ndarray of shape (n_samples, n_outputs), optional
            Where to write the result: of the network's dtype, with rows that are
            contiguous. It must not overlap `X`.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            The output; `out` if given.

        Raises
        ------
        TypeError, ValueError
            If `X` or `out` has a wrong shape or dtype.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(3, [fanin.layers.Dense(2)], loss="squared_error")
        >>> net.forward(np.zeros((5, 3))).shape
        (5, 2)
        """
        array = check.samples(X, self.n_inputs)
        shape = (array.shape[0], self.n_outputs)
        if out is None:
            out = np.empty(shape, self.dtype)
        else:
            check.check_out(out, shape, self.dtype)
            check.contiguous_rows(out)
            check.no_overlap(out, array, "X")
            check.no_overlap(out, self._parameters, "the network's parameters")
        self._plan.forward(
            self._parameters, array, out, False, _threads.resolve(n_threads)
        )
        return out

    def layer_outputs(
        self, X: ArrayLike, *, n_threads: int | None = None
    ) -> list[NDArray[Any]]:
        """Return the output of every layer, first to last, for inspection.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        list of ndarray of shape (n_samples, units)
            One array a layer, activation applied.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> dense = fanin.layers.Dense
        >>> net = fanin.Network(3, [dense(4), dense(2)], loss="squared_error")
        >>> [A.shape for A in net.layer_outputs(np.zeros((5, 3)))]
        [(5, 4), (5, 2)]
        """
        A = check.samples(X, self.n_inputs)
        outputs = []
        at = 0
        for shape in self._shapes():
            plan = Plan([shape], self.loss_function.name, self.dtype)
            out = np.empty((A.shape[0], shape[1]), self.dtype)
            theta = self._parameters[at : at + plan.n_parameters]
            plan.forward(theta, A, out, False, _threads.resolve(n_threads))
            at += plan.n_parameters
            outputs.append(out)
            A = out
        return outputs

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the prediction in the units of the target.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.

        Returns
        -------
        ndarray
            For ``softmax_cross_entropy`` the most probable label, int64 of shape
            (n_samples,); for ``binary_cross_entropy`` 0 or 1, int64; for
            ``squared_error`` the output. The latter two have shape (n_samples,
            n_outputs), or (n_samples,) for one output.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(
        ...     3, [fanin.layers.Dense(2)], loss="softmax_cross_entropy", rng=0)
        >>> net.predict(np.zeros((2, 3)))
        array([0, 0])
        """
        Z = self.forward(X)
        if isinstance(self.loss_function, losses.SoftmaxCrossEntropy):
            return np.asarray(Z.argmax(axis=1))
        if self.n_outputs == 1:
            Z = Z[:, 0]
        if isinstance(self.loss_function, losses.BinaryCrossEntropy):
            return (Z > 0).astype(np.int64)
        return Z

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probabilities that the logits stand for.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            The softmax of each row, or the logistic function of each logit.

        Raises
        ------
        AttributeError
            If the loss is not a cross-entropy.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(
        ...     3, [fanin.layers.Dense(2)], loss="softmax_cross_entropy", rng=0)
        >>> net.predict_proba(np.zeros((1, 3)))
        array([[0.5, 0.5]], dtype=float32)
        """
        if isinstance(self.loss_function, losses.SquaredError):
            raise AttributeError(
                "predict_proba needs a cross-entropy loss; this network has "
                f"{self.loss_function.name}"
            )
        array = check.samples(X, self.n_inputs)
        out = np.empty((array.shape[0], self.n_outputs), self.dtype)
        self._plan.forward(self._parameters, array, out, True, _threads.resolve())
        return out

    # --- loss and gradient ----------------------------------------------------------

    def _batch(
        self, X: ArrayLike, y: ArrayLike, X_name: str = "X"
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        array = check.samples(X, self.n_inputs, X_name)
        if array.shape[0] == 0:
            raise ValueError(f"{X_name} has no rows: the mean loss is not defined")
        return array, self.loss_function.targets(y, array.shape[0], self.n_outputs)

    def loss(
        self, X: ArrayLike, y: ArrayLike, *, n_threads: int | None = None
    ) -> float:
        """Return the mean loss over the samples.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, as `fanin.losses` says for the network's loss.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            If `X` or `y` has a wrong shape, dtype or value; the row is named.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(
        ...     3, [fanin.layers.Dense(2)], loss="softmax_cross_entropy", rng=0)
        >>> round(net.loss(np.zeros((2, 3)), [0, 1]), 6)
        0.693147
        """
        array, targets = self._batch(X, y)
        value, bad = self._plan.evaluate(
            self._parameters, array, targets, None, _threads.resolve(n_threads)
        )
        if bad >= 0:
            raise ValueError(self.loss_function.bad_target(targets, bad))
        return value

    def loss_and_gradient(
        self,
        X: ArrayLike,
        y: ArrayLike,
        out: NDArray[Any] | None = None,
        *,
        n_threads: int | None = None,
    ) -> tuple[float, NDArray[Any]]:
        """Return the mean loss and its gradient, by backpropagation.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, as `fanin.losses` says for the network's loss.
        out : ndarray of shape (n_parameters,), optional
            Where to write the gradient: contiguous, of the network's dtype.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        loss : float
            The loss.
        gradient : ndarray of shape (n_parameters,)
            In the order of `parameters`; `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> net.parameters = [2.0, 1.0]
        >>> loss, gradient = net.loss_and_gradient([[3.0]], [5.0])
        >>> loss, gradient.tolist()
        (4.0, [12.0, 4.0])
        """
        array, targets = self._batch(X, y)
        if out is None:
            out = np.empty(self.n_parameters, self.dtype)
        else:
            check.vector(out, "out", self.n_parameters, self.dtype, writeable=True)
            check.no_overlap(out, self._parameters, "the network's parameters")
            check.no_overlap(out, array, "X")
            check.no_overlap(out, targets, "y")
        value, bad = self._plan.evaluate(
            self._parameters, array, targets, out, _threads.resolve(n_threads)
        )
        if bad >= 0:
            raise ValueError(self.loss_function.bad_target(targets, bad))
        return value, out

    def check_gradient(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        gradient: NDArray[Any] | None = None,
        eps: float = 1e-7,
        n_threads: int | None = None,
    ) -> GradientReport:
        """Check the gradient against central differences of the loss, every entry.

        Every parameter is perturbed by ``h = eps * max(1, |theta_i|)`` both ways and
        the loss evaluated by whole forward passes in float64, in parallel and
        without the GIL. The network itself is not changed.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers. A few dozen samples are enough: the cost is two forward
            passes a parameter.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        gradient : ndarray of shape (n_parameters,), optional
            The gradient to check, in the order of `parameters`; by default the
            network's own, from `loss_and_gradient` in the network's dtype.
        eps : float, default=1e-7
            Relative size of the perturbation.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        GradientReport
            Relative error, verdict, errors by array, worst entries. For a float32
            network the thresholds are those that float32 can meet.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(
        ...     2, [fanin.layers.Dense(3, activation="tanh"), fanin.layers.Dense(1)],
        ...     loss="squared_error", dtype=np.float64, rng=0)
        >>> X, y = np.array([[1.0, -1.0], [0.5, 2.0]]), np.array([1.0, -1.0])
        >>> report = net.check_gradient(X, y)
        >>> report.ok
        True
        >>> wrong = net.loss_and_gradient(X, y)[1]
        >>> net.unflatten(wrong)["dense1.weight"][...] *= -1
        >>> net.check_gradient(X, y, gradient=wrong).verdict
        'wrong'
        """
        eps = check.real(eps, "eps", minimum=0.0, maximum=1.0, open_minimum=True)
        array, targets = self._batch(X, y)
        if gradient is None:
            # On one thread, as all passes of a check: the report's bits then do not
            # depend on the number of threads.
            _, gradient = self.loss_and_gradient(array, targets, n_threads=1)
        elif np.shape(gradient) != (self.n_parameters,):
            raise ValueError(
                f"gradient must have shape ({self.n_parameters},); "
                f"got {np.shape(gradient)}"
            )
        double = np.dtype(np.float64)
        plan = self._plan
        if self.dtype != double:
            plan = Plan(self._shapes(), self.loss_function.name, double)
        theta = self._parameters.astype(double)
        threads = _threads.resolve(n_threads)

        def loss(_: object) -> float:
            value, bad = plan.evaluate(theta, array, targets, None, 1)
            if bad >= 0:
                raise ValueError(self.loss_function.bad_target(targets, bad))
            return value

        def differences(
            step: NDArray[Any],
            f_plus: NDArray[Any],
            f_minus: NDArray[Any],
            difference: NDArray[Any],
            span: NDArray[Any],
        ) -> None:
            central_differences(
                plan,
                theta,
                array,
                targets,
                step,
                f_plus,
                f_minus,
                difference,
                span,
                threads,
            )

        return check_compiled(
            loss,
            self.unflatten(theta),
            self.unflatten(np.asarray(gradient)),
            differences,
            eps=eps,
            thresholds=THRESHOLDS[self.dtype],
        )

    # --- training -------------------------------------------------------------------

    def train_step(
        self,
        X: ArrayLike,
        y: ArrayLike,
        optimizer: Optimizer,
        *,
        n_threads: int | None = None,
    ) -> float:
        """Take one step: forward, backward and update in one call without the GIL.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            The batch.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Its targets.
        optimizer : Optimizer
            Its state belongs to this network from its first step on.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        float
            The loss of the batch before the step. `gradient` holds its gradient.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value.
        FloatingPointError
            If the loss or the gradient is not finite; the message names the first
            tensor that is not. The parameters are then as they were.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> net.parameters = [2.0, 1.0]
        >>> net.train_step([[3.0]], [5.0], fanin.optimizers.SGD(0.1))
        4.0
        >>> net.parameters.round(4)
        array([0.8, 0.6], dtype=float32)
        """
        array, targets = self._batch(X, y)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must be a fanin.optimizers.Optimizer, such as Adam(); "
                f"got {type(optimizer).__name__}"
            )
        return self._step(
            array, targets, optimizer, None, _threads.resolve(n_threads), ""
        )

    def _step(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        optimizer: Optimizer,
        index: NDArray[np.intp] | None,
        n_threads: int,
        when: str,
    ) -> float:
        """`train_step` on checked arrays, or on the rows that `index` picks."""
        value, bad, taken = self._plan.step(
            self._parameters,
            self.gradient,
            X,
            y,
            optimizer._prepare(self._parameters),
            index,
            n_threads,
            optimizer,
        )
        if bad >= 0:
            row = bad if index is None else int(index[bad])
            raise ValueError(self.loss_function.bad_target(y, row))
        if not taken:
            first = self._first_not_finite(X, y, index)
            what = "the gradient is not finite" if math.isfinite(value) else ""
            raise FloatingPointError(f"{what or f'the loss is {value}'}{when}: {first}")
        return value

    def _first_not_finite(
        self, X: NDArray[Any], y: NDArray[Any], index: NDArray[np.intp] | None
    ) -> str:
        """Name the first tensor of a failed step that holds a NaN or an infinity."""
        rows = np.arange(X.shape[0]) if index is None else index
        batch = X[rows]
        named = {"X": batch, "y": y[rows], **self.named_parameters()}
        for i, A in enumerate(self.layer_outputs(batch)):
            named[f"the output of dense{i}"] = A
        for name, array in reversed(self.unflatten(self.gradient).items()):
            named[f"the gradient of {name}"] = array
        for name, array in named.items():
            finite = np.isfinite(array)
            if not finite.all():
                where = [int(k) for k in np.unravel_index(finite.argmin(), array.shape)]
                value = array[tuple(where)]
                if name in ("X", "y"):  # the caller's row, not the batch's
                    where[0] = int(rows[where[0]])
                return (
                    f"the first tensor that is not finite is {name}, {value} at {where}"
                )
        return "every tensor is finite, but their loss overflows"

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        optimizer: Optimizer,
        epochs: int,
        batch_size: int,
        validation: Sequence[ArrayLike] | None = None,
        progress: bool = False,
        rng: Any = None,
        n_threads: int | None = None,
    ) -> History:
        """Train on shuffled batches, from the parameters as they are.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Samples. Batches are gathered row by row by the kernel, in a new order
            each epoch: the array is never copied, and may be a memory map.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        optimizer : Optimizer
            Continues from its state if it has trained this network before.
        epochs : int
            Passes over the samples, >= 0.
        batch_size : int
            Samples a step, >= 1; an epoch's last batch may be smaller.
        validation : (X, y), optional
            Evaluated after each epoch.
        progress : bool, default=False
            Show a progress bar (needs tqdm).
        rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
            Source of the order of samples; None takes fresh entropy.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        History
            Losses and times, epoch by epoch.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value.
        FloatingPointError
            If training diverges: the message names the epoch, the batch and the
            first tensor that is not finite. The parameters are those before the
            step that failed.
        ImportError
            If `progress` is asked for and tqdm is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((200, 3))
        >>> y = X @ [1.0, -2.0, 0.5]
        >>> net = fanin.Network(3, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> history = net.fit(X, y, optimizer=fanin.optimizers.Adam(0.05),
        ...                   epochs=30, batch_size=20, rng=0)
        >>> bool(history.loss[-1] < 1e-3)
        True
        """
        array, targets = self._batch(X, y)
        epochs = check.integer(epochs, "epochs", minimum=0)
        batch_size = check.integer(batch_size, "batch_size", minimum=1)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must be a fanin.optimizers.Optimizer, such as Adam(); "
                f"got {type(optimizer).__name__}"
            )
        if validation is not None:
            if not isinstance(validation, (tuple, list)) or len(validation) != 2:
                raise TypeError("validation must be a pair (X, y)")
            held_X, held_y = self._batch(validation[0], validation[1], "validation X")
        source = check.generator(rng)
        threads = _threads.resolve(n_threads)
        n_samples = array.shape[0]
        history = History()
        bar = _progress_bar(epochs) if progress else None
        try:
            for epoch in range(epochs):
                begun = time.perf_counter()
                order = source.permutation(n_samples).astype(np.intp, copy=False)
                total = 0.0
                for batch, start in enumerate(range(0, n_samples, batch_size)):
                    index = order[start : start + batch_size]
                    when = f" at epoch {epoch + 1}, batch {batch + 1}"
                    total += index.size * self._step(
                        array, targets, optimizer, index, threads, when
                    )
                history.loss.append(total / n_samples)
                if validation is not None:
                    history.validation_loss.append(
                        self.loss(held_X, held_y, n_threads=threads)
                    )
                history.seconds.append(time.perf_counter() - begun)
                if bar is not None:
                    shown = {"loss": f"{history.loss[-1]:.4f}"}
                    if validation is not None:
                        shown["validation"] = f"{history.validation_loss[-1]:.4f}"
                    bar.set_postfix(shown, refresh=False)
                    bar.update()
        finally:
            if bar is not None:
                bar.close()
        return history


def _progress_bar(epochs: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            'progress=True needs tqdm: pip install tqdm, or "fanin[demo]"'
        ) from error
    return tqdm(total=epochs, unit="epoch")
