"""The only home of thread policy: how many threads a call may use, and why.

In order of increasing strength: the CPUs this process may use (scheduler affinity
and container quota), the environment variable ``FANIN_NUM_THREADS``,
:func:`set_num_threads`, and a call's own ``n_threads=``. Work too small to gain
from a second thread stays on the calling thread whatever the number.
"""

from __future__ import annotations

import math
import operator
import os
from typing import SupportsIndex

__all__ = ["explain_num_threads", "get_num_threads", "resolve", "set_num_threads"]

MAX_THREADS = 256

_chosen: int | None = None
_default: tuple[int, str] | None = None


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota_of(text: str) -> float | None:
    """CPUs granted by quota and period, such as ``150000 100000``; None: no limit.

    Version 2 of the control groups writes ``max`` for none, version 1 ``-1``.
    """
    fields = text.split()
    if len(fields) != 2 or fields[0] in ("max", "-1"):
        return None
    return int(fields[0]) / int(fields[1])


def _read(place: str, name: str) -> str:
    with open(os.path.join(place, name)) as file:
        return file.read().strip()


def _container_quota(
    root: str = "/sys/fs/cgroup", self_cgroup: str = "/proc/self/cgroup"
) -> float | None:
    """Return the tightest CPU quota of this process's control groups, if any."""
    try:
        with open(self_cgroup, errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: one hierarchy, limits nest
            place, v1 = root, False
        elif "cpu" in controllers.split(","):
            place, v1 = os.path.join(root, "cpu"), True
        else:
            continue
        # Inside a container the group's own path may not exist below the mount
        # point, whose root then is the container's group.
        for part in ["", *[p for p in path.split("/") if p and p != ".."]]:
            place = os.path.join(place, part)
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if v1 else ("cpu.max",)
            try:
                quota = _quota_of(" ".join(_read(place, name) for name in names))
            except (OSError, ValueError, ZeroDivisionError):
                continue
            if quota is not None and quota > 0:
                quotas.append(quota)
    return min(quotas, default=None)


def _find_default() -> tuple[int, str]:
    asked = os.environ.get("FANIN_NUM_THREADS", "").strip()
    if asked:
        try:
            n = _checked(int(asked), "FANIN_NUM_THREADS")
        except ValueError:
            raise ValueError(
                f"FANIN_NUM_THREADS must be an integer from 1 to {MAX_THREADS}; "
                f"got {asked!r}"
            ) from None
        return n, "FANIN_NUM_THREADS"
    n = _affinity()
    why = f"{n} CPU{'s' if n > 1 else ''} in this process's affinity"
    quota = _container_quota()
    if quota is not None and math.ceil(quota) < n:
        n = math.ceil(quota)
        why = f"a container quota of {quota:g} CPU{'s' if quota != 1 else ''}"
    if n > MAX_THREADS:
        n = MAX_THREADS
        why = f"fanin's limit of {MAX_THREADS}, with {why}"
    return max(1, n), why


def _checked(n: SupportsIndex, name: str) -> int:
    if isinstance(n, bool):
        raise TypeError(f"{name} must be an integer, not a bool")
    try:
        value = operator.index(n)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer or None; got {type(n).__name__}"
        ) from None
    if not 1 <= value <= MAX_THREADS:
        raise ValueError(f"{name} must be from 1 to {MAX_THREADS}; got {value}")
    return value


def _forget_default() -> None:
    global _default
    _default = None


if hasattr(os, "register_at_fork"):
    # A child is often given CPUs of its own.
    os.register_at_fork(after_in_child=_forget_default)


def resolve(n_threads: SupportsIndex | None = None) -> int:
    """Return the number of threads for a call that was given `n_threads`."""
    global _default
    if n_threads is not None:
        return _checked(n_threads, "n_threads")
    if _chosen is not None:
        return _chosen
    default = _default or _find_default()
    _default = default
    return default[0]


def get_num_threads() -> int:
    """Return the number of threads that a call uses unless told otherwise.

    Returns
    -------
    int
        The value last given to `set_num_threads`; else of the environment
        variable ``FANIN_NUM_THREADS``; else the number of CPUs that this process
        may use: its scheduler affinity or its container's quota, the smaller.

    Examples
    --------
    >>> import fanin
    >>> fanin.get_num_threads() >= 1
    True
    """
    return resolve()


def set_num_threads(n_threads: SupportsIndex | None) -> None:
    """Set the number of threads that a call uses unless told otherwise.

    Parameters
    ----------
    n_threads : int or None
        From 1 to 256; the calling thread counts. None returns to the default and
        finds it anew (it is otherwise found once, at the first call).

    Raises
    ------
    TypeError
        If `n_threads` is not an integer.
    ValueError
        If it is out of range.

    Examples
    --------
    >>> import fanin
    >>> fanin.set_num_threads(1)
    >>> fanin.get_num_threads()
    1
    >>> fanin.set_num_threads(None)
    """
    global _chosen
    _chosen = None if n_threads is None else _checked(n_threads, "n_threads")
    if n_threads is None:
        _forget_default()


def explain_num_threads() -> str:
    """Say where the number of threads comes from, in a few words."""
    if _chosen is not None:
        return "fanin.set_num_threads"
    default = _default or _find_default()
    return default[1]
