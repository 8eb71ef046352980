"""Optimizers: how a gradient changes the parameters."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _threads
from fanin import _validation as check
from fanin._kernels import _optimizers

__all__ = ["LBFGS", "SGD", "Adam", "AdamW", "Optimizer", "RMSProp"]

# A learning rate, or what gives one for the number of steps taken so far.
Rate: TypeAlias = float | Callable[[int], float]

# About the square root of the smallest normal number: below it, sqrt(v) has lost what
# m still holds, and their quotient would be anything.
SMALLEST_EPSILON = {np.dtype(np.float32): 1e-18, np.dtype(np.float64): 1e-150}


class Optimizer:
    """What optimizers share: the state that belongs to one parameter vector.

    The state (velocity, moments, number of steps) is made at the first step and
    belongs to the parameters it was made for. Using the optimizer for others is an
    error until :meth:`reset` is called. Pickling and copying keep the state, and so do
    `state_dict` and `load_state_dict`: training continues to the last bit.

    Parameters
    ----------
    learning_rate : float or callable, default=0.001
        Step size, > 0, or a schedule.
    clip_norm, clip_value : float, optional
        Bounds of the gradient's norm and of its entries.

    Attributes
    ----------
    n_steps : int
        Steps taken since construction or :meth:`reset`.
    """

    _slots: tuple[str, ...] = ()
    # Averages of squares, whose root is taken.
    _not_negative: tuple[str, ...] = ()

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.clip_norm = _positive_or_none(clip_norm, "clip_norm")
        self.clip_value = _positive_or_none(clip_value, "clip_value")
        self.n_steps = 0
        self._state: dict[str, NDArray[Any]] = {}
        self._owner: weakref.ref[NDArray[Any]] | None = None

    @property
    def learning_rate(self) -> Rate:
        """The step size, or the schedule that gives it; may be set between steps."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Rate) -> None:
        if not callable(value):
            value = check.real(value, "learning_rate", minimum=0.0, open_minimum=True)
        self._learning_rate: Rate = value

    def current_rate(self) -> float:
        """Return the learning rate of the next step.

        Returns
        -------
        float
            `learning_rate`, or what it gives as a schedule for `n_steps`.

        Raises
        ------
        TypeError, ValueError
            If a schedule gives what is not a finite number >= 0.

        Examples
        --------
        >>> import fanin
        >>> schedule = fanin.schedules.CosineDecay(0.1, n_steps=1000)
        >>> fanin.optimizers.SGD(schedule).current_rate()
        0.1
        """
        rate = self._learning_rate
        if not callable(rate):
            return rate
        return check.real(
            rate(self.n_steps), f"learning_rate({self.n_steps})", minimum=0.0
        )

    def _options(self) -> dict[str, Any]:
        """Return the settings of a subclass, by name, for `repr`."""
        return {}

    def __repr__(self) -> str:
        options = {"learning_rate": self.learning_rate, **self._options()}
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        text = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return f"{type(self).__name__}({text})"

    def reset(self) -> None:
        """Forget velocity, moments and the number of steps taken.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> optimizer = fanin.optimizers.Adam()
        >>> optimizer.update(np.ones(3), np.ones(3))
        >>> optimizer.reset()
        >>> optimizer.n_steps
        0
        """
        self.n_steps = 0
        self._state = {}
        self._owner = None

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state: numbers and NumPy arrays by name.

        Returns
        -------
        dict of str to int or ndarray
            ``"n_steps"`` and, once a step has been taken, a vector of the parameters'
            size and dtype for each array that the optimizer keeps. Settings, such as
            the learning rate, are not in it: they are the constructor's.

        See Also
        --------
        Optimizer.load_state_dict : Continue from it.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> optimizer = fanin.optimizers.SGD(0.1, momentum=0.9)
        >>> optimizer.update(np.zeros(2), np.array([1.0, -1.0]))
        >>> optimizer.state_dict()
        {'n_steps': 1, 'velocity': array([ 1., -1.])}
        """
        arrays = {name: array.copy() for name, array in self._state.items()}
        return {"n_steps": self.n_steps, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Parameters
        ----------
        state : mapping of str to int or ndarray
            Its arrays are copied. The next parameters of their size and dtype that the
            optimizer is used on are taken for those it belongs to.

        Raises
        ------
        TypeError, ValueError
            If `state` is not one of this kind of optimizer with these settings. The
            optimizer is then as it was.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> before = fanin.optimizers.Adam()
        >>> before.update(np.ones(3), np.ones(3))
        >>> after = fanin.optimizers.Adam()
        >>> after.load_state_dict(before.state_dict())
        >>> after.n_steps
        1
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"state must be a mapping, from state_dict(); "
                f"got {type(state).__name__}"
            )
        if "n_steps" not in state:
            raise ValueError("state has no n_steps: it is not one of state_dict()")
        n_steps = check.integer(
            state["n_steps"], "state['n_steps']", minimum=0, maximum=2**63 - 1
        )
        names = set(state) - {"n_steps"}
        wanted = set(self._slots_in_use())
        if names != wanted and (names or n_steps):
            listed = ", ".join(sorted(names)) or "none"
            raise ValueError(
                f"the state of this {type(self).__name__} has the arrays "
                f"{', '.join(sorted(wanted)) or 'none'}; got {listed}"
            )
        arrays: dict[str, NDArray[Any]] = {}
        for name in (slot for slot in self._slots if slot in names):
            array = check.vector(np.asarray(state[name]), f"state[{name!r}]")
            first = next(iter(arrays.values()), array)
            if array.shape != first.shape or array.dtype != first.dtype:
                raise ValueError(
                    f"the arrays of a state must be of one size and dtype; got "
                    f"{first.size} of {first.dtype} and {array.size} of {array.dtype}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"state[{name!r}] has entries that are not finite")
            if name in self._not_negative:
                check.not_negative(array, f"state[{name!r}]")
            arrays[name] = array
        self.n_steps = n_steps
        self._state = {name: array.copy() for name, array in arrays.items()}
        self._owner = None

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference cannot be pickled; the copy adopts the first parameters
        # of the right size that it is used on. It has arrays of its own, also where
        # a pickle's buffers are shared or read-only.
        state = {name: array.copy() for name, array in self._state.items()}
        return self.__dict__ | {"_owner": None, "_state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = {name: check.owned(array) for name, array in self._state.items()}

    def _bind(self, theta: NDArray[Any]) -> None:
        """Make the state for `theta`, or check that it is theirs."""
        if not theta.flags.writeable:
            raise ValueError("the parameters are read-only")
        slots = self._slots_in_use()
        if self.n_steps == 0 or set(self._state) != set(slots):
            # Nothing learned yet, or an option was changed that needs other arrays.
            kept = self._state if self.n_steps else {}
            self._state = {name: kept.get(name, np.zeros_like(theta)) for name in slots}
            self._owner = self._owner if self.n_steps else weakref.ref(theta)
        if self._owner is not None and self._owner() is theta:
            return
        for array in self._state.values():
            if array.shape != theta.shape or array.dtype != theta.dtype:
                raise ValueError(
                    f"this {type(self).__name__} holds the state of {array.size} "
                    f"{array.dtype} parameters; got {theta.size} of {theta.dtype}. "
                    "Make a new optimizer or call reset()"
                )
        if self._owner is not None:
            raise ValueError(
                f"this {type(self).__name__} holds the state of another parameter "
                "vector. Make a new optimizer or call reset()"
            )
        self._owner = weakref.ref(theta)

    def _slots_in_use(self) -> tuple[str, ...]:
        return self._slots

    def _prepare(self, theta: NDArray[Any]) -> tuple[Any, ...]:
        """Return the numbers of the next step for the kernel; nothing changes yet.

        They are (kind, rate, beta_1, beta_2, correction_2, epsilon, keep, max_norm,
        max_value, first, second, third), as `fanin._kernels._optimizers` reads them.
        """
        raise TypeError("use a subclass of Optimizer, such as SGD or Adam")

    def update(
        self,
        parameters: NDArray[Any],
        gradient: NDArray[Any],
        decay_mask: ArrayLike | None = None,
        *,
        n_threads: int | None = None,
    ) -> None:
        """Take one step: change `parameters` in place along `gradient`.

        Parameters
        ----------
        parameters : ndarray of shape (n,)
            A contiguous float32 or float64 vector; changed in place.
        gradient : ndarray of shape (n,)
            Of the same dtype; read only.
        decay_mask : array_like of bool of shape (n,), optional
            Which parameters decay, if the optimizer has a weight decay; by default
            all. (A network says which: its weight matrices.)
        n_threads : int, optional
            Overrides `fanin.set_num_threads` for this call.

        Raises
        ------
        TypeError, ValueError
            If the arrays do not fit each other or the optimizer's state.
        FloatingPointError
            If the gradient is not finite; parameters and state are as they were.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> theta = np.array([1.0, -2.0])
        >>> fanin.optimizers.SGD(learning_rate=0.5).update(theta, np.array([1.0, 1.0]))
        >>> theta
        array([ 0.5, -2.5])
        """
        check.vector(parameters, "parameters", writeable=True)
        check.vector(gradient, "gradient", parameters.size, parameters.dtype)
        check.no_overlap(parameters, gradient, "gradient", "parameters")
        stretches = None
        if decay_mask is not None:
            stretches = _stretches(decay_mask, parameters.size)
        threads = _threads.resolve(n_threads)
        numbers = self._prepare(parameters)
        if not _optimizers.update(
            parameters, gradient, numbers, stretches, threads, self
        ):
            at = int(np.isfinite(gradient).argmin())
            raise FloatingPointError(
                f"the gradient is not finite: {gradient[at]} at [{at}]"
            )


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    ``u = momentum * u + gradient``; ``theta -= learning_rate * u`` (Polyak 1964), or
    with Nesterov's look-ahead ``theta -= learning_rate * (gradient + momentum * u)``
    (Sutskever, Martens, Dahl & Hinton, ICML 2013), both in PyTorch's form.

    Parameters
    ----------
    learning_rate : float or callable, default=0.01
        Step size, > 0, or a schedule: a function of the number of steps taken so far
        that returns the step size; see `fanin.schedules`.
    momentum : float, default=0.0
        In [0, 1).
    nesterov : bool, default=False
        Whether to use Nesterov's form; needs momentum > 0.
    clip_norm : float, optional
        If the Euclidean norm of the whole gradient exceeds this, the gradient is
        multiplied by ``clip_norm / (norm + 1e-6)`` (Pascanu, Mikolov & Bengio, ICML
        2013; PyTorch's ``clip_grad_norm_``).
    clip_value : float, optional
        Entries of the gradient are then cut off at this absolute value.

    Attributes
    ----------
    n_steps : int
        Steps taken since construction or :meth:`~Optimizer.reset`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    """

    _slots: tuple[str, ...] = ("velocity",)

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, clip_norm=clip_norm, clip_value=clip_value)
        self.momentum = _decay(momentum, "momentum")
        self.nesterov = _flag(nesterov, "nesterov")
        if nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=True needs momentum > 0")

    def _options(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "nesterov": self.nesterov}

    def _slots_in_use(self) -> tuple[str, ...]:
        return self._slots if self.momentum else ()

    def _prepare(self, theta: NDArray[Any]) -> tuple[Any, ...]:
        self._bind(theta)
        return (
            "nesterov" if self.nesterov else "sgd",
            self.current_rate(),
            self.momentum,
            0.0,
            1.0,
            0.0,
            1.0,
            self.clip_norm,
            self.clip_value,
            self._state.get("velocity"),
            None,
            None,
        )


