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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin import activations as functions
from fanin._quadrature import QuadratureError, gaussian_mean
from fanin._signal_records import InputRecord, LayerRecord, ProblemRecord
from fanin._signals import flat_bounds
from fanin.activations import Activation
from fanin.initializers import gain

__all__ = ["Facts", "factors", "judge", "limit"]

# A signal has vanished or exploded if a stretch multiplies it by less than 1 / SPAN or
# more than SPAN. Layers whose gradients differ by a factor learn at rates that differ
# by it, and a factor of 100 is what a learning rate is usually searched over. Less is
# normal: tanh at the rule decays as 1 / sqrt(2 l), to 0.1 after 50 layers, and fifty
# layers of relu with 256 units end within exp(+-1) (2 standard deviations of
# sqrt(5 l / n) / 2 in the logarithm: Hanin & Nica 2020).
SPAN = 100.0
# Gradients beyond this, by weights that do not have the rule's scale, are a note.
# (tanh at twice the rule, which learns at a fifth of the rate: 11 in fifty layers.)
NOTED = 5.0
# Within it the growth of one layer is level.
LEVEL = (0.9, 1.1)
# The logarithm of one layer's growth counts at most as much in the search for the
# start, lest one bad layer outweigh thirty that shrink a little.
CLIP = math.log(10.0)
# So much of a stretch's logarithm is what the stretch is about: one layer with it is
# named alone, and its ends are trimmed as long as it is left.
SINGLE = 0.8

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

# The rule's constants may be missed by so much, or by half its logarithm.
NEAR_THE_RULE = 0.1
NEAR = math.log(1 + NEAR_THE_RULE) / 2
# Functions with f(c z) = c f(z) for c > 0.
HOMOGENEOUS = ("identity", "relu", "leaky_relu")
# What helps where the weights are as they should be.
MORE = "normalization layers after the activations, or fewer layers"
# Layers through which theory is followed; it is level or steady by then.
DEPTH_OF_THEORY = 50
# The mean of a layer's biases outweighs its weights at so many standard deviations.
OUTWEIGHS = 2.0
RATIOS_APART = 1e3
FEW = 8
# Functions with outputs of mean about 0.
CENTRED = ("tanh", "identity", "elu", "selu")


@dataclass
class Facts:
    """What a judgement is made of; one entry a layer in each list."""

    records: list[LayerRecord]
    kinds: list[str]  # as `Layer.kind`
    activations: list[Activation | None]
    largest_output: list[float]  # not finite if an output is not
    largest_gradient: list[float]
    bad_weight: list[bool]  # whether it holds a NaN or an infinity
    bias: list[tuple[float, float]]  # mean and variance; NaN where not known
    features: InputRecord | None
    input_rank: float
    n_samples: int
    loss: float | None = None
    bad_input: str = ""  # what of X is not finite, in words
    by_hand: bool = False
    batch_statistics: bool = False  # taken because the running ones are as made
    # The kinds of problems there were when training began; None if it has not, or
    # nothing is known of it.
    at_start: frozenset[str] | None = None


@dataclass
class Finding:
    """A problem: what it is, and what helps."""

    kind: str
    layer: str | None
    said: str
    help: str
    # Whether weights of another scale than the rule's are behind it.
    off_the_rule: bool = False

    def record(self, at_start: frozenset[str] | None) -> ProblemRecord:
        """Return the problem in one sentence; `at_start` as in `Facts`."""
        help_ = self.help
        if at_start is not None and self.kind in OF_TRAINING - at_start:
            help_ = "training has led there: a smaller learning rate, or clip_norm"
        joint = ": " if self.kind == "unscaled_features" else "; "
        return ProblemRecord(self.kind, self.layer, f"{self.said}{joint}{help_}")


# What a step that is too long leads to, in a network that began without it.
OF_TRAINING = frozenset(
    {
        "not_finite",
        "dead_units",
        "saturated_units",
        "exploding_gradients",
        "vanishing_gradients",
        "exploding_signal",
        "vanishing_signal",
        "collapsed_signal",
    }
)


