"""Optimizers: how a gradient changes the parameters."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin import _validation as check
from fanin._kernels import _optimizers

__all__ = ["SGD", "Adam", "Optimizer"]

# About the square root of the smallest normal number: below it, sqrt(v) has lost what
# m still holds, and their quotient would be anything.
SMALLEST_EPSILON = {np.dtype(np.float32): 1e-18, np.dtype(np.float64): 1e-150}


class Optimizer:
    """What optimizers share: the state that belongs to one parameter vector.

    The state (velocity, moments, number of steps) is made at the first step and
    belongs to the parameters it was made for. Using the optimizer for others is an
    error until :meth:`reset` is called.
    """

    _slots: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.n_steps = 0
        self._state: dict[str, NDArray[Any]] = {}
        self._owner: weakref.ref[NDArray[Any]] | None = None

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
        """Return the numbers of the next step for the kernel; nothing changes yet."""
        raise TypeError("use a subclass of Optimizer, such as SGD or Adam")

    def update(self, parameters: NDArray[Any], gradient: NDArray[Any]) -> None:
        """Take one step: change `parameters` in place along `gradient`.

        Parameters
        ----------
        parameters : ndarray of shape (n,)
            A contiguous float32 or float64 vector; changed in place.
        gradient : ndarray of shape (n,)
            Of the same dtype; read only.

        Raises
        ------
        TypeError, ValueError
            If the arrays do not fit each other or the optimizer's state.

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
        self._apply(parameters, gradient, self._prepare(parameters))

    def _apply(
        self,
        theta: NDArray[Any],
        gradient: NDArray[Any],
        update: tuple[Any, ...],
    ) -> None:
        raise TypeError("use a subclass of Optimizer, such as SGD or Adam")


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    ``u = momentum * u + gradient``; ``theta -= learning_rate * u``, or with
    Nesterov's look-ahead ``theta -= learning_rate * (gradient + momentum * u)``
    (Sutskever, Martens, Dahl & Hinton, ICML 2013, in PyTorch's form).

    Parameters
    ----------
    learning_rate : float, default=0.01
        Step size, > 0.
    momentum : float, default=0.0
        In [0, 1).
    nesterov : bool, default=False
        Whether to use Nesterov's form; needs momentum > 0.

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
        learning_rate: float = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__()
        self.learning_rate = check.real(
            learning_rate, "learning_rate", minimum=0.0, open_minimum=True
        )
        self.momentum = check.real(
            momentum, "momentum", minimum=0.0, maximum=1.0, open_maximum=True
        )
        if not isinstance(nesterov, bool):
            raise TypeError(f"nesterov must be True or False; got {nesterov!r}")
        if nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=True needs momentum > 0")
        self.nesterov = nesterov

    def __repr__(self) -> str:
        return (
            f"SGD(learning_rate={self.learning_rate}, momentum={self.momentum}, "
            f"nesterov={self.nesterov})"
        )

    def _slots_in_use(self) -> tuple[str, ...]:
        return self._slots if self.momentum else ()

    def _prepare(self, theta: NDArray[Any]) -> tuple[Any, ...]:
        self._bind(theta)
        velocity = self._state.get("velocity")
        return (
            "sgd",
            self.learning_rate,
            self.momentum,
            0.0,
            1.0,
            0.0,
            self.nesterov,
            velocity,
            None,
        )

    def _apply(
        self, theta: NDArray[Any], gradient: NDArray[Any], update: tuple[Any, ...]
    ) -> None:
        _optimizers.sgd_update(
            theta,
            gradient,
            self._state.get("velocity"),
            self.learning_rate,
            self.momentum,
            self.nesterov,
            self,
        )


class Adam(Optimizer):
    """Adam: steps scaled by running moments of the gradient.

    ``m = beta_1 m + (1 - beta_1) g``, ``v = beta_2 v + (1 - beta_2) g**2``,
    ``theta -= learning_rate * m_hat / (sqrt(v_hat) + epsilon)`` with
    ``m_hat = m / (1 - beta_1**t)`` and ``v_hat = v / (1 - beta_2**t)`` at step t
    (Kingma & Ba, ICLR 2015, algorithm 1).

    Parameters
    ----------
    learning_rate : float, default=0.001
        Step size, > 0.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay of the first and second moment, in [0, 1).
    epsilon : float, default=1e-8
        Added to the denominator, > 0.

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
    Adam(learning_rate=0.002, beta_1=0.9, beta_2=0.999, epsilon=1e-08)
    """

    _slots = ("first", "second")

    def __init__(
        self,
        learning_rate: float = 0.001,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__()
        self.learning_rate = check.real(
            learning_rate, "learning_rate", minimum=0.0, open_minimum=True
        )
        self.beta_1 = check.real(
            beta_1, "beta_1", minimum=0.0, maximum=1.0, open_maximum=True
        )
        self.beta_2 = check.real(
            beta_2, "beta_2", minimum=0.0, maximum=1.0, open_maximum=True
        )
        self.epsilon = check.real(epsilon, "epsilon", minimum=0.0, open_minimum=True)

    def __repr__(self) -> str:
        return (
            f"Adam(learning_rate={self.learning_rate}, beta_1={self.beta_1}, "
            f"beta_2={self.beta_2}, epsilon={self.epsilon})"
        )

    def _prepare(self, theta: NDArray[Any]) -> tuple[Any, ...]:
        self._bind(theta)
        least = SMALLEST_EPSILON[theta.dtype]
        if self.epsilon < least:
            raise ValueError(
                f"epsilon must be at least {least:g} for {theta.dtype} parameters, "
                f"whose squared gradients underflow; got {self.epsilon:g}"
            )
        t = self.n_steps + 1
        return (
            "adam",
            self.learning_rate / (1.0 - self.beta_1**t),
            self.beta_1,
            self.beta_2,
            math.sqrt(1.0 - self.beta_2**t),
            self.epsilon,
            False,
            self._state["first"],
            self._state["second"],
        )

    def _apply(
        self, theta: NDArray[Any], gradient: NDArray[Any], update: tuple[Any, ...]
    ) -> None:
        _, step, beta_1, beta_2, correction_2, epsilon, _, first, second = update
        _optimizers.adam_update(
            theta,
            gradient,
            first,
            second,
            step,
            beta_1,
            beta_2,
            correction_2,
            epsilon,
            self,
        )
