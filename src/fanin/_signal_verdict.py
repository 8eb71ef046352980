"""What is wrong with the signals of a network, where it starts, and what helps.

Design
Growth is judged over stretches of the way, never layer by layer: a factor of 0.8 is
noise in a narrow layer and 1e-5 after fifty layers. A stretch is the run of layers
whose growths multiply to most (Kadane's maximum subarray, on their logarithms), and
its start is where a level signal followed by a steady growth fits the logarithms best.
So the first of many layers that all shrink a little is found, and one bad layer among
good ones.

The steps of a stretch are blocks: a dense layer and what follows it up to the next.
Within a block, scales come and go (a normalization undoes the weight's), and only what
leaves it counts. A layer before a normalization may have any scale.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fanin._signal_records import InputRecord, LayerRecord, ProblemRecord
from fanin._signals import flat_bounds
from fanin.activations import Activation
from fanin.initializers import gain

__all__ = ["Facts", "factors", "judge", "limit"]

# A signal has vanished or exploded if a stretch multiplies it by less than 1 / SPAN or
# more than SPAN. Layers whose gradients differ by a factor learn at rates that differ
# by it, and a factor of 100 is what a learning rate is usually searched over. Less is
# normal: tanh at the rule decays as 1 / sqrt(2 l), to 0.1 after 50 layers, and fifty
# layers of relu with 256 units end within exp(+-0.5) (2 standard deviations,
# sqrt(5 l / n) / 2 in the logarithm: Hanin & Nica 2020).
SPAN = 100.0
# Within it the growth of one layer is level.
LEVEL = (0.9, 1.1)
# The logarithm of one layer's growth counts at most as much in the search for the
# start, lest one bad layer outweigh thirty that shrink a little.
CLIP = math.log(10.0)
# One layer with so much of a stretch's logarithm is what the stretch is about.
SINGLE = 0.8
# Stands for the logarithm of a growth of 0.
ZERO = -800.0

# If all samples looked alike, every unit of a rectifier would be on or off for all of
# them, and half the units dead. Only beyond that, by three standard deviations of a
# binomial and at least by a tenth, are units dead for another reason.
DEAD = 0.5
ALLOWANCE = (0.1, 3.0)
# So many flat values mean, of tanh, a z with standard deviation 6.8: C is 47 or more,
# where 1 is right. (Half of them may be in a network that has learned well.)
SATURATED = 0.75
# A layer whose samples differ by 1 % of its values (as far as X's do not do so
# themselves), or one direction with 99 % of the variance.
ALIKE = 1e-2
ONE_DIRECTION = 1.01

# A feature is out of scale at 10 times the median of all, in its standard deviation
# or its root mean square, if it is also larger than a standardized one. Features
# below are no danger to the others; at 1e-3 they are lost. (Pixels of an image that
# are nearly always 0 have small deviations, but values like the others'.)
OUT_OF_SCALE = 10.0
LOST = 1e-3
STANDARD = 2.0
# The scale of all features together.
ALL_LARGE, ALL_SMALL = 10.0, 1e-2

# The rule's constants may be missed by so much.
NEAR_THE_RULE = 0.1
RATIOS_APART = 1e3
FEW = 8


@dataclass
class Facts:
    """What a judgement is made of; one entry a layer in each list."""

    records: list[LayerRecord]
    kinds: list[str]  # as `Layer.kind`
    activations: list[Activation | None]
    largest_output: list[float]  # NaN or infinite if an output is
    largest_gradient: list[float]
    bad_weight: list[bool]  # whether it holds a NaN or an infinity
    features: InputRecord | None
    input_rank: float
    n_samples: int


@dataclass
class Block:
    """A dense layer and what follows it."""

    name: str
    activation: Activation | None
    record: LayerRecord  # of the dense layer
    active: LayerRecord  # of the layer with the activation
    level: float  # of the signal that leaves it
    gradient: float


def rule(activation: Activation) -> float:
    """Return the constant C of the rule Var(W) = C / fan_in."""
    return gain(activation, criterion="rule")


def _named(activation: Activation | None) -> str:
    return "identity" if activation is None else activation.name


def _blocks(facts: Facts) -> list[Block]:
    starts = [i for i, kind in enumerate(facts.kinds) if kind == "dense"] or [0]
    starts[0] = 0  # a normalization of X belongs to the first layer
    found = []
    for start, stop in zip(starts, [*starts[1:], len(facts.kinds)], strict=True):
        indices = range(start, stop)
        dense = next((i for i in indices if facts.kinds[i] == "dense"), start)
        active, source = dense, dense
        for i in indices:
            if facts.kinds[i] == "activation":
                active = source = i
            elif facts.kinds[i].endswith("norm") and i > dense:
                source = i
        level = facts.records[stop - 1].rms
        if math.isinf(level) and math.isfinite(facts.largest_output[stop - 1]):
            level = facts.largest_output[stop - 1]  # its square overflows
        found.append(
            Block(
                facts.records[dense].name,
                facts.activations[active],
                facts.records[dense],
                facts.records[active],
                level,
                facts.records[source].backward_norm,
            )
        )
    return found


def _log_ratio(after: float, before: float) -> float:
    """Return log(after / before); 0 where it is not known."""
    if not (math.isfinite(after) and math.isfinite(before)) or before <= 0.0:
        return 0.0
    return math.log(after) - math.log(before) if after > 0.0 else ZERO


def factors(facts: Facts) -> tuple[float, float]:
    """Return the mean growth per layer, forward from the first layer, and backward."""
    blocks = _blocks(facts)

    def mean(first: float, last: float) -> float:
        if len(blocks) < 2 or not (0 < first < math.inf and last < math.inf):
            return math.nan
        return float((last / first) ** (1 / (len(blocks) - 1)))

    levels, gradients = [b.level for b in blocks], [b.gradient for b in blocks]
    return mean(levels[0], levels[-1]), mean(gradients[-1], gradients[0])


# --- stretches ----------------------------------------------------------------------


def _stretch(logs: Sequence[float]) -> tuple[int, int, float]:
    """Return (first, last, sum) of the run with the largest sum, its start trimmed."""
    best, best_at, total, start = 0.0, (0, -1), 0.0, 0
    for i, value in enumerate(logs):
        if total <= 0.0:
            total, start = 0.0, i
        total += value
        if total > best:
            best, best_at = total, (start, i)
    first, last = best_at
    if last < first:
        return 0, -1, 0.0
    clipped = np.clip(np.array(logs[first : last + 1]), -CLIP, CLIP)
    errors = [
        float(np.sum(clipped[:k] ** 2) + np.var(clipped[k:]) * (clipped.size - k))
        for k in range(clipped.size)
    ]
    begin = first + int(np.argmin(errors))
    # The layer named is one that is not level itself, if there is one.
    beyond = [i for i in range(begin, last + 1) if logs[i] > math.log(LEVEL[1])]
    begin = beyond[0] if beyond else begin
    return begin, last, sum(logs[begin : last + 1])


def _growth(
    kind: str,
    names: tuple[str, str],
    steps: list[tuple[float, Block, Block]],
) -> ProblemRecord | None:
    """Judge one direction and sign; a step is (log growth, owner of weight, slope)."""
    sign = -1.0 if kind.startswith("vanishing") else 1.0
    logs = [sign * log for log, _, _ in steps]
    first, last, total = _stretch(logs)
    if total <= math.log(SPAN):
        return None
    subject, verb = names
    largest = max(range(first, last + 1), key=lambda i: logs[i])
    if logs[largest] >= SINGLE * total:
        _, owner, sloping = steps[largest]
        named = _guilty(steps[largest], sign)
        if logs[largest] >= -ZERO:
            are = "are" if subject == "gradients" else "is"
            said = f"{subject} {are} 0 from {named} on"
        else:
            said = f"{subject} {verb} by {_factor(sign * logs[largest])} in {named}"
        help_ = _remedy(sign, [(owner, sloping)], subject)
        return ProblemRecord(kind, named, f"{said}; {help_}")
    n = last - first + 1
    named = _guilty(steps[first], sign)
    place = "" if first == 0 and last == len(steps) - 1 else f" from {named} on"
    sentence = (
        f"{subject} {verb} by {_factor(sign * total / n)} per layer{place}: after {n} "
        f"layers {_factor(sign * total)}; "
    )
    pairs = [(owner, sloping) for _, owner, sloping in steps[first : last + 1]]
    return ProblemRecord(kind, named, sentence + _remedy(sign, pairs, subject))


def _factor(log: float) -> str:
    if log < -700 or log > 700:
        return f"1e{log / math.log(10):+.0f}"
    value = math.exp(log)
    return f"{value:.2g}" if 0.01 <= value < 1000 else f"{value:.0e}"


def _guilty(step: tuple[float, Block, Block], sign: float) -> str:
    """Name the layer of the weight or of the slope, whichever is farther off."""
    log, owner, sloping = step
    if owner is sloping or not owner.record.scale > 0:
        return owner.name
    expected = 1.0 if owner.activation is None else rule(owner.activation)
    of_weight = math.log(owner.record.scale / expected) / 2
    of_slope = log - of_weight
    return sloping.name if sign * of_slope > sign * of_weight else owner.name


def _remedy(sign: float, pairs: list[tuple[Block, Block]], subject: str) -> str:
    """Say what to do about blocks through which a signal grows or shrinks."""
    owners = [owner for owner, _ in pairs]
    known = [b for b in owners if b.activation is not None and b.record.scale >= 0]
    if known:
        off = [b.record.scale / rule(b.activation) for b in known if b.activation]
        ratio = float(np.median(off))
        if sign * (ratio - 1) > NEAR_THE_RULE:
            counted = Counter(_named(b.activation) for b in known)
            name = counted.most_common(1)[0][0]
            block = next(b for b in known if _named(b.activation) == name)
            assert block.activation is not None
            have = float(np.median([b.record.scale for b in known]))
            return (
                f"use scale {rule(block.activation):g} for {name} (the weights have "
                f"{have:.3g})"
            )
    sloping = [block for _, block in pairs]
    counted = Counter(_named(b.activation) for b in sloping if b.activation is not None)
    name = counted.most_common(1)[0][0] if counted else ""
    if sign < 0 and name == "logistic":
        return (
            "the slope of the logistic is at most 1/4, and the rule's scale keeps it "
            "there: use tanh or relu, or normalization layers"
        )
    flat = [b.active.saturated for b in sloping if two_sided(b.activation)]
    if sign < 0 and flat and float(np.median(flat)) > SATURATED / 3:
        return (
            "the units saturate: smaller weights or inputs, normalization layers, or "
            "an activation that saturates less, such as relu"
        )
    if not known and name:
        constant = rule(next(b.activation for b in sloping if b.activation is not None))
        return f"weights with variance {constant:g} / fan_in keep them level for {name}"
    if not known:
        return (
            "weights with variance C / fan_in keep them level, C = 2 for relu and 1 "
            "for tanh"
        )
    further = " or fanin.calibrate" if subject != "gradients" else ""
    return (
        "the weights have the scale of the rule: normalization layers, skip "
        f"connections{further} help"
    )


def two_sided(activation: Activation | None) -> bool:
    """Whether the function is flat on both sides, and so bounded."""
    low, high, _ = flat_bounds(activation)
    return math.isfinite(low) and math.isfinite(high)


def one_sided(activation: Activation | None) -> bool:
    """Whether the function is flat below alone."""
    low, high, _ = flat_bounds(activation)
    return math.isfinite(low) and not math.isfinite(high)


def _forward(facts: Facts, blocks: list[Block], kind: str) -> ProblemRecord | None:
    vanishing = kind == "vanishing_signal"
    steps = []
    before = facts.features.rms if facts.features is not None else math.nan
    for i, block in enumerate(blocks):
        last = i == len(blocks) - 1
        if last and _named(block.activation) == "identity":
            break  # the scale of logits, or of the targets
        if i == 0 and facts.features is None:
            before = block.level
            continue
        reference = before
        # X's own scale is not the network's; and what a bounded function takes away
        # from values above 1 has not vanished.
        if vanishing and (i == 0 or two_sided(block.activation)):
            reference = min(before, 1.0)
        elif not vanishing and i == 0:
            reference = max(before, 1.0)
        steps.append((_log_ratio(block.level, reference), block, block))
        before = block.level
    verb = "shrinks" if vanishing else "grows"
    return _growth(kind, ("the signal", verb), steps)


def _backward(blocks: list[Block], kind: str) -> ProblemRecord | None:
    steps = [
        (_log_ratio(below.gradient, above.gradient), above, below)
        for below, above in reversed(list(itertools.pairwise(blocks)))
    ]
    verb = "shrink" if kind == "vanishing_gradients" else "grow"
    return _growth(kind, ("gradients", verb), steps)


# --- units --------------------------------------------------------------------------


def limit(n_units: int) -> float:
    """Return the share of dead units beyond which more than chance is at work."""
    allowed = max(ALLOWANCE[0], ALLOWANCE[1] * 0.5 / math.sqrt(max(1, n_units)))
    return DEAD + allowed


def _others(names: list[str]) -> str:
    if len(names) < 2:
        return ""
    return f" (and {len(names) - 1} more layer{'s' if len(names) > 2 else ''})"


def _is_dead(record: LayerRecord, n_samples: int) -> bool:
    """Whether so many of the layer's units are dead that it is not chance."""
    if record.dead == 1.0 and (record.n_units > FEW or n_samples >= 4 * FEW):
        return True
    return record.dead > limit(record.n_units)


