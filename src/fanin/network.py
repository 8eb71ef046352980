"""`Network`: layers and a loss, compiled into a plan that runs without the GIL."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fanin import _persistence, _threads, _training, losses
from fanin import _validation as check
from fanin._kernels._plan import Plan, Tape
from fanin._network_check import check_network
from fanin._report import GradientReport
from fanin.callbacks import EarlyStopping
from fanin.history import History
from fanin.layers import (
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    activation_met,
    check_init,
    fill_weight,
)
from fanin.optimizers import Optimizer

if TYPE_CHECKING:
    from fanin.diagnostics import SignalReport

__all__ = ["Network"]


class Network:
    r"""A network of layers, with its parameters in one flat vector.

    A dense layer computes ``A_l = activation(A_{l-1} @ weight + bias)`` with samples
    in rows; see `fanin.layers` for the others. Forward, loss, backward and the
    optimizer's update of a call run as one piece of compiled code without the GIL, on
    BLAS.

    Parameters
    ----------
    n_inputs : int
        Number of features of a sample.
    layers : sequence of Layer
        The layers, first to last. The last one's activation is usually "identity":
        the cross-entropies take logits.
    loss : str or Loss
        See `fanin.losses` for the names, the formulas and the targets they take.
    l2 : float, default=0.0
        Penalty on the weights of dense layers that do not have their own: the loss
        grows by ``l2 / 2 * sum(weight**2)`` for each. At least 0.
    dtype : {numpy.float32, numpy.float64}, default=numpy.float32
        Of the parameters and the arithmetic. Sums of losses and of bias gradients
        over samples are taken in float64 in either case.
    init : str or callable, default="auto"
        How the weights start of the dense layers that have no `init` of their own:
        "auto" picks for each by the activation that its output meets, ``he_normal``
        before relu and the like, ``lecun_normal`` before the others; a name of
        `fanin.initializers`, or a function, is the same for all. See
        `fanin.layers.Dense`. Biases start at 0.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Source of the initial weights and of dropout's masks; None takes fresh entropy.

    Attributes
    ----------
    parameters : ndarray of shape (n_parameters,)
        All weights and biases, layer by layer, weight before bias (gamma before
        beta); writable.
    gradient : ndarray of shape (n_parameters,)
        The gradient of the last `train_step` or `backward`, in the same order.
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
    block. Different threads may call `predict` and `loss` on one network
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
        layers: Iterable[Layer],
        *,
        loss: str | losses.Loss,
        l2: float = 0.0,
        dtype: DTypeLike = np.float32,
        init: str | Callable[..., Any] = "auto",
        rng: Any = None,
    ) -> None:
        self._declare(n_inputs, layers, loss=loss, l2=l2, dtype=dtype, init=init)
        self._allocate()
        self.initialize(rng)

    def _declare(
        self,
        n_inputs: int,
        layers: Iterable[Layer],
        *,
        loss: str | losses.Loss,
        l2: float,
        dtype: DTypeLike,
        init: str | Callable[..., Any],
    ) -> None:
        """Check and keep what the network is made of; nothing of its size yet."""
        self._n_inputs = check.integer(
            n_inputs, "n_inputs", minimum=1, maximum=check.MAX_BLAS_INTEGER
        )
        if isinstance(layers, Layer):
            raise TypeError(
                f"layers must be a sequence of layers; got one {type(layers).__name__}"
            )
        self._layers: tuple[Layer, ...] = tuple(layers)
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"layers[{i}] must be a layer of fanin.layers, such as "
                    f"Dense(100); got {check.what(layer)}"
                )
        if not self.layers:
            raise ValueError("layers must hold at least one layer")
        self._loss_function = losses.get(loss)
        self._l2 = check.real(l2, "l2", minimum=0.0)
        self._dtype = check.float_dtype(dtype)
        check_init(init)
        self._init = init
        self._compile()

    def _allocate(self) -> None:
        self._parameters: NDArray[Any] = np.zeros(self.n_parameters, self.dtype)
        self._state: NDArray[np.float64] = np.zeros(self._plan.n_state)
        self._gradient: NDArray[Any] | None = None
        self._tape: Tape | None = None
        self._last_loss = math.nan
        self._draw = 0
        self._dropout_key = (0, 0)

    def _compile(self) -> None:
        """Make the plan, which says where the layers' arrays lie in flat vectors."""
        self._plan = self._make_plan(self.dtype)
        self._blocks = self._plan.blocks
        self._state_blocks = self._plan.state_blocks
        self._mixes_rows = any(isinstance(layer, BatchNorm) for layer in self.layers)
        self._draws = any(isinstance(layer, Dropout) for layer in self.layers)

    def _specs(self) -> list[dict[str, Any]]:
        """Return what a plan is made of, a dictionary for each layer."""
        compiled = []
        for layer in self.layers:
            spec = layer._compiled()
            if isinstance(layer, Dense) and layer.l2 is None:
                spec["l2"] = self._l2
            if spec.get("eps", 0.0) is None:
                # By the network's dtype, also where a check computes in float64.
                spec["eps"] = float(np.finfo(self.dtype).eps)
            compiled.append(spec)
        return compiled

    def _make_plan(self, dtype: np.dtype[Any]) -> Plan:
        return Plan(self._specs(), self.n_inputs, self.loss_function, dtype)

    def __repr__(self) -> str:
        shape = " -> ".join(
            [
                str(self.n_inputs),
                *(
                    f"{layer.units} {layer.activation}"
                    if isinstance(layer, Dense)
                    else repr(layer)
                    for layer in self.layers
                ),
            ]
        )
        return (
            f"Network({shape}, loss={self.loss_function.name!r}, "
            f"dtype={self.dtype}, n_parameters={self.n_parameters})"
        )

    def __getstate__(self) -> dict[str, Any]:
        # The plan is compiled code's memory; the copy compiles its own. Its arrays
        # are its own, too, also where a pickle's buffers are shared or read-only.
        state = {k: v for k, v in self.__dict__.items() if k != "_plan"}
        return state | {
            "_parameters": self._parameters.copy(),
            "_state": self._state.copy(),
            "_gradient": None,
            "_tape": None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # (A pickle of before there was the option has none.)
        self.__dict__.update({"_init": "auto"} | state)
        self._parameters = check.owned(self._parameters)
        self._state = check.owned(self._state)
        self._compile()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file, to be read by `load`.

        The file holds the arrays of `named_parameters` and `named_buffers` by their
        names, and the architecture as JSON in its metadata. The safetensors libraries
        of all languages and frameworks read it. No pickle is involved.

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
            sets the default in its place.)
        OSError
            If the file cannot be written.
        ImportError
            If safetensors is not installed.

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

        Nothing in the file is executed, and no memory is taken for parameters that the
        file does not hold, whatever it claims: it may come from anywhere.

        Parameters
        ----------
        path : str or os.PathLike
            A file written by `save`, of this version of fanin or an older one.

        Returns
        -------
        Network
            The network, with the parameters and running statistics bit for bit as they
            were, be they finite or not, and the place in dropout's sequence of masks.

        Raises
        ------
        ValueError
            If the file is no such file, or is damaged; the message says in what.
        OSError
            If it cannot be read.
        ImportError
            If safetensors is not installed.

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
    def layers(self) -> tuple[Layer, ...]:
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
        if not np.isfinite(array).all():
            where = int(np.isfinite(array).argmin())
            raise ValueError(
                f"parameters must be finite; got {array[where]} at {where}, in "
                f"{self._block_of(where)}"
            )
        self._parameters[...] = array

    def _block_of(self, index: int) -> str:
        return next(name for name, where, _ in self._blocks if index < where.stop)

    @property
    def gradient(self) -> NDArray[Any]:
        """The gradient of the last `train_step`, flat; zeros before the first."""
        if self._gradient is None:
            self._gradient = np.zeros(self.n_parameters, self.dtype)
        return self._gradient

    def initialize(self, rng: Any = None) -> None:
        """Draw new weights by each layer's initializer and start all else afresh.

        Biases and betas become 0, gammas 1, running means 0 and running variances 1.

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
            if not isinstance(layer, Dense):
                if (gamma := arrays.get(f"{layer.kind}{i}.gamma")) is not None:
                    gamma[...] = 1
                continue
            weight = arrays[f"dense{i}.weight"]
            init = layer.initializer(self._init, activation_met(self.layers, i))
            fill_weight(init, weight, source, f"init of layers[{i}]")
        self._parameters[...] = vector
        for name, array in self.named_buffers().items():
            array[...] = 1 if name.endswith("_var") else 0
        self._draw = 0
        self._dropout_key = (0, 0)
        if self._draws:
            low, high = source.integers(2**32, size=2).tolist()
            self._dropout_key = (low, high)
        self._tape = None

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

    def named_buffers(self) -> dict[str, NDArray[np.float64]]:
        """Return the running statistics of batch normalizations as views, by name.

        Returns
        -------
        dict of str to ndarray of float64
            ``"batch_norm1.running_mean"`` and ``"batch_norm1.running_var"``, and so
            on. Writing to them writes to the network.

        Examples
        --------
        >>> import fanin
        >>> layers = [fanin.layers.Dense(2), fanin.layers.BatchNorm()]
        >>> net = fanin.Network(3, layers, loss="squared_error")
        >>> net.named_buffers()["batch_norm1.running_var"]
        array([1., 1.])
        """
        return {name: self._state[where] for name, where, _ in self._state_blocks}

    def _snapshot(self) -> tuple[Any, ...]:
        """Copy what training changes."""
        return self._parameters.copy(), self._state.copy(), self._draw

    def _restore(self, snapshot: tuple[Any, ...]) -> None:
        self._parameters[...] = snapshot[0]
        self._state[...] = snapshot[1]
        self._draw = snapshot[2]
        self._tape = None

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
        training: bool = False,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """Return the output of the last layer (logits, for the cross-entropies).

        What a `backward` needs is kept until the next call, `X` included; use
        `predict` or `loss` where none will follow.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers, in any memory layout.
        out : ndarray of shape (n_samples, n_outputs), optional
            Where to write the result: of the network's dtype, with rows that are
            contiguous. It must not overlap `X`.
        training : bool, default=False
            Whether dropout drops, with a new mask each time, and batch normalization
            takes the batch's statistics and updates its running ones.
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
        out = self._output(array, out)
        training = self._training(training, array.shape[0])
        self._tape = None
        self._plan.record(
            self._parameters,
            array,
            out,
            self._state,
            training,
            self._dropout_key,
            self._draw,
            n_threads=_threads.resolve(n_threads),
            network=self,
        )
        return out

    def _output(self, X: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        """Return a new array for the network's output, or the caller's, checked."""
        shape = (X.shape[0], self.n_outputs)
        if out is None:
            return np.empty(shape, self.dtype)
        check.check_out(out, shape, self.dtype)
        check.contiguous_rows(out)
        check.no_overlap(out, X, "X")
        check.no_overlap(out, self._parameters, "the network's parameters")
        return out

    def _training(self, training: bool, n_rows: int) -> bool:
        """Check the option; what it means for one row."""
        if not isinstance(training, bool):
            raise TypeError(f"training must be True or False; got {training!r}")
        if training and self._mixes_rows and n_rows == 1:
            raise ValueError(
                "X has one row: in training, batch normalization needs at least two"
            )
        return training

    def backward(
        self,
        dA: ArrayLike,
        *,
        out: NDArray[Any] | None = None,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """Carry a gradient back through the last `forward`, to `gradient` and to X.

        With it a network is a block of a larger graph: `dA` comes from what the
        output went into, and the result goes on to what `X` came from.

        Parameters
        ----------
        dA : array_like of shape (n_samples, n_outputs)
            The gradient of some scalar with respect to the output of `forward`.
        out : ndarray of shape (n_samples, n_inputs), optional
            Where to write the result: of the network's dtype, with rows that are
            contiguous.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        ndarray of shape (n_samples, n_inputs)
            dX, the gradient with respect to `X`. `gradient` holds that with respect
            to the parameters (without the penalty `l2`, which is the loss's).

        Raises
        ------
        RuntimeError
            If there was no `forward` since the network was made, initialized, trained
            or unpickled.
        TypeError, ValueError
            If `dA` or `out` has a wrong shape or dtype.

        Notes
        -----
        `X` and the parameters must be what they were in `forward`. Of more rows than
        fit into some 64 MB of workspace the forward pass is computed again.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> net.parameters = [2.0, 1.0]
        >>> net.forward([[3.0], [4.0]]).tolist()
        [[7.0], [9.0]]
        >>> net.backward([[1.0], [1.0]]).tolist()
        [[2.0], [2.0]]
        >>> net.gradient.tolist()
        [7.0, 2.0]
        """
        if self._tape is None:
            raise RuntimeError(
                "backward needs a forward before it, with no step of training between"
            )
        n_rows = self._tape.n_rows
        given = check.real_array(dA, "dA")
        if given.shape != (n_rows, self.n_outputs):
            raise ValueError(
                f"dA must have shape ({n_rows}, {self.n_outputs}); got {given.shape}"
            )
        given = np.ascontiguousarray(given, self.dtype)
        shape = (n_rows, self.n_inputs)
        if out is None:
            out = np.empty(shape, self.dtype)
        else:
            check.check_out(out, shape, self.dtype)
            check.contiguous_rows(out)
            check.no_overlap(out, given, "dA")
            check.no_overlap(out, self._tape.X, "X")
            check.no_overlap(out, self._parameters, "the network's parameters")
            check.no_overlap(out, self.gradient, "the network's gradient")
        check.no_overlap(self.gradient, given, "dA", "the network's gradient")
        self._tape.backward(given, self.gradient, out, _threads.resolve(n_threads))
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
            One array a layer, activation applied, in inference: dropout passes on
            what it gets.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> dense = fanin.layers.Dense
        >>> net = fanin.Network(3, [dense(4), dense(2)], loss="squared_error")
        >>> [A.shape for A in net.layer_outputs(np.zeros((5, 3)))]
        [(5, 4), (5, 2)]
        """
        array = check.samples(X, self.n_inputs)
        threads = _threads.resolve(n_threads)
        parts = []
        step = self._plan.chunk_rows
        for start in range(0, max(1, array.shape[0]), step):
            rows = array[start : start + step]
            tape = self._record(rows, False, threads)
            parts.append(self._outputs_of(tape, rows))
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def _record(self, X: NDArray[Any], training: bool, n_threads: int) -> Tape:
        """Run a forward pass whose layers can be looked at; nothing changes."""
        return self._plan.record(
            self._parameters,
            X,
            np.empty((X.shape[0], self.n_outputs), self.dtype),
            self._state,
            training,
            self._dropout_key,
            self._draw,
            False,
            n_threads,
        )

    def _outputs_of(self, tape: Tape, X: NDArray[Any]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = []
        width = self.n_inputs
        for i, layer in enumerate(self.layers):
            width = layer.units if isinstance(layer, Dense) else width
            A = tape.output(i)
            if A is None:  # no rows, or dropout before any layer
                A = np.asarray(X, self.dtype).copy()
                A = A if X.shape[0] else np.empty((0, width), self.dtype)
            outputs.append(A)
        return outputs

    def predict(self, X: ArrayLike, *, n_threads: int | None = None) -> NDArray[Any]:
        """Return the prediction in the units of the target.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        ndarray
            For ``softmax_cross_entropy`` the most probable label, int64 of shape
            (n_samples,); for ``binary_cross_entropy`` 0 or 1, int64; for ``poisson``
            the rate, the exponential of the output; for the others the output. All
            but the first have shape (n_samples, n_outputs), or (n_samples,) for one
            output.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(
        ...     3, [fanin.layers.Dense(2)], loss="softmax_cross_entropy", rng=0)
        >>> net.predict(np.zeros((2, 3)))
        array([0, 0])
        """
        plan = self._plan
        array = X if plan.takes(X) else check.samples(X, self.n_inputs)
        threads = _threads.resolve(n_threads)
        name = self.loss_function.name
        if name == "softmax_cross_entropy":
            return plan.pick(self._parameters, array, self._state, threads)
        Z = np.empty((array.shape[0], self.n_outputs), self.dtype)
        rates = name == "poisson"
        plan.forward(self._parameters, array, Z, self._state, rates, threads)
        if self.n_outputs == 1:
            Z = Z[:, 0]
        if name == "binary_cross_entropy":
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
        if not isinstance(
            self.loss_function, (losses.BinaryCrossEntropy, losses.SoftmaxCrossEntropy)
        ):
            raise AttributeError(
                "predict_proba needs a cross-entropy loss; this network has "
                f"{self.loss_function.name}"
            )
        array = check.samples(X, self.n_inputs)
        out = np.empty((array.shape[0], self.n_outputs), self.dtype)
        self._plan.forward(
            self._parameters, array, out, self._state, True, _threads.resolve()
        )
        return out

    # --- loss and gradient ----------------------------------------------------------

    def _batch(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        array = check.samples(X, self.n_inputs)
        if array.shape[0] == 0:
            raise ValueError("X has no rows: the mean loss is not defined")
        return array, self.loss_function.targets(y, array.shape[0], self.n_outputs)

    def _weights(
        self, sample_weight: ArrayLike | None, n_rows: int
    ) -> NDArray[np.float64] | None:
        if sample_weight is None:
            return None
        return check.sample_weights(sample_weight, n_rows)

    def _evaluate(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        out: NDArray[Any] | None,
        index: NDArray[np.intp] | None,
        n_threads: int,
        weight: NDArray[np.float64] | None = None,
        training: bool = False,
        dX: NDArray[Any] | None = None,
    ) -> float:
        """Loss of checked arrays, or of the rows that `index` picks, and gradients."""
        training = self._training(training, X.shape[0] if index is None else index.size)
        value, bad = self._plan.evaluate(
            self._parameters,
            X,
            y,
            out,
            n_threads,
            self._state,
            training,
            self._dropout_key,
            self._draw,
            weight,
            dX,
            index,
        )
        if bad >= 0:
            row = bad if index is None else int(index[bad])
            raise ValueError(self.loss_function.bad_target(y, row))
        return value

    def loss(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        training: bool = False,
        n_threads: int | None = None,
    ) -> float:
        """Return the mean loss over the samples, with the penalty `l2` if there is one.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, as `fanin.losses` says for the network's loss.
        sample_weight : array_like of shape (n_samples,), optional
            Weights of the samples, finite and not negative: the loss is the weighted
            mean, so that a weight of 2 equals a repeated row.
        training : bool, default=False
            Whether dropout drops, with the mask of the next training step, and batch
            normalization takes the batch's statistics. Nothing of the network changes.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value; the row is named.

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
        weights = self._weights(sample_weight, array.shape[0])
        threads = _threads.resolve(n_threads)
        return self._evaluate(array, targets, None, None, threads, weights, training)

    def loss_and_gradient(
        self,
        X: ArrayLike,
        y: ArrayLike,
        out: NDArray[Any] | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        training: bool = False,
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
        sample_weight : array_like of shape (n_samples,), optional
            Weights of the samples, finite and not negative: the loss is the weighted
            mean, so that a weight of 2 equals a repeated row.
        training : bool, default=False
            Whether dropout drops, with the mask of the next training step, and batch
            normalization takes the batch's statistics. Nothing of the network changes.
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
        weights = self._weights(sample_weight, array.shape[0])
        if weights is not None:
            check.no_overlap(out, weights, "sample_weight")
        threads = _threads.resolve(n_threads)
        value = self._evaluate(array, targets, out, None, threads, weights, training)
        return value, out

    def input_gradient(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        training: bool = False,
        out: NDArray[Any] | None = None,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """Return the gradient of the mean loss with respect to the input.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array_like of shape (n_samples,), optional
            Weights of the samples, finite and not negative: the loss is the weighted
            mean, so that a weight of 2 equals a repeated row.
        training : bool, default=False
            Whether dropout drops, with the mask of the next training step, and batch
            normalization takes the batch's statistics. Nothing of the network changes.
        out : ndarray of shape (n_samples, n_inputs), optional
            Where to write the result: of the network's dtype, with rows that are
            contiguous. It must not overlap `X`.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        ndarray of shape (n_samples, n_inputs)
            The gradient; `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value.

        Examples
        --------
        >>> import fanin
        >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> net.parameters = [2.0, 1.0]
        >>> net.input_gradient([[3.0]], [5.0]).tolist()
        [[8.0]]
        """
        array, targets = self._batch(X, y)
        if out is None:
            out = np.empty((array.shape[0], self.n_inputs), self.dtype)
        else:
            check.check_out(out, (array.shape[0], self.n_inputs), self.dtype)
            check.contiguous_rows(out)
            check.no_overlap(out, array, "X")
            check.no_overlap(out, targets, "y")
            check.no_overlap(out, self._parameters, "the network's parameters")
        weights = self._weights(sample_weight, array.shape[0])
        if weights is not None:
            check.no_overlap(out, weights, "sample_weight")
        threads = _threads.resolve(n_threads)
        self._evaluate(array, targets, None, None, threads, weights, training, out)
        return out

    def objective(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        training: bool = False,
        n_threads: int | None = None,
    ) -> Callable[[NDArray[Any]], tuple[float, NDArray[Any]]]:
        """Return the loss as a function of the parameters, for an optimizer.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array_like of shape (n_samples,), optional
            Weights of the samples, finite and not negative: the loss is the weighted
            mean, so that a weight of 2 equals a repeated row.
        training : bool, default=False
            Whether dropout drops, with the mask of the next training step, and batch
            normalization takes the batch's statistics. Nothing of the network changes.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for the calls of the function.

        Returns
        -------
        callable
            ``f(theta) -> (loss, gradient)`` for a vector of shape (n_parameters,), as
            ``scipy.optimize.minimize(f, theta, jac=True)`` wants it. The gradient has
            theta's dtype and is a new array each time. A contiguous theta of the
            network's dtype is read where it lies; the network's own parameters are
            neither read nor changed: set ``net.parameters = result.x`` afterwards.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value; `f` likewise.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(
        ...     1, [fanin.layers.Dense(1)], loss="squared_error", dtype=np.float64)
        >>> f = net.objective([[3.0]], [5.0])
        >>> f(np.array([2.0, 1.0]))
        (4.0, array([12.,  4.]))
        """
        array, targets = self._batch(X, y)
        weights = self._weights(sample_weight, array.shape[0])
        training = self._training(training, array.shape[0])
        threads = _threads.resolve(n_threads)

        def fun(theta: NDArray[Any]) -> tuple[float, NDArray[Any]]:
            given = check.real_array(theta, "theta")
            if given.shape != (self.n_parameters,):
                raise ValueError(
                    f"theta must have shape ({self.n_parameters},); got {given.shape}"
                )
            vector = np.require(given, self.dtype, ["C", "A"])
            gradient = np.empty(self.n_parameters, self.dtype)
            value, bad = self._plan.evaluate(
                vector,
                array,
                targets,
                gradient,
                threads,
                self._state,
                training,
                self._dropout_key,
                self._draw,
                weights,
            )
            if bad >= 0:
                raise ValueError(self.loss_function.bad_target(targets, bad))
            dtype = given.dtype if given.dtype.kind == "f" else np.float64
            return value, gradient.astype(dtype, copy=False)

        return fun

    def check_gradient(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        gradient: NDArray[Any] | None = None,
        eps: float = 1e-7,
        method: str = "increments",
        indices: Any = None,
        sample_weight: ArrayLike | None = None,
        training: bool = True,
        n_threads: int | None = None,
        rng: Any = None,
        time_limit: float | None = None,
        progress: bool = False,
        thresholds: tuple[float, float] | None = None,
    ) -> GradientReport:
        """Check the gradient against central differences of the loss, every entry.

        Every parameter is perturbed by ``h = eps * max(1, |theta_i|)`` both ways and
        the change of the loss computed in float64, in parallel and without the GIL.
        No code of the backward pass is used, and the network itself is not changed.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers. A few dozen samples are enough.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        gradient : ndarray of shape (n_parameters,), optional
            The gradient to check, in the order of `parameters`; by default the
            network's own, from `loss_and_gradient` in the network's dtype.
        eps : float, default=1e-7
            Relative size of the perturbation.
        method : {"increments", "direct"}, default="increments"
            "increments" carries the change itself through the layers, by formulas for
            f(z + d) - f(z) in which nothing cancels: it costs a small part of a pass,
            loses no digit to a small step and knows the kinks that are passed. (A
            function of the user's has no formula; its change is the difference of two
            values.) "direct" evaluates whole forward passes, twice for each parameter.
        indices : int or array_like, optional
            Which entries to check: a number of them at random, of each array a share
            like that of its size; a mask of shape (n_parameters,), or by name; or flat
            indices. By default all.
        sample_weight : array_like of shape (n_samples,), optional
            As in `loss`.
        training : bool, default=True
            Check the loss that training sees: dropout with the masks of the next step,
            batch normalization with the batch's statistics. Nothing of the network
            changes.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.
        rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
            Source of the random sample, and of the order under a time limit.
        time_limit : float, optional
            Seconds after which no further entry is taken. The entries come in a random
            order then, all arrays first, and the diagnosis says what share of faulty
            entries those that were checked would have shown.
        progress : bool, default=False
            Show a progress bar (needs tqdm).
        thresholds : (float, float), optional
            The relative errors below which a gradient is correct, and from which it
            is wrong: by default (1e-7, 1e-3), for a float32 network (1e-4, 1e-2).

        Returns
        -------
        GradientReport
            Relative error, verdict, errors by array, worst entries, what the mistake
            looks like.

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
        return check_network(
            self,
            X,
            y,
            gradient=gradient,
            eps=eps,
            method=method,
            indices=indices,
            sample_weight=sample_weight,
            training=training,
            n_threads=n_threads,
            rng=rng,
            time_limit=time_limit,
            progress=progress,
            thresholds=thresholds,
        )

    def diagnose(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        training: bool | None = None,
        feature_names: Sequence[str] | None = None,
        n_threads: int | None = None,
    ) -> SignalReport:
        """Say how signals and gradients fare through the layers, and what is wrong.

        One forward and one backward pass over the data, chunk by chunk, without the
        GIL, measure of every layer the scale of its outputs and of its gradients, the
        units that are dead or saturated, and the directions that the outputs fill. The
        verdict says in words whether signals vanish, explode or collapse, in which
        layer it starts, and what helps.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Real numbers, one row at least; some hundred are enough.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs), optional
            Targets, as `fanin.losses` says for the network's loss. Without them the
            gradient at the output is standard normal, the same each time, divided by
            n_samples: growth factors hardly depend on it.
        training : bool, optional
            Whether dropout drops, with the mask of the next training step, and batch
            normalization takes the statistics of X. By default that is so if the
            network has batch normalizations whose running statistics no training step
            has moved yet, which describe nothing, and X has two rows or more; a note of
            the report says it. Nothing of the network changes.
        feature_names : sequence of str, optional
            Names of the features; by default a data frame's columns, or "feature 0"
            and so on.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        SignalReport
            Growth factors, records by layer, problems and a verdict in words; it
            prints as a table.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value.

        See Also
        --------
        fanin.diagnose_signals : The same for a network written by hand.
        fanin.callbacks.Monitor : The same while a network trains.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(
        ...     100, [fanin.layers.Dense(100, "relu", init="lecun_normal")] * 20,
        ...     loss="squared_error", rng=0)
        >>> X = np.random.default_rng(0).standard_normal((200, 100))
        >>> report = net.diagnose(X)
        >>> round(report.forward_factor, 1)
        0.7
        >>> report.starts_at
        'dense19'
        >>> report.verdict.partition(":")[0]
        'gradients shrink by 0.71 per layer'
        """
        from fanin.diagnostics import diagnose_network

        return diagnose_network(
            self,
            X,
            y,
            training=training,
            feature_names=feature_names,
            n_threads=n_threads,
        )

    # --- training -------------------------------------------------------------------

    def train_step(
        self,
        X: ArrayLike,
        y: ArrayLike,
        optimizer: Optimizer,
        sample_weight: ArrayLike | None = None,
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
        sample_weight : array_like of shape (n_samples,), optional
            Weights of the samples, finite and not negative: the loss is the weighted
            mean, so that a weight of 2 equals a repeated row.
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
                f"got {check.what(optimizer)}"
            )
        return self._step(
            array,
            targets,
            optimizer,
            None,
            _threads.resolve(n_threads),
            "",
            self._weights(sample_weight, array.shape[0]),
        )

    def _step(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        optimizer: Optimizer,
        index: NDArray[np.intp] | None,
        n_threads: int,
        when: str,
        weight: NDArray[np.float64] | None = None,
    ) -> float:
        """`train_step` on checked arrays, or on the rows that `index` picks."""
        if self._mixes_rows:
            self._training(True, X.shape[0] if index is None else index.size)
        self._tape = None
        value, bad, taken = self._plan.step(
            self._parameters,
            self.gradient,
            X,
            y,
            optimizer._prepare(self._parameters),
            index,
            n_threads,
            optimizer,
            self._state,
            self._dropout_key,
            self._draw,
            weight,
            self,
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
        # Batch normalization needs the batch whole; a chunk's layers are all kept.
        step = rows.size if self._mixes_rows else self._plan.chunk_rows
        parts = [rows[start : start + step] for start in range(0, rows.size, step)]

        def tensors() -> Iterator[tuple[str, NDArray[Any], NDArray[np.intp] | None]]:
            for part in parts:
                yield "X", X[part], part
                yield "y", y[part], part
            for name, array in self.named_parameters().items():
                yield name, array, None
            for part in parts:
                batch = X[part]
                outputs = self._outputs_of(self._record(batch, True, 1), batch)
                for i, A in enumerate(outputs):
                    place = part if len(parts) > 1 else None
                    yield f"the output of {self.layers[i].kind}{i}", A, place
            for name, array in reversed(self.unflatten(self.gradient).items()):
                yield f"the gradient of {name}", array, None

        for name, array, part in tensors():
            finite = np.isfinite(array)
            if not finite.all():
                where = [int(k) for k in np.unravel_index(finite.argmin(), array.shape)]
                value = array[tuple(where)]
                if part is not None:  # the caller's row, not the batch's
                    where[0] = int(part[where[0]])
                return (
                    f"the first tensor that is not finite is {name}, {value} at {where}"
                )
        return "every tensor is finite, but their loss overflows"

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        optimizer: Any,
        epochs: int,
        batch_size: int | None,
        sample_weight: ArrayLike | None = None,
        class_weight: str | Mapping[int, float] | None = None,
        validation: Sequence[ArrayLike | None] | None = None,
        validation_fraction: float = 0.0,
        early_stopping: EarlyStopping | int | None = None,
        metrics: Any = (),
        training_metrics: bool = False,
        callbacks: Any = (),
        shuffle: bool = True,
        progress: bool = False,
        time_limit: float | None = None,
        on_divergence: str = "raise",
        resume: History | None = None,
        rng: Any = None,
        n_threads: int | None = None,
    ) -> History:
        """Train on batches, from the parameters as they are.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_inputs)
            Samples. Batches are gathered row by row by the kernel, in a new order
            each epoch: the array is never copied, and may be a memory map larger
            than memory. The order takes 8 bytes a sample.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        optimizer : Optimizer
            Continues from its state if it has trained this network before. One with
            a method `minimize`, such as L-BFGS, gets all samples at once.
        epochs : int
            Passes over the samples in all, >= 0, those of `resume` included; with
            L-BFGS, iterations.
        batch_size : int or None
            Samples a step, >= 1; an epoch's last batch may be smaller (one of a
            single sample is passed over where batch normalization needs more). None
            takes all samples in one batch, and is what L-BFGS needs.
        sample_weight : array_like of shape (n_samples,), optional
            How much each sample counts, >= 0: a weight of 2 equals the sample twice
            in its batch. A batch's loss is divided by the sum of its weights; a batch
            without any is passed over.
        class_weight : "balanced" or dict of int to float, optional
            Weight by label, times `sample_weight`. "balanced" gives class c the
            weight ``n_samples / (n_classes * n_samples_of_c)`` (King & Zeng 2001);
            labels that a dict lacks get 1. For integer or one-hot labels and for
            labels 0 and 1 of a single logit.
        validation : (X, y) or (X, y, sample_weight), optional
            Evaluated after each epoch. Its loss and its metrics are weighted means by
            the weights given here and by nothing else: not by `class_weight`.
        validation_fraction : float, default=0.0
            Part of the samples to hold out for validation instead, in [0, 1), drawn
            with `rng`; the same part of each class where samples have one label. The
            samples keep their weights: `sample_weight` counts in the validation loss
            and in metrics, `class_weight` in the loss.
        early_stopping : fanin.callbacks.EarlyStopping, int or True, optional
            When to stop, and whether to restore the best parameters. An integer is
            its patience, True its defaults.
        metrics : str, callable, sequence of them, or dict of str to them
            What to compute after each epoch on the validation data: "accuracy" and
            "balanced_accuracy" for cross-entropies; "r2", "mean_absolute_error",
            "mean_squared_error" and "root_mean_squared_error" for other losses; or
            a function ``(y_true, prediction) -> float`` of the targets and what
            `predict` returns. If it has a parameter `sample_weight` whose default is
            None or nothing, as the metrics of scikit-learn have, it gets the weights in
            that, or None where there are none.
        training_metrics : bool, default=False
            Whether to compute the metrics on the training data, too, with
            `sample_weight`. This costs a forward pass over all of it after each epoch.
        callbacks : callable, fanin.callbacks.Callback or sequence of them
            Called after each epoch (a plain function) or batch, with a
            `fanin.callbacks.TrainingState`; one that returns True ends training.
        shuffle : bool, default=True
            Whether to draw a new order of the samples for each epoch; otherwise they
            are taken as they lie.
        progress : bool, default=False
            Show a progress bar (needs tqdm).
        time_limit : float, optional
            Seconds after which training ends, looked at after each batch.
        on_divergence : {"raise", "stop"}, default="raise"
            Whether training that diverges raises, or ends with a warning.
        resume : History, optional
            Of an earlier `fit`, which is continued as if it had not ended: with the
            same data and options, this network and its optimizer (or copies or
            pickles of all three) 5 epochs and 5 more give the bits of 10, given the
            same `n_threads`.
        rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
            Source of the order of samples; None takes fresh entropy. Not to be given
            with `resume`.
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Returns
        -------
        History
            Losses, metrics and times, epoch by epoch, and why training ended.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value. All targets are checked
            before the first step.
        FloatingPointError
            If training diverges: the message names the epoch, the batch and the
            first tensor that is not finite.
        ImportError
            If `progress` is asked for and tqdm is not installed.

        Warns
        -----
        RuntimeWarning
            If Ctrl-C or, with ``on_divergence="stop"``, divergence ended training.

        Notes
        -----
        Ctrl-C ends training and returns its history; the network holds the
        parameters of the last whole step, or the best ones if early stopping restores
        them. A script that should end as well looks at `History.stopped`.

        After divergence the network holds the last finite parameters: those before
        the step that failed, or, where an update itself overflowed, those after the
        last whole epoch. The optimizer is not taken back in that case.

        A copy of the parameters is kept for this, and one for early stopping.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((200, 3))
        >>> y = X @ [1.0, -2.0, 0.5]
        >>> net = fanin.Network(3, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> adam = fanin.optimizers.Adam(0.05)
        >>> history = net.fit(X, y, optimizer=adam, epochs=30, batch_size=20, rng=0)
        >>> bool(history.loss[-1] < 1e-3)
        True
        >>> history = net.fit(
        ...     X, y, optimizer=adam, epochs=40, batch_size=20, resume=history)
        >>> len(history.loss)
        40
        """
        return _training.fit(
            self,
            X,
            y,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            sample_weight=sample_weight,
            class_weight=class_weight,
            validation=validation,
            validation_fraction=validation_fraction,
            early_stopping=early_stopping,
            metrics=metrics,
            training_metrics=training_metrics,
            callbacks=callbacks,
            shuffle=shuffle,
            progress=progress,
            time_limit=time_limit,
            on_divergence=on_divergence,
            resume=resume,
            rng=rng,
            n_threads=n_threads,
        )
