"""A user's activation or loss: what kinds of functions are taken, and their check.

A pair is two Python functions on arrays, or two compiled functions: SciPy
`LowLevelCallable`, ctypes or Numba `cfunc` objects, whose prototypes are compared with
what the kernels call. Neither SciPy nor Numba is imported: their objects are known by
what they are made of.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fanin._kernels._custom import Pair
    from fanin._report import GradientReport

__all__ = [
    "ACTIVATION",
    "FUNCTION",
    "GRADIENT",
    "LOSS",
    "Prototype",
    "Registered",
    "check_activation",
    "check_loss",
    "compiled_function",
    "is_compiled",
    "is_low_level",
]


@dataclass(frozen=True)
class Prototype:
    """What a C function returns and takes, before an optional last ``void *``."""

    text: str
    result: str
    arguments: tuple[str, ...]

    def accepts(self, result: str, arguments: tuple[str, ...]) -> bool | None:
        """Return whether such a function takes user data too; None: it does not fit."""
        n = len(self.arguments)
        if result != self.result or len(arguments) not in (n, n + 1):
            return None
        for found, wanted in zip(arguments, self.arguments, strict=False):
            if found != wanted and not (found == "void *" and wanted == "double *"):
                return None
        if len(arguments) == n:
            return False
        return True if arguments[n] == "void *" else None


ACTIVATION = Prototype("double (double z[, void *data])", "double", ("double",))
LOSS = Prototype(
    "double (const double *z, const double *y, intptr_t n[, void *data])",
    "double",
    ("double *", "double *", "intptr_t"),
)
GRADIENT = Prototype(
    "void (double *dz, const double *z, const double *y, intptr_t n[, void *data])",
    "void",
    ("double *", "double *", "double *", "intptr_t"),
)
FUNCTION = Prototype(
    "double (const double *theta, intptr_t n[, void *data])",
    "double",
    ("double *", "intptr_t"),
)

# What a signed integer of a pointer's size is called in a signature.
INTEGERS = {"intptr_t", "npy_intp", "Py_ssize_t", "ptrdiff_t", "ssize_t"}
if ctypes.sizeof(ctypes.c_void_p) == 8:
    INTEGERS |= {"int64_t", "long long", "longlong"}
if ctypes.sizeof(ctypes.c_long) == ctypes.sizeof(ctypes.c_void_p):
    INTEGERS.add("long")
NEEDS_GIL = 0x4  # ctypes: a function of Python's own API
_FUNCTION: Any = ctypes.CFUNCTYPE(None).__mro__[1]  # the base of ctypes' functions
_POINTER: Any = ctypes.POINTER(ctypes.c_double).__mro__[1]


# --- compiled functions -------------------------------------------------------------


def _type_of_text(text: str) -> str:
    words = re.sub(r"\bconst\b", " ", text).replace("*", " * ").split()
    name = " ".join(words)
    return "intptr_t" if name in INTEGERS else name


def _parse_signature(text: str) -> tuple[str, tuple[str, ...]]:
    found = re.fullmatch(r"([^()]*)\(([^()]*)\)", text.strip())
    if found is None:
        return text, ()
    return _type_of_text(found[1]), tuple(map(_type_of_text, found[2].split(",")))


def _type_of_ctypes(kind: Any) -> str:
    if kind is None:
        return "void"
    if kind is ctypes.c_double:
        return "double"
    if isinstance(kind, type):
        if issubclass(kind, ctypes.c_void_p):
            return "void *"
        if issubclass(kind, _POINTER):
            return f"{_type_of_ctypes(getattr(kind, '_type_', None))} *"
        # Of two C types of that size ctypes makes one class, or two.
        codes = {ctypes.c_ssize_t._type_}
        if ctypes.sizeof(ctypes.c_void_p) == 8:
            codes |= {ctypes.c_int64._type_, ctypes.c_longlong._type_}
        if getattr(kind, "_type_", "") in codes:
            return "intptr_t"
    return str(getattr(kind, "__name__", kind))


def _check_ctypes(function: Any, name: str) -> None:
    """Refuse what would need the interpreter, or swallow its exceptions."""
    if type(function)._flags_ & NEEDS_GIL:
        raise TypeError(
            f"{name} is a function of Python's API (ctypes.PYFUNCTYPE or PyDLL), which "
            "needs the GIL; the pass runs without it"
        )
    kept = getattr(function, "_objects", None) or {}
    if any(type(thing).__name__ == "CThunkObject" for thing in kept.values()):
        raise TypeError(
            f"{name} is a Python function behind a ctypes pointer, which would swallow "
            "its exceptions; give a function on arrays, without ctypes"
        )


def _address(thing: Any) -> int:
    return ctypes.cast(thing, ctypes.c_void_p).value or 0


def _user_data(data: Any) -> int:
    if isinstance(data, np.ndarray):
        return int(data.ctypes.data)
    if isinstance(data, (ctypes.Array, ctypes.Structure)):
        return ctypes.addressof(data)
    if isinstance(data, (ctypes.c_void_p, _POINTER)):
        return _address(data)
    raise TypeError(
        "user_data must be a NumPy array or a ctypes pointer, array or structure; got "
        f"{type(data).__name__}"
    )


def is_low_level(thing: Any) -> bool:
    """Whether a thing is a `scipy.LowLevelCallable`."""
    return isinstance(thing, tuple) and type(thing).__name__ == "LowLevelCallable"


def is_compiled(thing: Any) -> bool:
    """Whether a thing is one of the kinds of compiled functions that are taken."""
    numba = hasattr(thing, "address") and isinstance(
        getattr(thing, "ctypes", None), _FUNCTION
    )
    return numba or isinstance(thing, _FUNCTION) or is_low_level(thing)


def compiled_function(
    thing: Any, prototype: Prototype, data: Any, name: str
) -> tuple[int, int | None]:
    """Return the address of a compiled function, and that of its user data."""
    pointer = 0 if data is None else _user_data(data)
    if is_low_level(thing):
        from fanin._kernels._custom import read_capsule

        address, text, context = read_capsule(tuple.__getitem__(thing, 0))
        if isinstance(thing.function, _FUNCTION):
            _check_ctypes(thing.function, name)
        if context and pointer:
            raise ValueError(f"user_data is given, and {name} has its own")
        pointer = pointer or context
        result, arguments = _parse_signature(text)
    else:
        function = thing if isinstance(thing, _FUNCTION) else thing.ctypes
        _check_ctypes(function, name)
        if function.argtypes is None:
            raise TypeError(
                f"{name} is a ctypes function of unknown prototype: set its restype "
                f"and argtypes to those of {prototype.text}"
            )
        address = _address(function)
        result = _type_of_ctypes(function.restype)
        arguments = tuple(map(_type_of_ctypes, function.argtypes))
        text = f"{result} ({', '.join(arguments)})"
    takes_data = prototype.accepts(result, arguments)
    if takes_data is None:
        raise TypeError(f"{name} must have the prototype {prototype.text}; got {text}")
    if pointer and not takes_data:
        raise ValueError(f"user_data is given, and {name}, {text}, does not take it")
    if address == 0:
        raise ValueError(f"{name} is a null pointer")
    return address, pointer if takes_data else None


def make_pair(
    function: Any,
    derivative: Any,
    prototypes: tuple[Prototype, Prototype],
    user_data: Any,
) -> Pair:
    """Return the pair for the kernels; TypeError if the functions are not one."""
    both = {"function": function, "derivative": derivative}
    compiled = {name: is_compiled(thing) for name, thing in both.items()}
    for name, thing in both.items():
        if not compiled[name] and not callable(thing):
            raise TypeError(
                f"{name} must be a Python function on arrays, or a compiled one: a "
                "SciPy LowLevelCallable, a ctypes function or a numba.cfunc; got "
                f"{type(thing).__name__}"
            )
    if compiled["function"] != compiled["derivative"]:
        first, second = (
            "compiled" if compiled[name] else "a Python function" for name in both
        )
        raise TypeError(
            "function and derivative must both be compiled, or both Python functions; "
            f"function is {first}, derivative is {second}"
        )
    from fanin._kernels._custom import Pair

    if not compiled["function"]:
        if user_data is not None:
            raise ValueError("user_data is for compiled functions; these are Python's")
        return Pair((function, derivative))
    addresses = tuple(
        compiled_function(thing, prototype, user_data, name)
        for (name, thing), prototype in zip(both.items(), prototypes, strict=True)
    )
    return Pair((), addresses, (function, derivative, user_data))


class Registered:
    """What the two declarations of a user's functions have in common."""

    function: Any
    derivative: Any
    name: Any
    user_data: Any
    _pair: Pair
    _prototypes: tuple[Prototype, Prototype]

    def _register(self, known: Collection[str]) -> Pair:
        """Make the pair, and a name if none is given."""
        name = self.name
        if name is None:
            inner = getattr(self.function, "function", None)  # a LowLevelCallable's
            name = str(getattr(inner or self.function, "__name__", "custom"))
            name = "custom" if name in known else name
            object.__setattr__(self, "name", name)
        elif not isinstance(name, str):
            raise TypeError(f"name must be a string; got {type(name).__name__}")
        elif not name or name in known:
            raise ValueError(
                f"name must be one that fanin does not use itself; got {name!r}"
            )
        self._compile()
        return self._pair

    def _compile(self) -> None:
        pair = make_pair(
            self.function, self.derivative, self._prototypes, self.user_data
        )
        object.__setattr__(self, "_pair", pair)

    @property
    def _kernel(self) -> Pair:
        return self._pair

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    def _key(self) -> tuple[Any, ...]:
        # (An array of user data has no truth value; what counts is where it is.)
        return self.function, self.derivative, self.name, id(self.user_data)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    # It cannot be changed, so that it is its own copy, as a function is.
    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self._pair.compiled:
            raise TypeError(
                f"{type(self).__name__} {self.name!r} cannot be pickled: it holds the "
                "addresses of compiled functions, which mean nothing elsewhere; Python "
                "functions of a module can be"
            )
        return {k: v for k, v in self.__dict__.items() if k != "_pair"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._compile()


# --- the check at registration ------------------------------------------------------

# Where an activation is looked at: none a place where kinks are usual, but 0.
NEGATIVE = (-4.3, -2.7, -1.9, -1.3, -0.83, -0.53, -0.29, -0.11, -0.017, -0.0013)
POSITIVE = (0.0017, 0.013, 0.13, 0.31, 0.57, 0.79, 1.1, 2.1, 3.1, 4.7)
POINTS = {
    "z": np.array([*NEGATIVE, 0.0, *POSITIVE]),
    "large z": np.array([-97.0, -41.0, -17.0, -7.3, 7.7, 19.0, 43.0, 89.0]),
}
# What two computations of one value may differ by: vector and scalar loops differ in
# the last places, which are those of float32 if the function computes in that.
ALIKE = 1e-5


class _Findings:
    """The checks of single points, and their entries as one report."""

    def __init__(self, what: str, values: NDArray[Any]) -> None:
        self.what = what
        # Computed in float32, it seems: then the step and the thresholds are those.
        self.single = bool(np.all(values.astype(np.float32) == values))
        self.reports: list[GradientReport] = []
        self.blocks: list[tuple[str, slice, tuple[int, ...]]] = []
        self.n = 0

    def block(self, name: str, shape: tuple[int, ...]) -> None:
        size = math.prod(shape)
        self.blocks.append((name, slice(self.n, self.n + size), shape))
        self.n += size

    def look(self, fun: Callable[[Any], float], z: Any, slope: Any) -> None:
        """Check the derivatives of one function at z, with noise in mind."""
        from fanin._evaluate import THRESHOLDS32
        from fanin._second_look import EPS32
        from fanin.gradcheck import check_gradient

        def coarse() -> GradientReport:
            kind = np.float32 if self.single else np.float64
            return check_gradient(
                lambda z: kind(fun(z)),
                z.copy(),
                slope,
                eps=EPS32 ** (1 / 3),
                thresholds=THRESHOLDS32,
            )

        report = coarse() if self.single else check_gradient(fun, z.copy(), slope)
        if report.verdict == "inconclusive" and not self.single:
            # Noise asks for another step, and leaves fewer digits.
            second = coarse()
            report = report if second.verdict == "inconclusive" else second
        self.reports.append(report)

    def conclude(self) -> None:
        """Raise GradientError with a report unless the derivative is right."""
        from fanin.gradcheck import GradientError, GradientReport

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(r, name) for r in self.reports])

        whole = GradientReport._from_vectors(
            joined("_analytic"),
            joined("_numeric"),
            self.blocks,
            eps=max(r.eps for r in self.reports),
            thresholds=max(r.thresholds for r in self.reports),
            step=joined("_step"),
            f_plus=joined("_f_plus"),
            f_minus=joined("_f_minus"),
            error_estimate=joined("_error"),
            status=joined("_status"),
            deterministic=all(r._deterministic for r in self.reports),
            n_evaluations=sum(r.n_evaluations for r in self.reports),
            elapsed=sum(r.elapsed for r in self.reports),
        )
        # A point may be undecided by itself, where the function is flat but for its
        # rounding; not all of them, but for large ones.
        bad = [r for r in self.reports if r.verdict in ("wrong", "suspicious")]
        first = next(iter(whole.blocks.values()))
        undecided = first.verdict != "correct" or not whole._deterministic
        if not (bad or undecided or whole.verdict in ("wrong", "suspicious")):
            return
        shown = bad[0] if whole.ok else whole
        error = GradientError(f"the derivative of {self.what} was refused\n{shown}")
        error.report = shown
        raise error


