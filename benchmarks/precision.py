"""Count the correct digits of the variance, by fanin and by others.

    python benchmarks/precision.py [--markdown FILE]

Against exact rational arithmetic on the same doubles. Digits are
-log10 |var / exact - 1|, of the worst feature; 17 stands for "the nearest double".
scikit-learn and PyTorch are optional.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

import fanin

Variance = Callable[[Any], Any]


def data_sets() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((100, 20)) * rng.uniform(1e3, 1e6, 20)
    steps = np.concatenate([np.full(5000, 1e8), np.full(5000, math.log(1e-5))])
    return {
        "10000000.2, then 500 × (10000000.1, 10000000.3)": np.array(
            [10000000.2] + [10000000.1, 10000000.3] * 500
        )[:, np.newaxis],
        "100 normal rows × U(1e3, 1e6) + U(−1e15, 1e15)": (
            wide + rng.uniform(-1e15, 1e15, 20)
        ),
        "5000 × 1e8, then 5000 × log(1e-5)": steps[:, np.newaxis],
        "1e9 + 2000 normal rows": 1e9 + rng.standard_normal((2000, 5)),
        "a trend: 1e8 + i / 3000": (1e8 + np.arange(3000) / 3000)[:, np.newaxis],
    }


def exact_variance(column: Any) -> Fraction:
    values = [Fraction(float(v)) for v in column]
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values)


def digits(found: Any, exact: list[Fraction]) -> float:
    worst = max(
        abs(Fraction(float(v)) / e - 1) for v, e in zip(found, exact, strict=True)
    )
    return 17.0 if worst < Fraction(1, 10**17) else -math.log10(worst)


def updates(X: Any, size: int) -> Any:
    m = fanin.Moments()
    for start in range(0, len(X), size):
        m.update(X[start : start + size])
    return m.var


def merged(X: Any) -> Any:
    """Merge chunks of 7 rows in random pairs until one is left."""
    rng = np.random.default_rng(1)
    parts = [fanin.moments(X[i : i + 7]) for i in range(0, len(X), 7)]
    while len(parts) > 1:
        i, j = rng.choice(len(parts), 2, replace=False)
        both = parts[i] + parts[j]
        parts = [p for k, p in enumerate(parts) if k not in (i, j)] + [both]
    return parts[0].var


def contenders() -> dict[str, Variance]:
    found: dict[str, Variance] = {
        "fanin.moments": lambda X: fanin.moments(X).var,
        "update, 10 rows": lambda X: updates(X, 10),
        "update, 1 row": lambda X: updates(X, 1),
        "merged at random": merged,
        "np.var": lambda X: X.var(axis=0),
    }
    if importlib.util.find_spec("torch"):
        import torch

        found["torch.var"] = lambda X: torch.var(torch.from_numpy(X), 0, correction=0)
    if importlib.util.find_spec("sklearn"):
        from sklearn.preprocessing import StandardScaler

        def partial(X: Any, size: int) -> Any:
            scaler = StandardScaler()
            for start in range(0, len(X), size):
                scaler.partial_fit(X[start : start + size])
            return scaler.var_

        found["scikit-learn fit"] = lambda X: StandardScaler().fit(X).var_
        found["partial_fit, 10 rows"] = lambda X: partial(X, 10)
        found["partial_fit, 1 row"] = lambda X: partial(X, 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table")
    options = parser.parse_args()
    ways = contenders()
    lines = [
        "| Data | " + " | ".join(ways) + " |",
        "|---" * (len(ways) + 1) + "|",
    ]
    for name, X in data_sets().items():
        exact = [exact_variance(column) for column in X.T]
        cells = [f"{digits(way(X), exact):.1f}" for way in ways.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
