"""What a gradient report consists of: records of entries, arrays and directions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BlockRecord", "DirectionRecord", "EntryRecord"]

# How many error estimates an entry may differ by before rounding no longer
# explains it. The estimate is a typical size; the largest of 10^6 normal errors is
# 5 of those, and an estimate from a few evaluations may be half of the true one.
ALLOWANCE = 10.0

# What a re-examined entry was found to be (see `GradientReport._from_vectors`).
PLAIN, AGREES, KINK, BLURRED, UNRESOLVED, WRONG = range(6)


@dataclass(frozen=True)
class EntryRecord:
    """One entry of the gradient, analytic against numeric.

    Attributes
    ----------
    name : str
        The array that holds the entry.
    index : tuple of int
        Its index in that array.
    analytic, numeric : float
        The two values.
    absolute, relative : float
        ``|numeric - analytic|``, and that over ``|numeric| + |analytic|``.
    step : float
        Half the distance of the two points at which the function was evaluated.
    f_plus, f_minus : float
        The function's values there (NaN where they were not kept).
    error_estimate : float
        The typical rounding error of `numeric` (and of `analytic`).
    """

    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    absolute: float
    relative: float
    step: float
    f_plus: float
    f_minus: float
    error_estimate: float


@dataclass(frozen=True)
class DirectionRecord:
    """One random directional derivative, analytic against numeric.

    Attributes
    ----------
    analytic, numeric : float
        The product of the analytic gradient with the direction, a unit vector on the
        scale ``max(1, |theta|)`` of the entries, and the difference quotient along it.
    absolute, relative : float
        ``|numeric - analytic|``, and that over ``|numeric| + |analytic|``.
    step : float
        Half the distance of the two points, in that scale.
    error_estimate : float
        The typical error of `numeric` (and of `analytic`).
    verdict : {"correct", "suspicious", "wrong", "inconclusive"}
        Whether both agree. "wrong" if the entry that is at fault was found, too:
        it is then one of the report's entries.
    """

    analytic: float
    numeric: float
    absolute: float
    relative: float
    step: float
    error_estimate: float
    verdict: str


@dataclass(frozen=True)
class BlockRecord:
    """One array of the parameters.

    Attributes
    ----------
    name : str
        Its name.
    shape : tuple of int
        Its shape; `n` is the number of entries.
    n : int
        The number of entries.
    relative_error : float
        ``||numeric - analytic|| / (||numeric|| + ||analytic||)`` over the array.
    verdict : {"correct", "suspicious", "wrong", "inconclusive", "unchecked"}
        By the rule that `fanin.check_gradient` states; "unchecked" if none of its
        entries was looked at.
    n_wrong : int
        The entries whose difference is beyond what rounding explains.
    analytic_norm, numeric_norm : float
        The Euclidean norms of the two gradients.
    hidden : float
        The relative error that rounding could hide in this array.
    worst : EntryRecord or None
        The most wrong entry; None for an empty array.
    n_checked : int
        The entries that were checked, which alone enter the other numbers.
    """

    name: str
    shape: tuple[int, ...]
    n: int
    relative_error: float
    verdict: str
    n_wrong: int
    analytic_norm: float
    numeric_norm: float
    hidden: float
    worst: EntryRecord | None
    n_checked: int = -1
