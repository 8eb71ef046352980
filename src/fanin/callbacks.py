"""Callbacks of `Network.fit`, and early stopping.

A callback sees the run through a `TrainingState` after every epoch or every batch and
may end it. Early stopping is a declaration: its state is the run's, kept in the
`History`, so that one object serves many runs and a run can be resumed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanin import _validation as check

if TYPE_CHECKING:
    from fanin.history import History
    from fanin.monitor import Monitor
    from fanin.network import Network

__all__ = ["Callback", "EarlyStopping", "Monitor", "TrainingState"]


def __getattr__(name: str) -> Any:
    if name == "Monitor":  # is a Callback, and so made after this module
        from fanin.monitor import Monitor

        return Monitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(eq=False)
class TrainingState:
    """What a callback is told: where the training stands.

    One object for the whole run; its numbers change. Epochs and batches are counted
    from 1.

    Attributes
    ----------
    network : Network
        The network, with its parameters of the moment.
    optimizer : Optimizer
        The optimizer; its learning rate may be changed.
    history : History
        What has been recorded. After an epoch it includes that epoch.
    epochs, n_batches : int
        How many epochs were asked for, and how many batches an epoch has.
    epoch, batch : int
        The epoch and the batch just done; 0 before the first.
    loss : float
        After a batch, the loss of that batch before its step; after an epoch, the
        epoch's mean. NaN before the first.

    Examples
    --------
    >>> import fanin
    >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
    >>> def show(state):
    ...     print(f"epoch {state.epoch} of {state.epochs}")
    >>> history = net.fit([[1.0], [2.0]], [1.0, 2.0], epochs=2, batch_size=2,
    ...                   optimizer=fanin.optimizers.SGD(0.01), callbacks=show, rng=0)
    epoch 1 of 2
    epoch 2 of 2
    """

    network: Network
    optimizer: Any
    history: History
    epochs: int
    n_batches: int
    epoch: int = 0
    batch: int = 0
    loss: float = float("nan")

    def __repr__(self) -> str:
        return (
            f"TrainingState(epoch {self.epoch} of {self.epochs}, batch {self.batch} "
            f"of {self.n_batches}, loss {self.loss:.4g})"
        )


class Callback:
    """What `Network.fit` calls while it trains; override what you need.

    Every method gets the run's `TrainingState`. One that returns True ends the
    training after the present batch or epoch; any other result means to go on. A
    method that is not overridden costs nothing, for it is never called. Objects of
    another class with methods of these names serve as well, and a plain function
    is called after every epoch.

    An exception that a callback raises passes through `fit` unchanged. The network
    then holds the parameters of the last whole step.

    Examples
    --------
    >>> import fanin
    >>> class Losses(fanin.callbacks.Callback):
    ...     def on_train_begin(self, state):
    ...         self.losses = []
    ...     def on_batch_end(self, state):
    ...         self.losses.append(state.loss)
    ...         return len(self.losses) == 3
    >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
    >>> seen = Losses()
    >>> net.fit([[1.0], [2.0]], [1.0, 2.0], epochs=9, batch_size=1,
    ...         optimizer=fanin.optimizers.SGD(0.01), callbacks=[seen],
    ...         rng=0).stopped
    'callback'
    >>> len(seen.losses)
    3
    """

    def on_train_begin(self, state: TrainingState) -> bool | None:
        """Be called before the first step.

        Parameters
        ----------
        state : TrainingState
            Where the training stands.

        Returns
        -------
        bool or None
            True ends the training before it has begun.

        Examples
        --------
        >>> import fanin
        >>> fanin.callbacks.Callback().on_train_begin(None) is None
        True
        """
        return None

    def on_batch_end(self, state: TrainingState) -> bool | None:
        """Be called after every step.

        Parameters
        ----------
        state : TrainingState
            ``state.loss`` is the loss of the batch.

        Returns
        -------
        bool or None
            True ends the training.

        Examples
        --------
        >>> import fanin
        >>> fanin.callbacks.Callback().on_batch_end(None) is None
        True
        """
        return None

    def on_epoch_end(self, state: TrainingState) -> bool | None:
        """Be called after every epoch, when the history includes it.

        Parameters
        ----------
        state : TrainingState
            ``state.loss`` is the epoch's mean loss.

        Returns
        -------
        bool or None
            True ends the training.

        Examples
        --------
        >>> import fanin
        >>> fanin.callbacks.Callback().on_epoch_end(None) is None
        True
        """
        return None

    def on_train_end(self, state: TrainingState) -> None:
        """Be called at the end, however it came about but for an exception.

        Parameters
        ----------
        state : TrainingState
            ``state.history.stopped`` says why training ended; the network has its
            final parameters.

        Examples
        --------
        >>> import fanin
        >>> fanin.callbacks.Callback().on_train_end(None)
        """


HOOKS = ("on_train_begin", "on_batch_end", "on_epoch_end", "on_train_end")


def hooks(callbacks: Any) -> dict[str, list[Any]]:
    """Return the methods to call, by the name of the hook, each looked up once."""
    if callable(callbacks) or any(hasattr(callbacks, name) for name in HOOKS):
        callbacks = [callbacks]
    try:
        listed = list(callbacks)
    except TypeError:
        raise TypeError(
            "callbacks must be a callable, a fanin.callbacks.Callback or a sequence of "
            f"them; got {type(callbacks).__name__}"
        ) from None
    found: dict[str, list[Any]] = {name: [] for name in HOOKS}
    for i, one in enumerate(listed):
        if isinstance(one, type):
            raise TypeError(
                f"callbacks[{i}] is the class {one.__name__}: pass an instance"
            )
        has_hook = False
        for name in HOOKS:
            method = getattr(one, name, None)
            if method is None:
                continue
            if not callable(method):
                raise TypeError(f"callbacks[{i}].{name} is not callable")
            has_hook = True
            # The base class's own do nothing.
            if getattr(method, "__func__", None) is not getattr(Callback, name):
                found[name].append(method)
        if not has_hook:
            if not callable(one):
                raise TypeError(
                    f"callbacks[{i}] must be a callable or have a method such as "
                    f"on_epoch_end; got {type(one).__name__}"
                )
            found["on_epoch_end"].append(one)
    return found


@dataclass(frozen=True)
class EarlyStopping:
    """End training when a monitored value has stopped improving.

    Training ends when `patience` epochs in a row have not improved on the best value
    so far by more than `min_delta` (Prechelt, "Early Stopping - But When?", 1998,
    criterion UP in the form that scikit-learn and Keras use). The network then gets
    the parameters of the best epoch.

    Parameters
    ----------
    patience : int, default=10
        Epochs to wait, >= 1.
    min_delta : float, default=0.0
        What counts as an improvement, >= 0. The best epoch is the best by any
        margin.
    monitor : str, default="validation_loss"
        "validation_loss", "loss", or the name of a metric as in `History.metrics`,
        such as "validation_accuracy".
    mode : {"auto", "min", "max"}, default="auto"
        Whether less or more is better. "auto" knows it of losses and of the metrics
        that have a name in fanin.
    restore_best : bool, default=True
        Whether the network gets the parameters of the best epoch when training ends,
        for whatever reason but an exception; otherwise it keeps the last ones.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    Keeping the best parameters takes a copy of them whenever a new best is found.

    Examples
    --------
    >>> import fanin
    >>> fanin.callbacks.EarlyStopping(5, monitor="validation_accuracy")
    EarlyStopping(patience=5, min_delta=0.0, monitor='validation_accuracy', \
mode='auto', restore_best=True)
    """

    patience: int = 10
    min_delta: float = 0.0
    monitor: str = "validation_loss"
    mode: str = "auto"
    restore_best: bool = True

    def __post_init__(self) -> None:
        check.integer(self.patience, "patience", minimum=1)
        check.real(self.min_delta, "min_delta", minimum=0.0)
        if not isinstance(self.monitor, str):
            raise TypeError(
                f"monitor must be a string; got {type(self.monitor).__name__}"
            )
        check.choice(self.mode, ("auto", "min", "max"), "mode")
        if not isinstance(self.restore_best, bool):
            raise TypeError(
                f"restore_best must be True or False; got {self.restore_best!r}"
            )


def early_stopping(value: Any) -> EarlyStopping | None:
    """Return what `fit` was given as ``early_stopping=`` as a declaration, or None."""
    if value is None or value is False:
        return None
    if value is True:
        return EarlyStopping()
    if isinstance(value, EarlyStopping):
        return value
    if isinstance(value, type) or not hasattr(value, "__index__"):
        raise TypeError(
            "early_stopping must be a fanin.callbacks.EarlyStopping, its patience as "
            f"an integer, True or None; got {value!r}"
        )
    return EarlyStopping(check.integer(value, "early_stopping", minimum=1))
