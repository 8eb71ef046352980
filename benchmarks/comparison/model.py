"""What a row of the comparison is, and which peers there are to run it."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

# Column: (module, distribution). The floor and fanin come before them.
PEERS = {
    "NumPy": ("numpy", "numpy"),
    "SciPy": ("scipy", "scipy"),
    "scikit-learn": ("sklearn", "scikit-learn"),
    "PyTorch": ("torch", "torch"),
    "JAX": ("jax", "jax"),
    "ONNX Runtime": ("onnxruntime", "onnxruntime"),
}
COLUMNS = ("floor", "fanin", *PEERS)

# Rounding errors of a sum of n terms behave as a random walk: the bound
# confidence * sqrt(n) * u fails with probability 2 exp(-confidence**2 / 2), which
# is 3e-14 at 8 (Higham & Mary, SIAM J. Sci. Comput. 41 (2019) A2815).
CONFIDENCE = 8.0


class Wrong(Exception):
    """A contender's result differs from the reference: it gets no time."""


@dataclass
class Contender:
    """One way of doing the work of a row."""

    run: Callable[[], Any]
    # Takes what `run` returned; raises Wrong. None: there is nothing to compare
    # (a floor computes only a part of the work).
    check: Callable[[Any], None] | None = None
    # Called, untimed, before every measurement, so that a training step does not
    # start from where thousands of steps on one batch have led.
    prepare: Callable[[], None] | None = None
    # What the measured time is multiplied by, where only a sample of the work runs.
    scale: float = 1.0


Contenders = Iterator[tuple[str, Contender]]


@dataclass
class Row:
    """A line of the table. `build` allocates, so it is called when the row's turn is.

    ``build(session)`` yields ``(column, contender)`` for the peers that have such a
    call.
    """

    name: str
    build: Callable[[Session], Contenders]
    note: str = ""


@dataclass
class Session:
    """The peers of this process and how many threads each may use."""

    n_threads: int
    modules: dict[str, ModuleType] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    # What was set in the peers, in words.
    settings: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, n_threads: int, peers: list[str] | None = None) -> Session:
        """Import the peers that are installed and give each `n_threads` threads."""
        session = cls(n_threads)
        for name, (module, _) in PEERS.items():
            if peers is not None and name != "NumPy" and name not in peers:
                continue
            try:
                session.modules[name] = importlib.import_module(module)
            except ImportError:
                session.missing.append(name)
        try:
            session.modules["onnx"] = importlib.import_module("onnx")
        except ImportError:
            if session.modules.pop("ONNX Runtime", None) is not None:
                session.missing.append("ONNX Runtime (onnx, which makes its models)")
        session._set_threads()
        return session

    def has(self, name: str) -> bool:
        return name in self.modules

    def __getitem__(self, name: str) -> Any:
        return self.modules[name]

    def _set_threads(self) -> None:
        import fanin

        fanin.set_num_threads(self.n_threads)
        self.settings.append(f"fanin.set_num_threads({self.n_threads})")
        if self.has("PyTorch"):
            self["PyTorch"].set_num_threads(self.n_threads)
            self.settings.append(f"torch.set_num_threads({self.n_threads})")
        if self.has("JAX"):
            self["JAX"].config.update("jax_enable_x64", True)
            self.settings.append(
                "jax_enable_x64 (float32 rows stay float32; JAX uses as many threads "
                "as the process has CPUs)"
            )
        if self.has("ONNX Runtime"):
            self.settings.append(
                f"ONNX Runtime sessions: intra_op_num_threads={self.n_threads}"
            )
        try:
            import threadpoolctl
        except ImportError:
            self.settings.append(
                "threadpoolctl is not installed: the thread count of NumPy's BLAS is "
                "neither set nor known"
            )
            return
        # Through the API "blas" only: PyTorch's OpenMP was told above.
        threadpoolctl.threadpool_limits(self.n_threads, user_api="blas")
        self.settings.append(
            f"threadpoolctl.threadpool_limits({self.n_threads}, user_api='blas')"
        )

    def pools(self) -> list[str]:
        """Return the thread pools of this process as threadpoolctl sees them."""
        try:
            import threadpoolctl
        except ImportError:
            return []
        return [
            f"{pool['internal_api']} {pool.get('version') or ''} "
            f"({pool['prefix']}): {pool['num_threads']} threads"
            for pool in threadpoolctl.threadpool_info()
        ]

    def versions(self) -> dict[str, str]:
        import fanin

        found = {"fanin": fanin.__version__}
        for name in PEERS:
            if self.has(name):
                found[name] = importlib.metadata.version(PEERS[name][1])
        return found


def unit_roundoff(dtype: Any) -> float:
    """Return u: half the distance from 1 to the next number of the dtype."""
    return float(np.finfo(dtype).eps) / 2


def sum_error(n: int, dtype: Any) -> float:
    """Return the relative error that a sum of n terms in `dtype` may have."""
    return CONFIDENCE * math.sqrt(n) * unit_roundoff(dtype)


def require(error: float, tolerance: float, what: str) -> None:
    """Raise Wrong unless ``error <= tolerance``; NaN is wrong."""
    if not error <= tolerance:
        raise Wrong(f"{what}: error {error:.2e}, tolerance {tolerance:.2e}")
