"""What this installation of fanin runs on: the data of ``python -m fanin info``."""

from __future__ import annotations

import os
from typing import Any, Literal, overload

import numpy as np

from fanin._kernels import _blas, _parallel, _simd
from fanin._threads import explain_num_threads, get_num_threads
from fanin._validation import choice
from fanin._version import __version__

__all__ = ["show_config"]


def _collect() -> dict[str, dict[str, Any]]:
    import platform  # not needed, and not paid for, at import

    blas = _blas.config()
    return {
        "fanin": {
            "version": __version__,
            "python": f"{platform.python_version()} "
            f"({platform.python_implementation()}, {platform.python_compiler()})",
            "numpy": np.__version__,
            "platform": platform.platform(),
            "path": os.path.dirname(os.path.abspath(__file__)),
        },
        "blas": {
            "name": blas["name"],
            "vendored": blas["vendored"],
            "version": blas["config"],
            "core": blas["core"],
            "path": blas["path"],
        },
        "simd": {
            "level": _simd.current(),
            "available": list(_simd.available()),
            "reason": (
                "FANIN_SIMD"
                if os.environ.get("FANIN_SIMD", "").strip()
                else "the best that this CPU runs"
            ),
        },
        "threads": {
            "n_threads": get_num_threads(),
            "reason": explain_num_threads(),
            "workers_started": _parallel.pool_size(),
        },
    }


def _as_text(config: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, entries in config.items():
        lines.append(section)
        for name, value in entries.items():
            if isinstance(value, bool):
                value = "yes" if value else "no"
            elif isinstance(value, list):
                value = ", ".join(value)
            elif value == "":
                value = "unknown"
            lines.append(f"  {name + ':':<16} {value}")
    return "\n".join(lines)


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, dict[str, Any]]: ...


def show_config(
    mode: Literal["stdout", "dicts"] = "stdout",
) -> dict[str, dict[str, Any]] | None:
    """Show the versions, BLAS, SIMD level and threads that fanin runs with.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Whether to print the configuration or to return it, as in
        `numpy.show_config`.

    Returns
    -------
    dict of dict, or None
        With ``mode="dicts"`` these sections; otherwise None.

        ``fanin``
            ``version``, ``python``, ``numpy``, ``platform`` and the ``path`` of the
            package.
        ``blas``
            ``name``; ``vendored``, whether it is the copy that fanin carries;
            ``version`` with its build options; ``core``, the kernels it chose for
            this CPU; the ``path`` of the library. A system BLAS other than OpenBLAS
            has an empty ``version`` and ``core``.
        ``simd``
            ``level`` in use, levels ``available`` on this CPU, and the ``reason``.
        ``threads``
            ``n_threads`` that a call may use, the ``reason`` for that number, and
            the ``workers_started`` so far (the calling thread is not counted).

    Raises
    ------
    ValueError
        If `mode` is neither of the two, or if the environment variable
        ``FANIN_NUM_THREADS`` is not a number of threads.

    Examples
    --------
    >>> import fanin
    >>> config = fanin.show_config(mode="dicts")
    >>> sorted(config)
    ['blas', 'fanin', 'simd', 'threads']
    >>> config["simd"]["level"] in config["simd"]["available"]
    True
    """
    choice(mode, ("stdout", "dicts"), "mode")
    config = _collect()
    if mode == "dicts":
        return config
    print(_as_text(config))
    return None
