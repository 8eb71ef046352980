"""What a network is made of, as a dictionary for JSON, and back: all checked.

An object becomes ``{"kind": name, option: value, ...}``, with the arguments of its
class's constructor as options, which it keeps in attributes of the same names. Only
what KINDS lists is written or read: a dictionary names a class, and nothing that it
says is ever looked up anywhere else.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable
from typing import Any

from fanin import activations, initializers, layers, losses

__all__ = ["decode", "encode", "read_fields"]

# What may stand where: one line a class.
KINDS: dict[str, dict[str, type]] = {
    "layer": {
        "dense": layers.Dense,
        "activation": layers.Activation,
        "batch_norm": layers.BatchNorm,
        "layer_norm": layers.LayerNorm,
        "rms_norm": layers.RMSNorm,
        "dropout": layers.Dropout,
    },
    "loss": {
        "squared_error": losses.SquaredError,
        "absolute_error": losses.AbsoluteError,
        "huber": losses.Huber,
        "quantile": losses.Quantile,
        "poisson": losses.Poisson,
        "binary_cross_entropy": losses.BinaryCrossEntropy,
        "softmax_cross_entropy": losses.SoftmaxCrossEntropy,
    },
    "activation": {
        "identity": activations.Identity,
        "logistic": activations.Logistic,
        "tanh": activations.Tanh,
        "relu": activations.ReLU,
        "leaky_relu": activations.LeakyReLU,
        "elu": activations.ELU,
        "selu": activations.SELU,
        "softplus": activations.Softplus,
        "silu": activations.SiLU,
        "gelu": activations.GELU,
    },
}
# Options whose value may be an object of a group of KINDS.
OBJECTS = {"activation": "activation"}
# Options whose value may be a function. One of fanin's has a name; another is written
# as null: it can neither be saved nor is it needed once there are weights. Read back,
# null is the default.
FUNCTIONS = {"init"}


def options(cls: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class's constructor by name."""
    return dict(inspect.signature(cls).parameters)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def encode(thing: Any, group: str, where: str) -> dict[str, Any]:
    """Return an object of a group of KINDS as a dictionary."""
    for kind, cls in KINDS[group].items():
        if type(thing) is cls:
            return {
                "kind": kind,
                **{
                    name: _encode_value(getattr(thing, name), name, f"{where}.{name}")
                    for name in options(cls)
                },
            }
    raise TypeError(
        f"{where} cannot be saved: it is a {type(thing).__name__}, and the file has "
        f"words only for {_listed(KINDS[group])}"
    )


def _encode_value(value: Any, name: str, where: str) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (tuple, list)):
        return [_encode_value(v, name, f"{where}[{i}]") for i, v in enumerate(value)]
    if name in FUNCTIONS and callable(value):
        return initializers.name_of(value)
    if name in OBJECTS:
        return encode(value, OBJECTS[name], where)
    raise TypeError(f"{where} cannot be saved: it is a {type(value).__name__}")


def decode(data: Any, group: str, where: str) -> Any:
    """Return the object that a dictionary describes; ValueError if it is none."""
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be an object; got {type(data).__name__}")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS[group]:
        raise ValueError(
            f"{where} must be of a kind that this version of fanin knows "
            f"({_listed(KINDS[group])}); got {kind!r:.60}"
        )
    cls = KINDS[group][kind]
    known = options(cls)
    given = {}
    for name, value in data.items():
        if name == "kind":
            continue
        if name not in known:
            raise ValueError(
                f"{where} of kind {kind!r} has an option {name!r:.60} that this "
                f"version of fanin does not know (it knows {_listed(known)})"
            )
        if value is None and name in FUNCTIONS:
            continue
        given[name] = _decode_value(value, name, f"{where}.{name}")
    missing = [
        name
        for name, option in known.items()
        if option.default is option.empty and name not in given
    ]
    if missing:
        raise ValueError(f"{where} of kind {kind!r} lacks {_listed(missing)}")
    try:
        return cls(**given)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from error


def _decode_value(value: Any, name: str, where: str) -> Any:
    if isinstance(value, list):
        return tuple(
            _decode_value(v, name, f"{where}[{i}]") for i, v in enumerate(value)
        )
    if isinstance(value, dict):
        if name not in OBJECTS:
            raise ValueError(f"{where} must not be an object")
        return decode(value, OBJECTS[name], where)
    return value


def read_fields(data: Any, where: str, names: Iterable[str]) -> dict[str, Any]:
    """Return `data` if it is an object with exactly these fields."""
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be an object; got {type(data).__name__}")
    wanted = list(names)
    missing = [name for name in wanted if name not in data]
    if missing:
        raise ValueError(f"{where} lacks {_listed(missing)}")
    unknown = [name for name in data if name not in wanted]
    if unknown:
        raise ValueError(
            f"{where} has fields that this version of fanin does not know: "
            f"{_listed(unknown):.200}"
        )
    return data