class RMSProp(Optimizer):
    """RMSProp: the gradient divided by a running root of its mean square.

    ``v = alpha * v + (1 - alpha) * g**2``; ``d = g / (sqrt(v) + epsilon)``;
    ``theta -= learning_rate * d``, or with momentum ``u = momentum * u + d``;
    ``theta -= learning_rate * u`` (Tieleman & Hinton 2012, in PyTorch's form).
    Centered, ``v - m**2`` takes the place of v in the root, with
    ``m = alpha * m + (1 - alpha) * g``: the variance of the gradient (Graves 2013).

    Parameters
    ----------
    learning_rate : float or callable, default=0.01
        Step size, > 0, or a schedule: a function of the number of steps taken so far
        that returns the step size; see `fanin.schedules`.
    alpha : float, default=0.99
        Decay of the mean square, in [0, 1).
    epsilon : float, default=1e-8
        Added to the denominator, > 0.
    momentum : float, default=0.0
        In [0, 1).
    centered : bool, default=False
        Whether to divide by the standard deviation. Where a gradient hardly varies it
        is nearly zero, and the steps are large. (By rounding, the variance may come
        out negative; it is then taken as 0, where PyTorch gets NaN.)
    clip_norm : float, optional
        If the Euclidean norm of the whole gradient exceeds this, the gradient is
        multiplied by ``clip_norm / (norm + 1e-6)``.
    clip_value : float, optional
        Entries of the gradient are then cut off at this absolute value.

    Attributes
    ----------
    n_steps : int
        Steps taken since construction or :meth:`~Optimizer.reset`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.optimizers.RMSProp(0.001, momentum=0.9).alpha
    0.99
    """

    _slots = ("velocity", "square", "mean")
    _not_negative = ("square",)

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        *,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, clip_norm=clip_norm, clip_value=clip_value)
        self.alpha = _decay(alpha, "alpha")
        self.epsilon = check.real(epsilon, "epsilon", minimum=0.0, open_minimum=True)
        self.momentum = _decay(momentum, "momentum")
        self.centered = _flag(centered, "centered")

    def _options(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "epsilon": self.epsilon,
            "momentum": self.momentum,
            "centered": self.centered,
        }

    def _slots_in_use(self) -> tuple[str, ...]:
        unused = set()
        if not self.momentum:
            unused.add("velocity")
        if not self.centered:
            unused.add("mean")
        return tuple(slot for slot in self._slots if slot not in unused)

    def _prepare(self, theta: NDArray[Any]) -> tuple[Any, ...]:
        self._bind(theta)
        return (
            "rmsprop",
            self.current_rate(),
            self.momentum,
            self.alpha,
            1.0,
            _large_enough(self.epsilon, theta.dtype),
            1.0,
            self.clip_norm,
            self.clip_value,
            self._state.get("velocity"),
            self._state["square"],
            self._state.get("mean"),
        )