@dataclass
class Block:
    """A dense layer and what follows it."""

    name: str
    activation: Activation | None
    record: LayerRecord  # of the dense layer
    active: LayerRecord  # of the layer with the activation
    level: float  # of the signal that leaves it
    gradient: float
    least: float  # the smallest positive number of the outputs' dtype
    scaled: bool  # whether the weight's scale is known, and matters
    norm_before: bool  # a normalization before the activation, and after it
    norm_after: bool

    @property
    def deviation(self) -> float:
        """Half the logarithm of the weight's scale over the rule's; 0 if none."""
        if not self.scaled or self.activation is None or not self.record.scale > 0:
            return 0.0
        return math.log(self.record.scale / rule(self.activation)) / 2


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
        norms = [i for i in indices if facts.kinds[i].endswith("norm") and i > dense]
        for i in indices:
            if facts.kinds[i] == "activation":
                active = source = i
            elif i in norms:
                source = i
        before = any(i < active for i in norms)
        after = any(i > active for i in norms)
        function = facts.activations[active]
        # A normalization undoes the scale of what comes to it: through an activation
        # only where f(c z) is c f(z).
        undone = before or (after and _named(function) in HOMOGENEOUS)
        sample = facts.records[stop - 1].sample
        dtype = np.float64 if sample is None else sample.dtype
        level = facts.records[stop - 1].rms
        if math.isinf(level) and math.isfinite(facts.largest_output[stop - 1]):
            level = facts.largest_output[stop - 1]  # its square overflows
        found.append(
            Block(
                facts.records[dense].name,
                function,
                facts.records[dense],
                facts.records[active],
                level,
                facts.records[source].backward_norm,
                _least(dtype),
                facts.records[dense].scale >= 0 and not undone,
                before,
                after,
            )
        )
    return found


def _least(dtype: Any) -> float:
    kind: Any = np.dtype(dtype)
    return float(np.finfo(kind if kind.kind == "f" else np.float64).smallest_subnormal)


def _log_ratio(after: float, before: float, least: float) -> float:
    """Return log(after / before); 0 where it is not known.

    A 0 stands for any number below `least`: it is no more than the last step of a
    signal that has been shrinking for long, and much where it comes at once.
    """
    if not (math.isfinite(after) and math.isfinite(before)) or before <= 0.0:
        return 0.0
    if after > 0.0:
        return math.log(after) - math.log(before)
    return min(0.0, math.log(least) - math.log(before))


def factors(facts: Facts) -> tuple[float, float]:
    """Return the mean growth per layer, forward from the first layer, and backward."""
    blocks = _blocks(facts)

    def mean(values: list[float]) -> float:
        # What comes after a 0 is not known; it is 0 itself if all that comes is.
        zero = values.index(0.0) if 0.0 in values else len(values)
        values = values[: max(zero, 2)]
        if len(values) < 2 or not (0 < values[0] < math.inf and values[-1] < math.inf):
            return math.nan
        return float((values[-1] / values[0]) ** (1 / (len(values) - 1)))

    backward = [b.gradient for b in blocks[::-1]]
    if blocks[-1].record.scale == 0:
        backward = []  # none yet
    return mean([b.level for b in blocks]), mean(backward)


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
    # The layer named is one that is not level itself, if there is one.
    beyond = [i for i in range(first, last + 1) if logs[i] > math.log(LEVEL[1])]
    begin = first + _from(logs[first : last + 1])
    begin = next((i for i in beyond if i >= begin), begin)
    if sum(logs[begin : last + 1]) < SINGLE * best:
        begin = beyond[0] if beyond else first  # it begins in more than one place
    end = last - _from(logs[begin : last + 1][::-1])
    if end < begin or sum(logs[begin : end + 1]) < SINGLE * best:
        end = last
    return begin, end, sum(logs[begin : end + 1])