def _dead(facts: Facts) -> ProblemRecord | None:
    found: list[tuple[int, LayerRecord]] = []
    for i, record in enumerate(facts.records):
        function = facts.activations[i]
        if two_sided(function) or (
            i == len(facts.records) - 1 and not one_sided(function)
        ):
            continue  # saturated, which is another finding; or an output that is sure
        if _is_dead(record, facts.n_samples):
            found.append((i, record))
    if not found:
        return None
    i, first = found[0]
    function = facts.activations[i]
    if function is not None and function.name == "relu":
        help_ = (
            "biases at 0, a smaller learning rate, or leaky_relu, whose units cannot "
            "die"
        )
    else:
        help_ = "smaller weights and biases, or a smaller learning rate"
    return ProblemRecord(
        "dead_units",
        first.name,
        f"dead units: {_percent(first.dead)} of the {first.n_units} units of "
        f"{first.name} pass no gradient for any sample"
        f"{_others([r.name for _, r in found])}; {help_}",
    )


def _saturated(facts: Facts) -> ProblemRecord | None:
    found: list[tuple[int, LayerRecord]] = []
    for i, record in enumerate(facts.records[:-1] or facts.records):
        function = facts.activations[i]
        if function is None or function.name == "relu":
            continue  # a rectifier that is off is not saturated
        if record.saturated > SATURATED:
            found.append((i, record))
    if not found:
        return None
    i, first = found[0]
    function = facts.activations[i]
    assert function is not None
    help_ = "an activation that saturates less, such as relu, or normalization layers"
    excess = first.scale / rule(function)
    large = facts.features.rms if i == 0 and facts.features is not None else 0.0
    if large > STANDARD and not excess > large * large:
        help_ = "standardize the input"
    elif excess > 1 + NEAR_THE_RULE:
        help_ = (
            f"use scale {rule(function):g} for {function.name} (the weights have "
            f"{first.scale:.3g})"
        )
    return ProblemRecord(
        "saturated_units",
        first.name,
        f"saturated units: {_percent(first.saturated)} of the values of {first.name} "
        f"are where {function.name} is flat{_others([r.name for _, r in found])}; "
        f"{help_}",
    )