def _alike(a: NDArray[Any], b: NDArray[Any]) -> bool:
    close = np.abs(a - b) <= ALIKE * np.maximum(np.abs(a), np.abs(b)) + 1e-300
    return bool(np.all(close | (a == b) | (np.isnan(a) & np.isnan(b))))


def check_activation(pair: Pair, what: str) -> None:
    """Refuse an activation whose derivative is wrong, or that is not elementwise."""
    from fanin._kernels import _activations

    def at(z: NDArray[Any], derivative: bool) -> NDArray[Any]:
        found = np.empty_like(z)
        _activations.apply(found, z, pair, 0.0, derivative, 1)
        return found

    def value(z: NDArray[Any]) -> float:
        return float(at(z, False)[0])

    with np.errstate(all="ignore"):
        everywhere = np.concatenate(list(POINTS.values()))
        values, slopes = at(everywhere, False), at(everywhere, True)
        for z, v in zip(everywhere.tolist(), values.tolist(), strict=True):
            if math.isnan(v):
                raise ValueError(f"{what} is nan at z = {z:g}: it must be a number")
        # (A random function is for the check, which says so.)
        alone, alone_too = (
            np.concatenate([at(z, which) for z in np.split(everywhere, len(values))])
            for which in (False, True)
        )
        same = np.array_equal(values, at(everywhere, False))
        if same and not (_alike(values, alone) and _alike(slopes, alone_too)):
            raise ValueError(
                f"{what} must treat each element by itself: its values for an array "
                "are not those for the elements alone"
            )
        findings = _Findings(what, values)
        for name, points in POINTS.items():
            # (Infinite values are an overflow, not a matter of the derivative.)
            held = np.isfinite(at(points, False) + at(points * 1.01, False))
            if not held.any():
                continue
            findings.block(name, (int(held.sum()),))
            for z, slope in zip(points[held], at(points, True)[held], strict=True):
                findings.look(value, np.array([z]), np.array([slope]))
        if len(findings.reports) < POINTS["z"].size:
            raise ValueError(f"{what} is not finite everywhere from -4.3 to 4.7")
        findings.conclude()