def _from(logs: Sequence[float]) -> int:
    """Return where level growth, and then a steady one, fit the logarithms best."""
    clipped = np.clip(np.array(logs), -CLIP, CLIP)
    errors = [
        float(np.sum(clipped[:k] ** 2) + np.var(clipped[k:]) * (clipped.size - k))
        for k in range(clipped.size)
    ]
    return int(np.argmin(errors))


@dataclass
class Travel:
    """One step of a signal's way: from a block to the next."""

    log: float  # of the growth
    owner: Block  # of the weight
    sloping: Block  # of the activation's slope
    zero: bool  # whether nothing is left


def _growth(
    kind: str, subject: str, steps: list[Travel], facts: Facts, span: float = SPAN
) -> Finding | None:
    """Judge one direction and sign."""
    sign = -1.0 if kind.startswith("vanishing") else 1.0
    logs = [sign * step.log for step in steps]
    first, last, total = _stretch(logs)
    if total <= math.log(span):
        return None
    many = subject == "gradients"
    verb = "shrink" if sign < 0 else "grow"
    verb, are = (verb, "are") if many else (f"{verb}s", "is")
    stretch = steps[first : last + 1]
    largest = max(stretch, key=lambda step: sign * step.log)
    if sign * largest.log >= SINGLE * total:
        stretch = [largest]
        named = _guilty(largest, sign)
        if largest.zero:
            said = f"{subject} {are} 0 from {named} on"
        else:
            said = f"{subject} {verb} by {_factor(largest.log)} in {named}"
    elif guilty := _few_weights(sign, stretch, total):
        stretch = [step for step in stretch if step.owner in guilty]
        named = stretch[0].owner.name
        end = _factor(sum(step.log for step in stretch))
        said = f"{subject} {verb} by {end} in {_listed(guilty, facts)}"
    else:
        n = len(stretch)
        named = _guilty(stretch[0], sign)
        whole = first == 0 and last >= 0.9 * (len(steps) - 1)
        place = "" if whole else f" from {named} on"
        end = "0" if stretch[-1].zero else _factor(sign * total)
        said = (
            f"{subject} {verb} by {_factor(sign * total / n)} per layer{place}: after "
            f"{n} layers {end}"
        )
    help_, off = _remedy(sign, stretch, total, subject, facts)
    return Finding(kind, named, said, help_, off)


def _few_weights(sign: float, stretch: list[Travel], total: float) -> list[Block]:
    """Return the blocks whose weights' scales make up most of it, if they are few."""
    off = [sign * step.owner.deviation for step in stretch]
    if float(np.median(off)) > NEAR:
        return []
    guilty = [
        step.owner
        for step, d in zip(stretch, off, strict=True)
        if d > max(NEAR, 0.1 * total)
    ]
    return guilty if sum(sign * b.deviation for b in guilty) > total / 2 else []


def _listed(blocks: list[Block], facts: Facts) -> str:
    order = [r.name for r in facts.records]
    names = sorted((b.record.name for b in blocks), key=order.index)
    if len(names) > 3:
        return f"{', '.join(names[:3])} and {len(names) - 3} more layers"
    return " and ".join(names)


def _factor(log: float) -> str:
    if log < -700 or log > 700:
        return f"1e{log / math.log(10):+.0f}"
    value = math.exp(log)
    return f"{value:.2g}" if 0.01 <= value < 1000 else f"{value:.0e}"


def _guilty(step: Travel, sign: float) -> str:
    """Name the layer of the weight or of the slope, whichever is farther off."""
    owner, sloping = step.owner, step.sloping
    if owner is sloping or not owner.record.scale > 0 or not owner.scaled:
        return owner.name
    expected = 1.0 if owner.activation is None else rule(owner.activation)
    of_weight = math.log(owner.record.scale / expected) / 2
    of_slope = step.log - of_weight
    return sloping.name if sign * of_slope > sign * of_weight else owner.name


