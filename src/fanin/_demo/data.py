"""The demo's data: scikit-learn's digits or the user's CSV or NPZ, split in three."""

from __future__ import annotations

import csv
import math
import os
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._demo.errors import DemoError, optional

__all__ = ["Data", "Split", "digits", "read", "split"]

# A cell like this is a value that is not there.
MISSING = frozenset({"", "nan", "na", "n/a", "null"})
# In a feature these are too; in a target they may be a class.
MISSING_FEATURE = MISSING | {"none", "?"}
# Whole numbers with at most this many values, each five times on average, are
# classes; so are strings.
MOST_CLASSES = 20
ROWS_PER_CLASS = 5
FEWEST_ROWS = 10

# The split does not depend on --seed: seeds then differ in the network alone.
SPLIT_SEED = 0
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


@dataclass
class Data:
    """Features, a target, and what was decided about them.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features), float64
        NaN where a value is missing.
    y : ndarray of shape (n_samples,)
        Labels from 0 (int64) or values (float64).
    classes : list of str, or None
        The names of the labels; None for a regression.
    image : (int, int), or None
        The shape of a row that is an image.
    notes : list of str
        What to tell the user about it.
    """

    name: str
    X: NDArray[np.float64]
    y: NDArray[Any]
    classes: list[str] | None
    image: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Split:
    """Training, validation and test rows of a `Data`."""

    X_train: NDArray[np.float64]
    y_train: NDArray[Any]
    X_validation: NDArray[np.float64]
    y_validation: NDArray[Any]
    X_test: NDArray[np.float64]
    y_test: NDArray[Any]


def digits() -> Data:
    """Return scikit-learn's 1797 handwritten digits of 8 x 8 pixels."""
    loader = optional("sklearn.datasets", "scikit-learn").load_digits
    X, y = loader(return_X_y=True)
    return Data(
        "scikit-learn's handwritten digits",
        np.asarray(X, np.float64),
        np.asarray(y, np.int64),
        [str(k) for k in range(10)],
        image=(8, 8),
        notes=["each training image is also shown shifted by one pixel, four ways"],
    )


def split(data: Data) -> Split:
    """Return 70 % of the rows for training, 10 % for validation, 20 % for the test.

    The shares hold in every class; an image's shifted copies stay in the training
    set with it.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    strata = np.zeros(data.y.size, np.int64) if data.classes is None else data.y
    parts: tuple[list[NDArray[np.intp]], ...] = ([], [], [])
    for label in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == label))
        n_test = round(TEST_SHARE * rows.size)
        n_validation = max(round(VALIDATION_SHARE * rows.size), int(rows.size > 4))
        parts[0].append(rows[n_test + n_validation :])
        parts[1].append(rows[n_test : n_test + n_validation])
        parts[2].append(rows[:n_test])
    train, validation, test = (rng.permutation(np.concatenate(p)) for p in parts)
    if not validation.size or not test.size:
        raise DemoError(
            "the target has too few rows of each class for a training, a validation "
            "and a test set"
        )
    X_train, y_train = data.X[train], data.y[train]
    if data.image is not None:
        X_train = _shifted(X_train, data.image)
        y_train = np.tile(y_train, 5)
    return Split(
        X_train,
        y_train,
        data.X[validation],
        data.y[validation],
        data.X[test],
        data.y[test],
    )


def _shifted(X: NDArray[np.float64], image: tuple[int, int]) -> NDArray[np.float64]:
    """Return the images, then each shifted by one pixel: left, right, up, down."""
    images = X.reshape(-1, *image)
    copies = [images]
    for axis in (2, 1):
        for step in (-1, 1):
            moved = np.roll(images, step, axis=axis)
            # What was rolled over the edge is blank.
            edge = [slice(None)] * 3
            edge[axis] = slice(-1, None) if step < 0 else slice(0, 1)
            moved[tuple(edge)] = 0.0
            copies.append(moved)
    return np.concatenate(copies).reshape(-1, X.shape[1])


def read(path: str, target: str | None) -> Data:
    """Return the data of a CSV or NPZ file, told apart by their content."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise DemoError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise DemoError(f"{path} is a directory; a CSV or NPZ file is needed") from None
    except (OSError, ValueError) as error:
        raise DemoError(f"cannot read {path}: {_reason(error)}") from None
    if not start:
        raise DemoError(f"{path} is empty")
    zipped = start.startswith(b"PK")
    if path.lower().endswith(".npz") and not zipped:
        raise DemoError(f"{path} is not an NPZ file")
    data = _read_npz(path, target) if zipped else _read_csv(path, target)
    if data.X.shape[0] < FEWEST_ROWS:
        raise DemoError(
            f"{path} has {data.X.shape[0]} rows; at least {FEWEST_ROWS} are needed"
        )
    return data


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# --- CSV ----------------------------------------------------------------------------


