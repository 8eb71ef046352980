"""Moments as a dictionary that JSON can hold, and back: nothing lost, all checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanin import _accumulate, _validation
from fanin._accumulate import M2, M2_LO, MEAN, MEAN_LO, N_LO, Float64, N, Parts

FORMAT = "fanin.Moments"
VERSION = 1
ROWS = {
    "count": N,
    "mean": MEAN,
    "mean_lo": MEAN_LO,
    "m2": M2,
    "m2_lo": M2_LO,
    "count_lo": N_LO,
}
OPTIONS = ("axis", "ddof", "nan_policy")
# A double's exponents, with room for weights.
MAX_EXPONENT = 4000


def encode(value: float) -> float | str:
    """Return a number, or the name of one that JSON has not."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "nan" if math.copysign(1.0, value) > 0 else "-nan"
    return "inf" if value > 0 else "-inf"


def to_dict(
    parts: Parts | None,
    axis: int | tuple[int, ...] | None,
    ddof: float,
    nan_policy: str,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "axis": list(axis) if isinstance(axis, tuple) else axis,
        "ddof": ddof,
        "nan_policy": nan_policy,
        "shape": None if parts is None else list(parts[2]),
    }
    if parts is not None:
        state, exponent, _ = parts
        for name, row in ROWS.items():
            if row < len(state):
                found[name] = [encode(value) for value in state[row].tolist()]
        found["exponent"] = exponent.tolist()
    return found


def _list(data: dict[str, Any], name: str, size: int | None = None) -> list[Any]:
    values = data[name]
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name!r} must be a list; got {type(values).__name__}")
    if size is not None and len(values) != size:
        raise ValueError(
            f"{name!r} must have {size} entries, one per feature; got {len(values)}"
        )
    return list(values)


def _decode(value: Any, name: str) -> float:
    if isinstance(value, str):
        if value not in ("nan", "-nan", "inf", "-inf"):
            raise ValueError(
                f"{name} must be a number, 'nan', 'inf' or '-inf'; got {value!r}"
            )
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is beyond the range of a float64") from None


def _check_feature(values: Float64, name: str) -> None:
    """Refuse numbers that no data has."""
    n, mean, mean_lo, m2, m2_lo = values[:N_LO].tolist()
    count_lo = float(values[N_LO]) if len(values) > N_LO else 0.0
    if not (0.0 <= n < math.inf and abs(count_lo) <= n):
        raise ValueError(f"{name}: 'count' must be finite and not negative; got {n}")
    if len(values) == N_LO and not (n.is_integer() and n <= 2.0**53):
        raise ValueError(
            f"{name}: 'count' must be an integer, without weights; got {n}"
        )
    if math.isnan(m2):
        return
    if not (0.0 <= m2 < math.inf and abs(m2_lo) <= m2):
        raise ValueError(f"{name}: 'm2' must be finite and not negative; got {m2}")
    if not (math.isfinite(mean) and abs(mean_lo) <= abs(mean)):
        raise ValueError(f"{name}: 'mean' must be finite where 'm2' is; got {mean}")
    if n == 0.0 and (mean != 0.0 or m2 != 0.0):
        raise ValueError(f"{name}: a 'count' of 0 needs a 'mean' and 'm2' of 0")


def from_dict(data: Any) -> tuple[Parts | None, dict[str, Any]]:
    """Return the parts of a Moments, None for no data yet, and its options."""
    if not isinstance(data, dict):
        raise TypeError(
            f"from_dict needs a dict, as to_dict returns it; got {type(data).__name__}"
        )
    if data.get("format") != FORMAT:
        raise ValueError(
            f"'format' must be {FORMAT!r}; got {data.get('format', 'none')!r}"
        )
    version = data.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise ValueError(f"'version' must be {VERSION}; got {version!r}")
    wanted = {"format", "version", "shape", *OPTIONS}
    empty = "shape" in data and data["shape"] is None
    if not empty:
        weighted = "count_lo" in data
        wanted |= {"exponent", *ROWS} - (set() if weighted else {"count_lo"})
    for problem, names in (
        ("lacks", wanted - set(data)),
        ("has unknown", set(data) - wanted),
    ):
        if names:
            listed = ", ".join(repr(name) for name in sorted(names, key=repr))
            raise ValueError(f"the dictionary of moments {problem} {listed}")
    axis = data["axis"]
    options = {
        "axis": _accumulate.check_axis(tuple(axis) if isinstance(axis, list) else axis),
        "ddof": _accumulate.check_ddof(data["ddof"]),
        "nan_policy": _validation.choice(
            data["nan_policy"], _accumulate.NAN_POLICIES, "nan_policy"
        ),
    }
    if empty:
        return None, options
    shape = tuple(
        _validation.integer(n, f"shape[{i}]", minimum=0)
        for i, n in enumerate(_list(data, "shape"))
    )
    size = math.prod(shape)
    if len(shape) > 64 or max(shape, default=0) >= 2**62:
        raise ValueError(f"'shape' is none that an array can have; got {shape}")
    rows = [
        [
            _decode(value, f"{name}[{i}]")
            for i, value in enumerate(_list(data, name, size))
        ]
        for name in ROWS
        if name in data
    ]
    exponent = [
        _validation.integer(
            e, f"exponent[{i}]", minimum=-MAX_EXPONENT, maximum=MAX_EXPONENT
        )
        for i, e in enumerate(_list(data, "exponent", size))
    ]
    state = np.array(rows, np.float64).reshape(len(rows), size)
    with np.errstate(all="ignore"):
        beyond = np.isinf(
            np.ldexp(state[MEAN], np.array(exponent, np.int32))
        ) & np.isfinite(state[MEAN])
    if beyond.any():
        i = int(np.flatnonzero(beyond)[0])
        raise ValueError(f"feature {i}: 'mean' is beyond a float64 by its 'exponent'")
    for i in range(size):
        _check_feature(state[:, i], f"feature {i}")
    return (state, np.array(exponent, np.int32), shape), options