def _use(activation: Activation, have: float, facts: Facts) -> str:
    """Say what scale to ask for, and how."""
    constant = rule(activation)
    how = "as init='he_normal' does" if constant == 2 else "as init='lecun_normal' does"
    if facts.by_hand:
        how = f"that is variance {constant:g} / fan_in"
    return (
        f"use scale {constant:g} for {activation.name} (the weights have {have:.3g}), "
        f"{how}"
    )


def _remedy(
    sign: float, stretch: list[Travel], total: float, subject: str, facts: Facts
) -> tuple[str, bool]:
    """Say what to do about layers through which a signal grows or shrinks.

    Also whether it is the weights' scale, which is not the rule's.
    """
    owners = [step.owner for step in stretch]
    empty = [b.record.name for b in owners if b.record.scale == 0]
    if sign < 0 and empty:
        how = (
            "random ones" if facts.by_hand else "random ones, such as init='he_normal'"
        )
        return f"all weights of {empty[0]}{_others(empty)} are 0: use {how}", True
    sloping = [step.sloping for step in stretch]
    told = _bias_told(facts, sloping[-1].name) if sign < 0 else None
    if told is not None:
        return told, True
    known = [b for b in owners if b.scaled and b.activation is not None]
    off = [sign * b.deviation for b in known]
    normed = any(b.norm_before or b.norm_after for b in owners + sloping)
    usual = _usual(sloping)
    if 2 * len(known) > len(owners) and float(np.median(off)) > NEAR:
        activation = _usual(known)
        assert activation is not None
        n = len(stretch)
        # At some depths no scale keeps it level.
        beyond = _left_at_the_rule(activation, n, subject) * sign > math.log(SPAN)
        if not (beyond and activation.name == "logistic"):
            have = [
                b.record.scale for b in known if _named(b.activation) == activation.name
            ]
            help_ = _use(activation, float(np.median(have)), facts)
            if beyond:
                help_ += (
                    f"; in {n} layers of {activation.name} that is not level either: "
                    f"{'fewer layers' if normed else MORE}"
                )
            return help_, True
    if sign < 0 and _named(usual) == "logistic":
        if any(b.norm_after for b in sloping):
            norms = ""
        elif any(b.norm_before for b in sloping):
            norms = ", or normalization after the activation instead of before it"
        else:
            norms = ", or normalization layers after the activations"
        return (
            f"the slope of the logistic is at most 1/4: use tanh or relu{norms}"
        ), False
    flat = [b.active.saturated for b in sloping if two_sided(b.activation)]
    if sign < 0 and flat and float(np.median(flat)) > SATURATED / 3:
        norms = "" if normed else "normalization layers, "
        return (
            f"the units saturate: smaller weights or inputs, {norms}or an activation "
            "that saturates less, such as relu"
        ), False
    if normed:
        if sign > 0 and subject == "gradients" and "batch_norm" in facts.kinds:
            # Yang et al. 2019: by sqrt(pi / (pi - 1)) = 1.21 in a layer of relu.
            instead = ", or LayerNorm instead" if _named(usual) == "relu" else ""
            why = "batch normalization lets gradients grow so"
            return f"fewer layers{instead}: {why}", False
        return "fewer layers", False
    if not known:
        if usual is not None:
            return (
                f"weights with variance {rule(usual):g} / fan_in keep them level for "
                f"{usual.name}"
            ), False
        return (
            "weights with variance C / fan_in keep them level, C = 2 for relu and 1 "
            "for tanh"
        ), False
    activation = _usual(known)
    assert activation is not None
    if max(abs(b.deviation) for b in known) < 2 * NEAR:
        what = "the weights have the scale of the rule"
    else:
        middle = float(np.median([b.record.scale for b in known]))
        what = f"the weights have scale {middle:.3g}, the rule is {rule(activation):g}"
    further = " or fanin.calibrate" if subject != "gradients" else ""
    further = "" if facts.by_hand else further
    return f"{what}: {MORE}{further}", False