class Adam(Optimizer):
    """Adam: steps scaled by running moments of the gradient.

    ``m = beta_1 m + (1 - beta_1) g``, ``v = beta_2 v + (1 - beta_2) g**2``,
    ``theta -= learning_rate * m_hat / (sqrt(v_hat) + epsilon)`` with
    ``m_hat = m / (1 - beta_1**t)`` and ``v_hat = v / (1 - beta_2**t)`` at step t
    (Kingma & Ba, ICLR 2015, algorithm 1).

    Parameters
    ----------
    learning_rate : float or callable, default=0.001
        Step size, > 0, or a schedule: a function of the number of steps taken so far
        that returns the step size; see `fanin.schedules`.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay of the first and second moment, in [0, 1).
    epsilon : float, default=1e-8
        Added to the denominator, > 0.
    amsgrad : bool, default=False
        Whether the greatest ``v`` so far takes the place of ``v`` (Reddi, Kale &
        Kumar, ICLR 2018, in PyTorch's form).
    clip_norm : float, optional
        If the Euclidean norm of the whole gradient exceeds this, the gradient is
        multiplied by ``clip_norm / (norm + 1e-6)``.
    clip_value : float, optional
        Entries of the gradient are then cut off at this absolute value.

    Attributes
    ----------
    n_steps : int
        Steps taken since construction or :meth:`~Optimizer.reset`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.optimizers.Adam(0.002)
    Adam(learning_rate=0.002, beta_1=0.9, beta_2=0.999, epsilon=1e-08, amsgrad=False)
    """

    _slots = ("first", "second", "greatest")
    _not_negative = ("second", "greatest")
    weight_decay = 0.0

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        amsgrad: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, clip_norm=clip_norm, clip_value=clip_value)
        self.beta_1 = _decay(beta_1, "beta_1")
        self.beta_2 = _decay(beta_2, "beta_2")
        self.epsilon = check.real(epsilon, "epsilon", minimum=0.0, open_minimum=True)
        self.amsgrad = _flag(amsgrad, "amsgrad")

    def _options(self) -> dict[str, Any]:
        return {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "amsgrad": self.amsgrad,
        }

    def _slots_in_use(self) -> tuple[str, ...]:
        return self._slots if self.amsgrad else self._slots[:2]

    def _prepare(self, theta: NDArray[Any]) -> tuple[Any, ...]:
        self._bind(theta)
        t = self.n_steps + 1
        rate = self.current_rate()
        return (
            "adam",
            rate / (1.0 - self.beta_1**t),
            self.beta_1,
            self.beta_2,
            math.sqrt(1.0 - self.beta_2**t),
            _large_enough(self.epsilon, theta.dtype),
            1.0 - rate * self.weight_decay,
            self.clip_norm,
            self.clip_value,
            self._state["first"],
            self._state["second"],
            self._state.get("greatest"),
        )