def _collapsed(facts: Facts) -> ProblemRecord | None:
    if facts.n_samples < FEW:
        return None
    features = facts.features
    varied = 1.0
    if features is not None and features.rms > 0:
        varied = min(1.0, math.sqrt(float(np.mean(features.std**2))) / features.rms)
    widest = facts.records[-1].n_units
    narrow = False
    for record in facts.records[:-1]:
        narrow |= record.n_units < 2
        if not record.rms > 0.0 or not math.isfinite(record.rms):
            return None  # there is nothing, which is another finding
        if record.sample_std < ALIKE * varied * record.rms:
            return ProblemRecord(
                "collapsed_signal",
                record.name,
                f"the signal is constant: the outputs of {record.name} differ between "
                f"samples by {record.sample_std / record.rms:.1g} of their size; "
                "biases at 0, normalization layers, or an activation with mean 0, "
                "such as tanh",
            )
        if (
            record.effective_rank < ONE_DIRECTION
            and widest > 2
            and not narrow
            and not facts.input_rank < 2 * ONE_DIRECTION
        ):
            return ProblemRecord(
                "collapsed_signal",
                record.name,
                f"the signal has collapsed: the outputs of {record.name} fill one "
                f"direction of {record.n_units} (effective rank "
                f"{record.effective_rank:.3g}); normalization layers, or orthogonal "
                "weights",
            )
    return None