def _usual(blocks: list[Block]) -> Activation | None:
    """Return the activation that most of the blocks have."""
    found = [b.activation for b in blocks if b.activation is not None]
    if not found:
        return None
    name = Counter(f.name for f in found).most_common(1)[0][0]
    return next(f for f in found if f.name == name)


def _left_at_the_rule(activation: Activation, n: int, subject: str) -> float:
    """Return the logarithm of what n layers at the rule's scale make of a signal.

    By mean-field theory, from a mean square of 1; 0 where it has no answer.
    """
    constant, square, total = rule(activation), 1.0, 0.0
    told = min(n, DEPTH_OF_THEORY)
    try:
        for _ in range(told):
            std = math.sqrt(constant * square)
            after = gaussian_mean(
                lambda z: functions.apply(z, activation, n_threads=1) ** 2, std
            )
            if subject == "gradients":
                slope = gaussian_mean(
                    lambda z: functions.derivative(z, activation, n_threads=1) ** 2, std
                )
                total += math.log(constant * slope) / 2
            else:
                total += math.log(after / square) / 2
            square = after
    except (QuadratureError, ArithmeticError, ValueError):
        return 0.0
    return total * n / told


def _bias_told(facts: Facts, name: str) -> str | None:
    """Say which biases outweigh the weights in a layer not above the one named."""
    before = facts.features.rms if facts.features is not None else math.nan
    for block in _blocks(facts):
        i = next(k for k, r in enumerate(facts.records) if r is block.record)
        mean, variance = facts.bias[i]
        level = facts.records[i - 1].rms if i else before
        std = math.sqrt(max(0.0, block.record.scale)) * level
        large = abs(mean) > OUTWEIGHS * math.hypot(std, math.sqrt(variance))
        if large and not block.norm_before and (mean < 0 or block.active.dead < 1):
            times = f", {abs(mean) / std:.2g} times the std of " if std > 0 else ""
            return (
                f"the biases of {block.record.name} are {mean:.3g} in the mean{times}"
                f"{('A W' if i else 'X W') if times else ''}: biases at 0"
            )
        if name in (block.name, block.active.name):
            break
    return None


def two_sided(activation: Activation | None) -> bool:
    """Whether the function is flat on both sides, and so bounded."""
    low, high, _ = flat_bounds(activation)
    return math.isfinite(low) and math.isfinite(high)


def one_sided(activation: Activation | None) -> bool:
    """Whether the function is flat below alone."""
    low, high, _ = flat_bounds(activation)
    return math.isfinite(low) and not math.isfinite(high)


def _forward(facts: Facts, blocks: list[Block], kind: str) -> Finding | None:
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
        log = _log_ratio(block.level, reference, block.least)
        steps.append(Travel(log, block, block, block.level == 0.0))
        before = block.level
    return _growth(kind, "the signal", steps, facts)


def _backward(
    facts: Facts, blocks: list[Block], kind: str, span: float = SPAN
) -> Finding | None:
    steps = [
        Travel(
            _log_ratio(below.gradient, above.gradient, above.least),
            above,
            below,
            below.gradient == 0.0,
        )
        for below, above in reversed(list(itertools.pairwise(blocks)))
        if not (above is blocks[-1] and above.record.scale == 0)  # a note says so
    ]
    return _growth(kind, "gradients", steps, facts, span)


def _no_gradient(facts: Facts) -> Finding | None:
    """Judge a gradient that is 0 at the output, while the loss is not."""
    known = [r for r in facts.records if not math.isnan(r.backward_norm)]
    if not known or known[-1].backward_norm != 0.0 or facts.loss == 0.0:
        return None
    top = known[-1]
    i = next(k for k, r in enumerate(facts.records) if r is top)
    function = facts.activations[i]
    if function is not None and top.saturated == 1.0:
        help_ = (
            f"all its values are where {function.name} is flat: smaller weights and "
            "biases, or targets that it can reach"
        )
        if function.name == "logistic":
            help_ += ", or the loss 'binary_cross_entropy', which contains it"
    else:
        help_ = "look at the loss and its targets"
    return Finding(
        "vanishing_gradients", top.name, f"gradients are 0 at {top.name} already", help_
    )


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