def check_loss(pair: Pair, what: str, targets: NDArray[Any]) -> None:
    """Refuse a loss whose gradient is wrong, or that mixes rows."""
    from fanin._kernels import _losses

    def at(Z: NDArray[Any], Y: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        total, dZ, _ = _losses.forward(Z, Y, pair)
        assert dZ is not None
        return total, dZ

    rows, cols = targets.shape
    rng = np.random.default_rng(20261123)
    Z = rng.standard_normal((rows, cols))
    # Small, ordinary and large outputs, and all zeros.
    Z *= np.resize([0.0, 1.0, 0.1, 3.0, 1.0, 10.0, 30.0], rows)[:, np.newaxis]
    with np.errstate(all="ignore"):
        one_by_one = [at(Z[i : i + 1], targets[i : i + 1]) for i in range(rows)]
        losses = np.array([total for total, _ in one_by_one])
        gradient = np.concatenate([dZ for _, dZ in one_by_one])
        if np.isnan(losses).any():
            i = int(np.isnan(losses).argmax())
            raise ValueError(
                f"{what} is nan for outputs {Z[i].tolist()} and targets "
                f"{targets[i].tolist()}: give `sample_targets`, such as yours"
            )
        # A gradient that mixes rows shows in the block, a loss in a sum of some rows.
        finite = np.isfinite(losses)
        if not finite.any():
            raise ValueError(f"{what} is not finite for any of {rows} random samples")
        together, block = at(Z[finite], targets[finite])
        parts = math.fsum(losses[finite])
        size = math.fsum(np.abs(losses[finite]))
        mixed = abs(together - parts) > ALIKE * size
        same = at(Z[finite], targets[finite])[0] == together
        if same and (mixed or not _alike(block, gradient[finite])):
            raise ValueError(
                f"{what} must treat each row by itself: its values for many rows are "
                "not those for the rows alone"
            )
        findings = _Findings(what, losses)
        findings.block("Z", (int(finite.sum()), cols))
        for i in np.flatnonzero(finite).tolist():
            Y = targets[i : i + 1]

            def value(z: NDArray[Any], Y: NDArray[Any] = Y) -> float:
                total, _, _ = _losses.forward(z[np.newaxis], Y, pair, gradient=False)
                return total

            findings.look(value, Z[i], gradient[i])
        findings.conclude()