def _read_csv(path: str, target: str | None) -> Data:
    if target is None:
        raise DemoError("--data needs --target: a column's name, or its index from 0")
    header, rows, lines = _csv_rows(path)
    at = _column(header, target, path)
    notes = []
    names = [name if name else f"column {i}" for i, name in enumerate(header)]
    keep = [i for i in range(len(header)) if i != at]
    if keep and keep[0] == 0 and header[0] == "" and _counts_up([r[0] for r in rows]):
        notes.append("the unnamed first column numbers the rows: left out")
        keep = keep[1:]
    if not keep:
        raise DemoError(f"{path} has no column but the target {names[at]!r}")
    y, classes, note = _csv_target([row[at] for row in rows], names[at], lines)
    notes.append(note)
    X = np.empty((len(rows), len(keep)))
    for j, i in enumerate(keep):
        X[:, j] = _csv_feature([row[i] for row in rows], names[i], lines)
    return Data(os.path.basename(path), X, y, classes, notes=notes)


def _csv_rows(path: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the header, the rows and each row's line in the file."""
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            # Spreadsheets write semicolons where the comma is the decimal sign.
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                if not row:
                    continue  # a blank line
                if len(row) != len(header):
                    raise DemoError(
                        f"{path}, line {reader.line_num}: {len(row)} values, where "
                        f"the header names {len(header)} columns"
                    )
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except UnicodeDecodeError:
        raise DemoError(f"{path} is not a text file in UTF-8") from None
    except csv.Error as error:
        raise DemoError(f"{path} is not a CSV file: {error}") from None
    except OSError as error:
        raise DemoError(f"cannot read {path}: {_reason(error)}") from None
    if not any(header):
        raise DemoError(f"{path} has no header row")
    numbers = [_number(name) for name in header]
    named_by_index = numbers == [float(i) for i in range(len(header))]
    if None not in numbers and not named_by_index:
        raise DemoError(
            f"{path}: the first line holds numbers; a header row with the columns' "
            "names is needed"
        )
    if not rows:
        raise DemoError(f"{path} has a header but no rows")
    return header, rows, lines


def _column(header: list[str], target: str, path: str) -> int:
    found = header.count(target)
    if found == 1:
        return header.index(target)
    if found > 1:
        raise DemoError(
            f"{path} has {found} columns named {target!r}; give --target as an index "
            "from 0"
        )
    try:
        index = int(target)
    except ValueError:
        shown = ", ".join(repr(name) for name in header[:10])
        more = f" and {len(header) - 10} more" if len(header) > 10 else ""
        raise DemoError(
            f"{path} has no column {target!r}; it has {shown}{more}"
        ) from None
    if not -len(header) <= index < len(header):
        raise DemoError(
            f"{path} has no column {index}: it has {len(header)} columns, 0 to "
            f"{len(header) - 1}"
        )
    return index % len(header)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _counts_up(cells: list[str]) -> bool:
    first = _number(cells[0])
    return first in (0.0, 1.0) and all(
        _number(cell) == i + first for i, cell in enumerate(cells)
    )


def _csv_feature(cells: list[str], name: str, lines: list[int]) -> NDArray[np.float64]:
    values = np.empty(len(cells))
    for k, cell in enumerate(cells):
        value = math.nan if cell.lower() in MISSING_FEATURE else _number(cell)
        if value is None:
            raise DemoError(
                f"column {name!r}, line {lines[k]}: {_short(cell)} is not a number; "
                "features must be numeric"
            )
        if math.isinf(value):
            raise DemoError(f"column {name!r}, line {lines[k]}: {cell} is not finite")
        values[k] = value
    return values


def _csv_target(
    cells: list[str], name: str, lines: list[int]
) -> tuple[NDArray[Any], list[str] | None, str]:
    for k, cell in enumerate(cells):
        if cell.lower() in MISSING:
            what = "NaN" if cell else "empty"
            raise DemoError(f"target {name!r}, line {lines[k]}: the value is {what}")
    numbers = [_number(cell) for cell in cells]
    if None in numbers:
        return _target(np.array(cells), name)
    values = np.array(numbers, np.float64)
    if not np.isfinite(values).all():
        k = int(np.isfinite(values).argmin())
        raise DemoError(f"target {name!r}, line {lines[k]}: {cells[k]} is not finite")
    return _target(values, name)


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


# --- NPZ ----------------------------------------------------------------------------


def _read_npz(path: str, target: str | None) -> Data:
    try:
        # Opened here, as NumPy leaves a file open that is not an archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            names = [n for n in archive.files if not n.startswith("__")]
            target = "y" if target is None else target
            if target not in names:
                raise DemoError(
                    f"{path} has no array {target!r}; it has {_list(names)}"
                )
            others = [n for n in names if n != target]
            source = others[0] if len(others) == 1 else "X"
            if source not in others:
                raise DemoError(
                    f"{path} has no array 'X' for the features; it has {_list(names)}"
                )
            X, y = archive[source], archive[target]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DemoError(f"cannot read {path}: {_reason(error)}") from None
    for array, name, kinds in ((X, source, "biuf"), (y, target, "biufU")):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
            raise DemoError(
                f"array {name!r} of {path} is not of numbers: "
                f"dtype {getattr(array, 'dtype', 'none')}"
            )
    notes = []
    if X.ndim < 2:
        raise DemoError(
            f"array {source!r} of {path} must have shape (n_samples, n_features); got "
            f"{X.shape}"
        )
    if X.ndim > 2:
        notes.append(f"{source} of shape {X.shape}: each sample made one row")
        X = X.reshape(X.shape[0], math.prod(X.shape[1:]))
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != X.shape[:1]:
        raise DemoError(
            f"array {target!r} of {path} must have shape ({X.shape[0]},), one value "
            f"for each row of {source!r}; got {y.shape}"
        )
    if X.size == 0:
        raise DemoError(f"array {source!r} of {path} is empty: shape {X.shape}")
    X = X.astype(np.float64)
    if np.isinf(X).any():
        row, column = (int(k) for k in np.argwhere(np.isinf(X))[0])
        raise DemoError(f"{source}[{row}, {column}] is not finite")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        k = int(np.isfinite(y).argmin())
        raise DemoError(f"target {target}[{k}] is {y[k]}")
    y, classes, note = _target(y, target)
    return Data(os.path.basename(path), X, y, classes, notes=[*notes, note])


def _list(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names) or "no arrays"


# --- the target ---------------------------------------------------------------------


def _target(
    values: NDArray[Any], name: str
) -> tuple[NDArray[Any], list[str] | None, str]:
    """Return labels or values, the classes if they are, and what was chosen."""
    distinct, labels = np.unique(values, return_inverse=True)
    text = values.dtype.kind == "U"
    if distinct.size == 1:
        only = str(distinct[0]) if text else f"{distinct[0]:g}"
        raise DemoError(f"target {name!r} has only one value, {only}: nothing to learn")
    whole = not text and bool(np.all(values == np.round(values)))
    few = distinct.size <= min(MOST_CLASSES, values.size // ROWS_PER_CLASS)
    if text and distinct.size > max(2, values.size // 2):
        raise DemoError(
            f"target {name!r} has {distinct.size} different strings in {values.size} "
            "rows: these are not classes"
        )
    if values.dtype.kind == "b" or text or (whole and few) or distinct.size == 2:
        classes = [str(v) if text or not whole else f"{v:.0f}" for v in distinct]
        shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        note = f"classification: {name!r} has {len(classes)} classes ({shown})"
        return labels.reshape(-1).astype(np.int64), classes, note
    note = (
        f"regression: {name!r} has {distinct.size} different numbers; squared error "
        "of the standardized target"
    )
    return values.astype(np.float64), None, note