class AdamW(Adam):
    """Adam with decoupled weight decay.

    ``theta = (1 - learning_rate * weight_decay) * theta - step``, where ``step`` is
    that of :class:`Adam` (Loshchilov & Hutter, ICLR 2019, in PyTorch's form). A network
    lets its weight matrices decay, and neither biases nor the scales and shifts of
    normalization layers; :meth:`~Optimizer.update` takes a mask.

    Parameters
    ----------
    learning_rate : float or callable, default=0.001
        Step size, > 0, or a schedule: a function of the number of steps taken so far
        that returns the step size; see `fanin.schedules`.
    weight_decay : float, default=0.01
        What a weight loses a step, as a part of itself and in units of the learning
        rate; >= 0.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay of the first and second moment, in [0, 1).
    epsilon : float, default=1e-8
        Added to the denominator, > 0.
    amsgrad : bool, default=False
        Whether the greatest ``v`` so far takes the place of ``v``.
    clip_norm : float, optional
        If the Euclidean norm of the whole gradient exceeds this, the gradient is
        multiplied by ``clip_norm / (norm + 1e-6)``.
    clip_value : float, optional
        Entries of the gradient are then cut off at this absolute value.

    Attributes
    ----------
    n_steps : int
        Steps taken since construction or :meth:`~Optimizer.reset`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> theta = np.array([1.0, 1.0])
    >>> adam = fanin.optimizers.AdamW(0.1, weight_decay=0.5)
    >>> adam.update(theta, np.zeros(2), decay_mask=[True, False])
    >>> theta
    array([0.95, 1.  ])
    """

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        amsgrad: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            clip_norm=clip_norm,
            clip_value=clip_value,
        )
        self.weight_decay = check.real(weight_decay, "weight_decay", minimum=0.0)

    def _options(self) -> dict[str, Any]:
        return {"weight_decay": self.weight_decay, **super()._options()}