def _percent(share: float) -> str:
    return "all" if share == 1.0 else f"{100 * share:.0f} %"


# --- the input ----------------------------------------------------------------------


def _unscaled(facts: Facts) -> ProblemRecord | None:
    features = facts.features
    if features is None or facts.kinds[0] == "batch_norm":
        return None
    std, mean = features.std, features.mean
    rms = np.hypot(std, mean)
    varies = ~_constant(features)
    if not varies.any():
        return None
    usual_std, usual_rms = float(np.median(std[varies])), float(np.median(rms[varies]))
    usual_largest = float(np.median(features.largest[varies]))
    large = (std > OUT_OF_SCALE * usual_std) | (rms > OUT_OF_SCALE * usual_rms)
    large &= rms > STANDARD
    lost = varies & (features.largest < LOST * usual_largest)
    advice = "standardize (fanin.standardize or scikit-learn's StandardScaler)"
    off = large | lost
    if off.any():
        # By how far they are off, the farthest first.
        far = np.abs(np.log(np.maximum(rms, 5e-324) / usual_rms))
        order = [int(j) for j in np.argsort(-far, kind="stable") if off[j]]
        told = ", ".join(_feature(features, j) for j in order[:3])
        more = f", and {len(order) - 3} more," if len(order) > 3 else ""
        return ProblemRecord(
            "unscaled_features",
            "X",
            f"unscaled features: {told}{more} while the median feature has std "
            f"{usual_std:.2g}: {advice}",
        )
    if features.rms > ALL_LARGE or float(np.max(features.largest)) < ALL_SMALL:
        return ProblemRecord(
            "unscaled_features",
            "X",
            f"unscaled features: all together have root mean square {features.rms:.3g} "
            f"and std {usual_std:.2g}: {advice}",
        )
    return None