def _dead(facts: Facts) -> Finding | None:
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
    told = _bias_told(facts, first.name)
    if told is not None:
        help_ = told
    elif function is not None and function.name == "relu":
        help_ = (
            "biases at 0, a smaller learning rate, or leaky_relu, whose units cannot "
            "die"
        )
    else:
        help_ = "smaller weights and biases, or a smaller learning rate"
    of = f"{_percent(first.dead)} of the {first.n_units} units of {first.name} pass"
    if first.n_units == 1:
        of = f"the unit of {first.name} passes"
    return Finding(
        "dead_units",
        first.name,
        f"dead units: {of} no gradient for any sample"
        f"{_others([r.name for _, r in found])}",
        help_,
        told is not None,
    )


def _reached(facts: Facts, name: str) -> bool:
    """Whether the z of a layer are of a size that is none to die of."""
    sizes = [r.rms for r in facts.records]
    i = next(k for k, r in enumerate(facts.records) if r.name == name)
    start = facts.features.rms if facts.features is not None else sizes[0]
    for block in _blocks(facts):
        if name in (block.name, block.active.name):
            at = next(k for k, r in enumerate(facts.records) if r is block.record)
            entering = sizes[at - 1] if at else start
            scale = block.record.scale
            size = math.sqrt(scale) * entering if block.scaled else entering
            return not size < min(1.0, start) / SPAN
    return not (i and sizes[i - 1] < min(1.0, start) / SPAN)


def _saturated(facts: Facts) -> Finding | None:
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
    help_ = "an activation that saturates less, such as relu"
    if not _normed(facts):
        help_ += ", or normalization layers"
    block = next((b for b in _blocks(facts) if b.active is first), None)
    if block is not None and not math.isnan(block.record.scale):
        weight = block.record
    else:
        weight = first
    excess = weight.scale / rule(function)
    if block is not None and not block.scaled:
        excess = math.nan
    in_front = block is not None and block.record is facts.records[0]
    large = facts.features.rms if in_front and facts.features is not None else 0.0
    told = _bias_told(facts, first.name)
    if told is not None:
        help_ = told
    elif large > STANDARD and not excess > large * large:
        help_ = "standardize the input"
    elif excess > 1 + NEAR_THE_RULE:
        help_ = _use(function, weight.scale, facts)
    return Finding(
        "saturated_units",
        first.name,
        f"saturated units: {_percent(first.saturated)} of the values of {first.name} "
        f"are where {function.name} is flat{_others([r.name for _, r in found])}",
        help_,
        excess > 1 + NEAR_THE_RULE,
    )


def _normed(facts: Facts) -> bool:
    return any(kind.endswith("norm") for kind in facts.kinds)


def _collapsed(facts: Facts) -> Finding | None:
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
        by = record.sample_std / record.rms
        same = record.effective_rank == 0.0 or by < ALIKE * varied
        if not same and not (
            record.effective_rank < ONE_DIRECTION
            and widest > 2
            and not narrow
            and not facts.input_rank < 2 * ONE_DIRECTION
        ):
            continue
        norms = [] if _normed(facts) else ["normalization layers"]
        if same and by < ALIKE * varied and by > 0:
            what = (
                f"the signal is constant: the outputs of {record.name} differ between "
                f"samples by {by:.1g} of their size"
            )
        elif same:
            nearly = " nearly" if by > 0 else ""
            what = (
                f"the signal is constant: the outputs of {record.name} are the same "
                f"for{nearly} all samples"
            )
        else:
            what = (
                f"the signal has collapsed: the outputs of {record.name} fill one "
                f"direction of {record.n_units} (effective rank "
                f"{record.effective_rank:.3g})"
            )
        told = _bias_told(facts, record.name)
        if told is not None:
            help_ = told
        elif not same:
            help_ = ", or ".join([*norms, "orthogonal weights"])
        else:
            centred = record.activation in CENTRED
            offset = [] if centred else ["an activation with mean 0, such as tanh"]
            help_ = ", or ".join(["biases at 0", *norms, *offset])
            if varied < 1 / STANDARD:
                help_ = "standardize the input"
        return Finding("collapsed_signal", record.name, what, help_)
    return None