class LBFGS(Optimizer):
    """Limited-memory BFGS on all samples at once, by SciPy.

    A quasi-Newton method (Liu & Nocedal 1989; L-BFGS-B of Byrd, Lu, Nocedal & Zhu
    1995, without bounds): each iteration moves along an approximation of the Newton
    direction that is built from the last `history_size` changes of the gradient, as far
    as a line search finds good. It takes no learning rate, and it needs the whole data:
    `Network.fit` gives it all samples as one batch, and an epoch is an iteration. On
    small data and smooth activations it converges in few iterations. It works in
    float64; a float32 network limits how closely it can approach a minimum. A trial of
    the line search at which loss or gradient is not finite counts as one that went too
    far.

    Needs SciPy: ``pip install "fanin[scipy]"``.

    Parameters
    ----------
    max_iter : int, default=15000
        Iterations of a call of `minimize`, >= 1; `Network.fit` ends it after its
        epochs.
    max_eval : int, default=15000
        Evaluations of loss and gradient, >= 1; more by those of the last iteration.
    tolerance_grad : float, default=1e-5
        Ends when no entry of the gradient exceeds this (SciPy's ``gtol``); >= 0.
    tolerance_change : float, default=2.2e-9
        Ends when an iteration improves the loss f by less than this times
        ``max(|f_before|, |f_after|, 1)`` (SciPy's ``ftol``); >= 0.
    history_size : int, default=10
        Changes of the gradient that are kept (SciPy's ``maxcor``), >= 1.

    Attributes
    ----------
    n_steps : int
        Iterations since construction or :meth:`~Optimizer.reset`. The history is not
        kept between calls: each starts along the gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> theta = np.array([3.0, -1.0])
    >>> result = fanin.optimizers.LBFGS().minimize(
    ...     lambda x: (((x - [1.0, 2.0]) ** 2).sum(), 2 * (x - [1.0, 2.0])), theta)
    >>> theta.round(6)
    array([1., 2.])
    """

    def __init__(
        self,
        *,
        max_iter: int = 15_000,
        max_eval: int = 15_000,
        tolerance_grad: float = 1e-5,
        tolerance_change: float = 2.2e-9,
        history_size: int = 10,
    ) -> None:
        self.reset()  # there is no learning rate
        self.max_iter = check.integer(max_iter, "max_iter", minimum=1)
        self.max_eval = check.integer(max_eval, "max_eval", minimum=1)
        self.tolerance_grad = check.real(tolerance_grad, "tolerance_grad", minimum=0.0)
        self.tolerance_change = check.real(
            tolerance_change, "tolerance_change", minimum=0.0
        )
        self.history_size = check.integer(history_size, "history_size", minimum=1)

    def __repr__(self) -> str:
        return (
            f"LBFGS(max_iter={self.max_iter}, max_eval={self.max_eval}, "
            f"tolerance_grad={self.tolerance_grad}, "
            f"tolerance_change={self.tolerance_change}, "
            f"history_size={self.history_size})"
        )

    def _prepare(self, theta: NDArray[Any]) -> tuple[Any, ...]:
        raise TypeError(
            "LBFGS takes no single steps: it needs the loss of all samples. "
            "Use Network.fit, or LBFGS.minimize"
        )

    def minimize(
        self,
        fun_and_grad: Callable[[NDArray[Any]], tuple[float, NDArray[Any]]],
        theta: NDArray[Any],
        callback: Callable[[NDArray[Any]], object] | None = None,
    ) -> Any:
        """Minimize a function of a parameter vector, in place.

        Parameters
        ----------
        fun_and_grad : callable
            ``fun_and_grad(theta) -> (loss, gradient)``, for a vector of the dtype of
            `theta` that is not `theta` itself and must not be kept or changed.
        theta : ndarray of shape (n,)
            Where to start: a contiguous float32 or float64 vector. It holds the
            point of the last iteration, also when an exception ends the call.
        callback : callable, optional
            ``callback(theta)``, called after every iteration, when `theta` holds its
            point and `n_steps` has counted it. If it raises `StopIteration`, the call
            ends.

        Returns
        -------
        scipy.optimize.OptimizeResult
            With ``fun`` (the loss), ``nit`` (iterations), ``nfev`` (evaluations),
            ``success`` (whether a tolerance was met) and ``message``.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        FloatingPointError
            If loss or gradient is not finite where it starts.
        ImportError
            If SciPy is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> sizes = []
        >>> result = fanin.optimizers.LBFGS().minimize(
        ...     lambda x: ((x**4).sum(), 4 * x**3), np.ones(2),
        ...     callback=lambda theta: sizes.append(abs(theta).max()))
        >>> len(sizes) == result.nit, bool(sizes[-1] < 0.1)
        (True, True)
        """
        try:
            from scipy.optimize import minimize
        except ImportError as error:
            raise ImportError(
                'LBFGS needs SciPy: pip install "fanin[scipy]"'
            ) from error
        check.vector(theta, "theta", writeable=True)
        shape, dtype = theta.shape, theta.dtype
        last: tuple[NDArray[np.float64], float, NDArray[np.float64]] | None = None
        accepted = last  # the point of the last iteration: x, loss, gradient

        def evaluate(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            nonlocal accepted, last
            # A copy: SciPy works in its vector, and a caller may keep what it got.
            value, gradient = fun_and_grad(x.astype(dtype))
            value = float(value)
            gradient = np.array(gradient, dtype=np.float64)
            if gradient.shape != shape:
                raise ValueError(
                    f"fun_and_grad must return a gradient of shape {shape}; "
                    f"got {gradient.shape}"
                )
            if math.isfinite(value) and np.isfinite(gradient).all():
                last = (x.copy(), value, gradient)
                accepted = accepted or last
                return value, gradient
            if accepted is None:
                what = "gradient" if math.isfinite(value) else f"loss, {value},"
                raise FloatingPointError(f"the {what} is not finite where LBFGS starts")
            # What the line search would make of a NaN is anything. With the slope
            # behind it mirrored it interpolates, to a quarter or half of the step.
            start, value, gradient = accepted
            return value + abs(float(gradient @ (x - start))), -gradient

        def iterated(intermediate_result: Any) -> None:
            nonlocal accepted
            accepted = last
            theta[...] = intermediate_result.x
            self.n_steps += 1
            if callback is not None:
                callback(theta)

        return minimize(
            evaluate,
            theta.astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=iterated,
            options={
                "maxiter": self.max_iter,
                "maxfun": self.max_eval,
                "gtol": self.tolerance_grad,
                "ftol": self.tolerance_change,
                "maxcor": self.history_size,
            },
        )


def _stretches(mask: ArrayLike, n: int) -> NDArray[np.intp]:
    """Return the stretches [start, stop) of true entries, one a row."""
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(f"decay_mask must be of bool; got dtype {array.dtype}")
    if array.shape != (n,):
        raise ValueError(f"decay_mask must be of shape ({n},); got {array.shape}")
    changes = np.diff(array, prepend=False, append=False)
    return np.flatnonzero(changes).astype(np.intp, copy=False).reshape(-1, 2)


def _decay(value: Any, name: str) -> float:
    return check.real(value, name, minimum=0.0, maximum=1.0, open_maximum=True)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return value


def _positive_or_none(value: Any, name: str) -> float | None:
    if value is None:
        return None
    return check.real(value, name, minimum=0.0, open_minimum=True)


def _large_enough(epsilon: float, dtype: np.dtype[Any]) -> float:
    least = SMALLEST_EPSILON[dtype]
    if epsilon < least:
        raise ValueError(
            f"epsilon must be at least {least:g} for {dtype} parameters, "
            f"whose squared gradients underflow; got {epsilon:g}"
        )
    return epsilon