def _feature(features: InputRecord, j: int) -> str:
    return (
        f"{features.names[j]!r} has mean {features.mean[j]:.3g} and std "
        f"{features.std[j]:.3g}"
    )


def _constant(features: InputRecord) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = features.std <= 1e-12 * np.abs(features.mean)
    return found


# --- numbers that are none ----------------------------------------------------------


def _not_finite(facts: Facts) -> ProblemRecord | None:
    features = facts.features
    if features is not None and not np.isfinite(features.largest).all():
        j = int(np.argmin(np.isfinite(features.largest)))
        return ProblemRecord(
            "not_finite", "X", f"not finite: X holds {features.largest[j]} in "
            f"{features.names[j]!r}"
        )  # fmt: skip
    for i, record in enumerate(facts.records):
        if facts.bad_weight[i]:
            return ProblemRecord(
                "not_finite",
                record.name,
                f"not finite: a parameter of {record.name} is NaN or infinite",
            )
        if not math.isfinite(facts.largest_output[i]):
            what = "NaN" if math.isnan(facts.largest_output[i]) else "infinite"
            return ProblemRecord(
                "not_finite", record.name, f"not finite: an output of {record.name} "
                f"is {what}, the first"
            )  # fmt: skip
    for i in reversed(range(len(facts.records))):
        largest = facts.largest_gradient[i]
        if math.isnan(facts.records[i].backward_norm) and math.isfinite(largest):
            continue  # there is none
        if not math.isfinite(largest):
            name = facts.records[i].name
            return ProblemRecord(
                "not_finite", name, f"not finite: a gradient at {name} is "
                f"{'NaN' if math.isnan(largest) else 'infinite'}, the first on the "
                "way back"
            )  # fmt: skip
    return None