def _percent(share: float) -> str:
    return "all" if share == 1.0 else f"{100 * share:.3g} %"


# --- the input ----------------------------------------------------------------------


def _unscaled(facts: Facts) -> Finding | None:
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
    # Where most are large, the others are not the ones that are off.
    large = std > OUT_OF_SCALE * min(usual_std, STANDARD)
    large |= rms > OUT_OF_SCALE * min(usual_rms, STANDARD)
    large &= rms > STANDARD
    lost = varies & (features.largest < LOST * usual_largest)
    advice = "standardize (fanin.standardize or scikit-learn's StandardScaler)"
    off = large | lost
    apart = np.max(rms[varies]) > OUT_OF_SCALE * np.min(rms[varies])
    if off.any() and (apart or not large[varies].all()):
        # By how far they are off, the farthest first.
        far = np.abs(np.log(np.maximum(rms, 5e-324) / min(usual_rms, STANDARD)))
        order = [int(j) for j in np.argsort(-far, kind="stable") if off[j]]
        told = ", ".join(_feature(features, j) for j in order[:3])
        more = f", and {len(order) - 3} more," if len(order) > 3 else ""
        usual = f"the median feature has std {usual_std:.2g}"
        if 2 * len(order) >= np.count_nonzero(varies) or usual_std > STANDARD:
            usual = "a standardized one has std 1"
        return Finding(
            "unscaled_features",
            "X",
            f"unscaled features: {told}{more} while {usual}",
            advice,
        )
    small = float(np.max(features.largest)) < ALL_SMALL
    if facts.kinds[0].endswith("norm"):  # which undoes the scale of all together
        return None
    if features.rms > ALL_LARGE or small:
        return Finding(
            "unscaled_features",
            "X",
            f"unscaled features: all together have root mean square {features.rms:.3g} "
            f"and std {usual_std:.2g}",
            advice,
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


def _not_finite(facts: Facts) -> tuple[Finding | None, int]:
    """Return the finding, and how many layers signals come through unharmed."""
    kind, n = "not_finite", len(facts.records)
    if facts.bad_input:
        said = f"not finite: X holds {facts.bad_input}"
        return Finding(kind, "X", said, "leave it out or replace it"), 0
    for i, record in enumerate(facts.records):
        if facts.bad_weight[i]:
            said = f"not finite: a parameter of {record.name} is NaN or infinite"
            help_ = "new weights, and a smaller learning rate or clip_norm"
            return Finding(kind, record.name, said, help_), i
        if not math.isfinite(facts.largest_output[i]):
            infinite = math.isinf(facts.largest_output[i])
            what = "infinite" if infinite else "NaN"
            said = f"not finite: an output of {record.name} is {what}, the first"
            help_ = "smaller weights" if infinite else "look at what computes it"
            return Finding(kind, record.name, said, help_), i
    for i in reversed(range(n)):
        largest = facts.largest_gradient[i]
        if not math.isfinite(largest):
            name, what = facts.records[i].name, "infinite"
            if math.isnan(largest):
                what = "NaN"
            said = (
                f"not finite: a gradient at {name} is {what}, the first on the way back"
            )
            help_ = "smaller weights, or a loss of smaller targets"
            return Finding(kind, name, said, help_), n
    return None, n


# --- all of it ----------------------------------------------------------------------


@np.errstate(all="ignore")  # squares of large numbers overflow, and are not needed
def judge(facts: Facts) -> tuple[list[ProblemRecord], list[ProblemRecord]]:
    """Return the problems, the one to solve first in front, and the notes."""
    broken, n_sound = _not_finite(facts)
    findings = [broken]
    if not facts.bad_input:
        findings.append(_unscaled(facts))
    if n_sound == len(facts.records):
        findings += _of_layers(facts)
    elif n_sound:
        # What comes of numbers that are none says nothing.
        findings += _of_layers(
            replace(
                facts,
                records=[
                    replace(r, backward_norm=math.nan) for r in facts.records[:n_sound]
                ],
                kinds=facts.kinds[:n_sound],
            )
        )
    problems = [f.record(facts.at_start) for f in findings if f is not None]
    notes = _notes(facts)
    fresh = [  # as made: training moves the biases
        facts.bias[i] == (0.0, 0.0)
        for i, kind in enumerate(facts.kinds)
        if kind == "dense"
    ]
    if not problems and facts.n_samples >= FEW and all(fresh):
        # Of what is no problem yet, but has a remedy.
        for kind in ("exploding_gradients", "vanishing_gradients"):
            found = _backward(facts, _blocks(facts), kind, NOTED)
            if found is not None and found.off_the_rule:
                found.kind = "gradient_growth"
                notes.append(found.record(None))
    return problems, notes


def _of_layers(facts: Facts) -> list[Finding | None]:
    blocks = _blocks(facts)
    growth = [
        _no_gradient(facts),
        _backward(facts, blocks, "exploding_gradients"),
        _backward(facts, blocks, "vanishing_gradients"),
        _forward(facts, blocks, "exploding_signal"),
        _forward(facts, blocks, "vanishing_signal"),
    ]
    found = [f for f in growth if f is not None]
    dead = _dead(facts)
    if dead is not None and not (dead.off_the_rule or _reached(facts, str(dead.layer))):
        # There is nothing there to be on for.
        dead = dead if not any(f.kind == "vanishing_signal" for f in found) else None
    first: list[Finding] = []
    if dead is not None:
        names = [r.name for r in facts.records]
        below = facts.records[names.index(str(dead.layer)) :]
        # Where a gradient ends in units that are dead, they are why.
        ends = any(
            f.kind.startswith("vanishing")
            and f.layer == dead.layer
            and not f.off_the_rule
            for f in found
        )
        if dead.off_the_rule or below[0].dead == 1.0 or ends:
            first.append(dead)
            dead = None
        if first and any(r.dead == 1.0 for r in below):
            # Nothing passes a layer that is dead altogether: that is said already.
            found = [f for f in found if not f.kind.startswith("vanishing")]
    # Gradients die with the signal; and what weights of a wrong scale do may have
    # consequences elsewhere.
    silent = any(block.level == 0.0 for block in blocks)
    found.sort(
        key=lambda f: (
            not (silent and f.kind == "vanishing_signal"),
            not f.off_the_rule,
        )
    )
    return [*first, *found, dead, _saturated(facts), _collapsed(facts)]


def _notes(facts: Facts) -> list[ProblemRecord]:
    notes = []
    features = facts.features
    if facts.n_samples < FEW:
        notes.append(
            ProblemRecord(
                "few_samples",
                None,
                f"few samples: what {facts.n_samples} "
                f"show{'s' if facts.n_samples == 1 else ''} of dead units and of ranks "
                "is chance",
            )
        )
    if facts.batch_statistics:
        notes.append(
            ProblemRecord(
                "batch_statistics",
                None,
                "batch normalization by the statistics of X, as in training: its "
                "running ones are as made",
            )
        )
    top = facts.records[-1]
    if facts.kinds[-1] == "dense" and top.scale == 0 and len(facts.records) > 1:
        notes.append(
            ProblemRecord(
                "zero_output",
                top.name,
                f"the weights of {top.name} are all 0: no gradient passes it before "
                "the first step",
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