# --- all of it ----------------------------------------------------------------------


@np.errstate(all="ignore")  # squares of large numbers overflow, and are not needed
def judge(facts: Facts) -> tuple[list[ProblemRecord], list[ProblemRecord]]:
    """Return the problems, the one to solve first in front, and the notes."""
    problems: list[ProblemRecord | None] = [_not_finite(facts)]
    if facts.features is not None and np.isfinite(facts.features.largest).all():
        problems.append(_unscaled(facts))
    blocks = _blocks(facts)
    dead = _dead(facts)
    silent = [r.name for r in facts.records if r.dead == 1.0]
    growth = [
        _backward(blocks, "exploding_gradients"),
        _backward(blocks, "vanishing_gradients"),
        _forward(facts, blocks, "exploding_signal"),
        _forward(facts, blocks, "vanishing_signal"),
    ]
    if dead is not None and dead.layer in silent:
        # Nothing passes a layer that is dead altogether: that is said already.
        problems.append(dead)
        growth = [p for p in growth if p and not p.kind.startswith("vanishing")]
        dead = None
    problems += [*growth, dead, _saturated(facts), _collapsed(facts)]
    return [p for p in problems if p is not None], _notes(facts)


def _notes(facts: Facts) -> list[ProblemRecord]:
    notes = []
    features = facts.features
    if facts.n_samples < FEW:
        notes.append(
            ProblemRecord(
                "few_samples",
                None,
                f"few samples: what {facts.n_samples} show of dead units and of ranks "
                "is chance",
            )
        )
    if features is not None and features.n_samples >= FEW:
        still = [features.names[j] for j in np.flatnonzero(_constant(features))]
        if still:
            told = ", ".join(repr(name) for name in still[:3])
            more = f" and {len(still) - 3} more" if len(still) > 3 else ""
            notes.append(
                ProblemRecord(
                    "constant_features",
                    "X",
                    f"constant features: {told}{more} "
                    f"({len(still)} of {features.n_features}) tell nothing",
                )
            )
    ratios = [
        (r.gradient_to_weight, r.name)
        for r in facts.records
        if 0 < r.gradient_to_weight < math.inf
    ]
    if ratios and max(ratios)[0] > RATIOS_APART * min(ratios)[0]:
        high, low = max(ratios), min(ratios)
        notes.append(
            ProblemRecord(
                "gradient_to_weight",
                low[1],
                f"the gradient is {low[0]:.1e} of the weight in {low[1]} and "
                f"{high[0]:.1e} in {high[1]}: no one learning rate suits both, unless "
                "the optimizer adapts it (Adam)",
            )
        )
    return notes
