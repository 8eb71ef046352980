"""The health of signals through depth: what each layer does to them, and a verdict.

In a deep network the scale of activations and gradients multiplies layer by layer.
`fanin.Network.diagnose` measures it on data in one pass; `diagnose_signals` does the
same for arrays of a network written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _signal_verdict as verdicts
from fanin import _signals, _threads, activations
from fanin import _validation as check
from fanin._signal_records import InputRecord, LayerRecord, ProblemRecord
from fanin._signal_report import SignalReport, SignalWarning, Step, _thin
from fanin.functional import dense

if TYPE_CHECKING:
    from fanin.network import Network

__all__ = [
    "InputRecord",
    "LayerRecord",
    "ProblemRecord",
    "SignalReport",
    "SignalWarning",
    "diagnose_signals",
]


def _norm_of(array: NDArray[Any], n_threads: int) -> tuple[float, bool]:
    """Return the Euclidean norm of a matrix or vector, and whether it is not finite."""
    if array.size == 0:
        return 0.0, False
    s = _signals.observe(array.reshape(-1, array.shape[-1]), n_threads=n_threads)
    bad = not np.isfinite(s.largest).all()
    return math.nan if bad else s.rms() * math.sqrt(array.size), bad


# What is looked at for a rank, rows times columns, if that is some rows; and what is
# kept of a layer's outputs.
RANK_VALUES = 2**23
LEAST_ROWS = 64
KEPT_VALUES = 2**18


def _rows_for_rank(n_rows: int, n_columns: int) -> slice:
    most = max(LEAST_ROWS, RANK_VALUES // max(1, n_columns))
    return slice(None, None, -(-n_rows // most) or 1)


@np.errstate(all="ignore")
def effective_rank(sample: NDArray[Any], n_threads: int) -> float:
    """Return tr(S)^2 / tr(S S) of the covariance S of the columns."""
    sample = sample[_rows_for_rank(*sample.shape)]
    if sample.shape[0] < 2 or not np.isfinite(sample).all():
        return math.nan
    A = np.array(sample, np.float64)
    A -= A.mean(axis=0)
    largest = float(max(A.max(initial=0.0), -A.min(initial=0.0)))
    if largest == 0.0:
        return 0.0
    A /= largest
    # (fanin's product, for NumPy's would start threads of its own.)
    left = A if A.shape[0] < A.shape[1] else A.T
    gram = dense(left, left.T, n_threads=n_threads)
    return float(np.trace(gram) ** 2 / np.sum(gram * gram))


def _record(
    name: str,
    activation: activations.Activation | None,
    forward: _signals.UnitStatistics,
    backward: _signals.UnitStatistics | None,
    sample: NDArray[Any],
    *,
    flat_known: bool,
    before: float,
    above: float,
    scale: float,
    weight_norm: float,
    weight_gradient_norm: float,
    n_threads: int,
) -> LayerRecord:
    n, units = forward.n, forward.mean.size
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.mean(forward.mean))
        rms, std, sample_std = forward.sizes()
        norm = math.nan
        if backward is not None:
            norm = backward.rms() * math.sqrt(units)
        counted = forward.flat if flat_known else forward.zero
        dead = float(np.mean(counted == n))
        saturated = float(np.mean(forward.flat) / n) if flat_known else math.nan
        if not np.isfinite(forward.largest).all():
            dead = saturated = math.nan
        rank = effective_rank(sample, n_threads)
        sample.setflags(write=False)
        record = LayerRecord(
            name=name,
            activation=None if activation is None else activation.name,
            n_units=units,
            mean=mean,
            std=std,
            rms=rms,
            sample_std=sample_std,
            dead=dead,
            saturated=saturated,
            effective_rank=rank,
            scale=scale,
            forward_growth=_ratio(rms, before),
            backward_norm=norm,
            backward_growth=_ratio(norm, above),
            weight_norm=weight_norm,
            weight_gradient_norm=weight_gradient_norm,
            gradient_to_weight=_ratio(weight_gradient_norm, weight_norm),
            sample=sample,
        )
        return _thin(record, KEPT_VALUES)


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _largest(s: _signals.UnitStatistics | None) -> float:
    """Return the largest absolute value, NaN if there is a NaN."""
    return 0.0 if s is None else float(np.max(s.largest, initial=0.0))


def _bad_value(
    X: NDArray[Any], record: InputRecord, dtype: np.dtype[Any] | None = None
) -> str:
    """Say which number of X is none, or none in the network's dtype; "" if all are."""
    limit = math.inf if dtype is None else float(np.finfo(dtype).max)
    bad = ~np.isfinite(record.largest) | (record.largest > limit)
    if not bad.any():
        return ""
    j = int(np.argmax(bad))
    column = X[:, j]
    # (Integers are finite; longer floats than double may be beyond it.)
    off = np.flatnonzero(~np.isfinite(column) | (np.abs(column) > limit))
    if off.size == 0:
        return ""
    i = int(off[0])
    said = f"{float(column[i]):g} in {record.names[j]!r}, row {i}"
    if np.isfinite(column[i]):
        said += f", which is too large for the network's {dtype}"
    return said


def _bias_of(bias: NDArray[Any] | None) -> tuple[float, float]:
    """Return mean and variance of the biases; 0 without any."""
    if bias is None or not bias.size:
        return 0.0, 0.0
    with np.errstate(all="ignore"):
        values = np.asarray(bias, np.float64)
        return float(values.mean()), float(values.var())


def _input_record(s: _signals.UnitStatistics, names: tuple[str, ...]) -> InputRecord:
    std = s.std
    for array in (s.mean, std, s.largest):
        array.setflags(write=False)
    return InputRecord(s.n, s.mean.size, names, s.mean, std, s.largest, s.rms())


def _feature_names(X: Any, given: Any, n_features: int) -> tuple[str, ...]:
    """Return the names asked for, those of a frame's columns, or numbers."""
    if given is None:
        columns = None if isinstance(X, np.ndarray) else getattr(X, "columns", None)
        if columns is not None and not callable(columns):
            found = tuple(str(name) for name in columns)
            if len(found) == n_features:
                return found
        return tuple(f"feature {j}" for j in range(n_features))
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(
            f"feature_names must be a sequence of strings; got {check.what(given)}"
        )
    listed = tuple(given)
    for j, name in enumerate(listed):
        if not isinstance(name, str):
            raise TypeError(
                f"feature_names[{j}] must be a string; got {check.what(name)}"
            )
    if len(listed) != n_features:
        raise ValueError(
            f"feature_names must hold a name for each of the {n_features} features; "
            f"got {len(listed)}"
        )
    return tuple(str(name) for name in listed)


def diagnose_network(
    network: Network,
    X: ArrayLike,
    y: ArrayLike | None,
    *,
    training: bool | None,
    feature_names: Sequence[str] | None,
    n_threads: int | None,
    at_start: frozenset[str] | None = None,
) -> SignalReport:
    """Return the report of `fanin.Network.diagnose`; `at_start` as in `Facts`."""
    threads = _threads.resolve(n_threads)
    array = check.samples(X, network.n_inputs)
    as_made = training is None and array.shape[0] > 1 and _unmoved(network)
    training = as_made if training is None else training
    names = _feature_names(X, feature_names, network.n_inputs)
    found = _signals.measure(network, array, y, training=training, n_threads=n_threads)
    parameters = network.named_parameters()
    gradients = network.unflatten(found.gradient)
    features = _input_record(found.input, names)
    norms = [
        math.nan
        if s.backward is None
        else s.backward.rms() * math.sqrt(s.backward.mean.size)
        for s in found.layers
    ]
    records, steps, bad, biases = [], [], [], []
    before = features.rms
    for i, signal in enumerate(found.layers):
        weight_name = f"{signal.name}.weight"
        if weight_name not in parameters:
            weight_name = f"{signal.name}.gamma"
        scale = norm = gradient_norm = math.nan
        broken = False
        if weight_name in parameters:
            weight = parameters[weight_name]
            norm, broken = _norm_of(weight, threads)
            gradient_norm = _norm_of(gradients[weight_name], threads)[0]
            if signal.layer.kind == "dense":
                scale = norm * norm / weight.shape[1]
        bias = parameters.get(f"{signal.name}.bias")
        if bias is None:
            bias = parameters.get(f"{signal.name}.beta")
        if bias is not None:
            broken = broken or not bool(np.isfinite(bias).all())
        biases.append(_bias_of(bias))
        above = next((v for v in norms[i + 1 :] if not math.isnan(v)), math.nan)
        records.append(
            _record(
                signal.name,
                signal.activation,
                signal.forward,
                signal.backward,
                signal.sample,
                flat_known=True,
                before=before,
                above=above,
                scale=scale,
                weight_norm=norm,
                weight_gradient_norm=gradient_norm,
                n_threads=threads,
            )
        )
        before = records[-1].rms
        kind = signal.layer.kind
        steps.append(
            Step(
                kind,
                signal.activation,
                scale,
                *biases[-1],
            )
        )
        bad.append(broken)
    facts = verdicts.Facts(
        records,
        [signal.layer.kind for signal in found.layers],
        [signal.activation for signal in found.layers],
        [_largest(signal.forward) for signal in found.layers],
        [_largest(signal.backward) for signal in found.layers],
        bad,
        biases,
        features,
        _rank_of(array, threads),
        found.n_samples,
        found.loss,
        _bad_value(array, features, network.dtype),
        batch_statistics=as_made,
        at_start=at_start,
    )
    return SignalReport._from_facts(facts, steps, found.loss)


def _unmoved(network: Network) -> bool:
    """Whether a batch normalization has statistics that no training has moved."""
    running = network.named_buffers()
    return any(
        not mean.any() and (running[f"{name[: -len('mean')]}var"] == 1).all()
        for name, mean in running.items()
        if name.endswith("running_mean")
    )


def _rank_of(X: NDArray[Any], n_threads: int) -> float:
    rows = _signals.sampled_rows(X.shape[0])
    rows = rows[_rows_for_rank(rows.size, X.shape[1])]
    return effective_rank(X[rows], n_threads)


def _named_arrays(values: Any, name: str) -> tuple[list[str] | None, list[Any]]:
    """Return the names of a mapping, or None, and the arrays."""
    if isinstance(values, Mapping):
        for key in values:
            if not isinstance(key, str):
                raise TypeError(f"a key of {name} must be a string; got {key!r}")
        return list(values), list(values.values())
    if isinstance(values, (list, tuple)):
        return None, list(values)
    raise TypeError(
        f"{name} must be a list or a dict of arrays; got {check.what(values)}"
    )


def _matched(
    values: Any, name: str, keys: list[str] | None, n_layers: int
) -> list[Any]:
    """Return what belongs to each layer of `activations`; None where nothing does."""
    if values is None:
        return [None] * n_layers
    found_keys, found = _named_arrays(values, name)
    if found_keys is not None:
        if keys is None:
            raise TypeError(f"{name} is a dict, so activations must be one, too")
        unknown = [key for key in found_keys if key not in keys]
        if unknown:
            raise ValueError(f"{name} has {unknown[0]!r}, which activations has not")
        return [values.get(key) for key in keys]
    if len(found) != n_layers:
        raise ValueError(
            f"{name} must hold one entry for each of the {n_layers} activations; "
            f"got {len(found)}"
        )
    return found


def _matrix(value: Any, name: str) -> NDArray[Any]:
    array = check.real_array(value, name)
    if array.ndim != 2:
        raise ValueError(
            f"{name} must have shape (n_samples, n_units); got {array.shape}"
        )
    if array.shape[1] == 0:
        raise ValueError(f"{name} has no columns: got shape {array.shape}")
    return array


def diagnose_signals(
    activations: Sequence[ArrayLike] | Mapping[str, ArrayLike],
    gradients: Sequence[ArrayLike | None] | Mapping[str, ArrayLike] | None = None,
    *,
    weights: Sequence[ArrayLike | None] | Mapping[str, ArrayLike] | None = None,
    weight_gradients: Sequence[ArrayLike | None]
    | Mapping[str, ArrayLike]
    | None = None,
    activation: Any = None,
    names: Sequence[str] | None = None,
    X: ArrayLike | None = None,
    feature_names: Sequence[str] | None = None,
    n_threads: int | None = None,
) -> SignalReport:
    r"""Say how the signals of a network written by hand fare through depth.

    What `fanin.Network.diagnose` says of a `fanin.Network`, from the arrays of one
    forward and one backward pass: the growth of the signals from layer to layer, dead
    and saturated units, effective ranks, and a verdict. With samples in rows,

    .. math:: Z_l = A_{l-1} W_l + b_l, \quad A_l = f(Z_l), \quad
              C_l = \text{fan\_in} \cdot \text{mean}(W_l^2).

    Parameters
    ----------
    activations : sequence or dict of array_like of shape (n_samples, n_units)
        The outputs A of each layer, first to last; a dict has them by name. Real
        numbers of any strides, read once where they lie.
    gradients : sequence or dict of array_like, optional
        The gradients dL/dZ of each layer, in the shapes of the activations; None
        within a sequence (or a name missing in a dict) where there is none. dL/dA
        serves as well, if all are of that kind.
    weights : sequence or dict of array_like of shape (n_in, n_out), optional
        The weights W of each layer; None for a layer without.
    weight_gradients : sequence or dict of array_like, optional
        dL/dW, in the shapes of `weights`, which it needs.
    activation : str, Activation, or list or dict of them, optional
        The function f: one for all layers, or one for each, None where there is none.
        Without it nothing is
        known of saturation: `saturated` is NaN, and a unit that is 0 for all samples
        is dead. The same holds of silu and gelu, whose outputs do not tell.
    names : sequence of str, optional
        Names of the layers; by default "layer0", "layer1" and so on, or the keys of
        the dict.
    X : array_like of shape (n_samples, n_features), optional
        The input, to know the first layer's growth and unscaled features.
    feature_names : sequence of str, optional
        Names of the features; by default a data frame's columns, or "feature 0" and
        so on.
    n_threads : int, optional
        Overrides `fanin.set_num_threads` for this call.

    Returns
    -------
    SignalReport
        Growth factors, records by layer, problems and a verdict in words.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong shape, dtype or value; the array is named.

    See Also
    --------
    fanin.Network.diagnose : The same for a network of fanin, in one pass.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> rng = np.random.default_rng(0)
    >>> A, outputs = rng.standard_normal((300, 100)), {}
    >>> for layer in range(20):
    ...     W = rng.standard_normal((100, 100)) * (1 / 100) ** 0.5
    ...     A = np.maximum(A @ W, 0)
    ...     outputs[f"h{layer}"] = A
    >>> report = fanin.diagnose_signals(outputs, activation="relu")
    >>> for part in report.verdict.split("; "):
    ...     print(part)
    the signal shrinks by 0.72 per layer: after 19 layers 2e-03
    weights with variance 2 / fan_in keep them level for relu
    """
    threads = _threads.resolve(n_threads)
    keys, outputs = _named_arrays(activations, "activations")
    n_layers = len(outputs)
    if n_layers == 0:
        raise ValueError("activations must hold the outputs of at least one layer")
    labels = keys or [f"layer{i}" for i in range(n_layers)]
    if names is not None:
        labels = list(check.sequence(names, "names"))
        if len(labels) != n_layers or not all(isinstance(s, str) for s in labels):
            raise ValueError(
                f"names must hold {n_layers} strings, one for each layer; got {names!r}"
            )
        if len(set(labels)) != n_layers:
            raise ValueError(f"names must differ from each other; got {names!r}")

    def place(name: str, i: int) -> str:
        return f"{name}[{keys[i]!r}]" if keys is not None else f"{name}[{i}]"

    arrays = [_matrix(a, place("activations", i)) for i, a in enumerate(outputs)]
    n = arrays[0].shape[0]
    if n == 0:
        raise ValueError(
            f"{place('activations', 0)} has no rows: there is no signal to measure"
        )
    for i, array in enumerate(arrays):
        if array.shape[0] != n:
            raise ValueError(
                f"{place('activations', i)} must have {n} rows as "
                f"{place('activations', 0)} has; got shape {array.shape}"
            )
    functions = _functions(activation, keys, n_layers)
    features, width, input_rank, bad_input = None, None, math.nan, ""
    if X is not None:
        given = _matrix(X, "X")
        if given.shape[0] != n:
            raise ValueError(
                f"X must have {n} rows as the activations have; got {given.shape}"
            )
        width = given.shape[1]
        features = _input_record(
            _signals.observe(given, n_threads=threads),
            _feature_names(X, feature_names, width),
        )
        input_rank = _rank_of(given, threads)
        bad_input = _bad_value(given, features)
    elif feature_names is not None:
        raise ValueError("feature_names needs X")
    if weight_gradients is not None and weights is None:
        raise ValueError("weight_gradients needs weights")

    backward: list[_signals.UnitStatistics | None] = []
    largest_back: list[float] = []
    for i, one in enumerate(_matched(gradients, "gradients", keys, n_layers)):
        if one is None:
            backward.append(None)
            largest_back.append(0.0)
            continue
        g = _matrix(one, place("gradients", i))
        if g.shape != arrays[i].shape:
            raise ValueError(
                f"{place('gradients', i)} must have the shape of "
                f"{place('activations', i)}, {arrays[i].shape}; got {g.shape}"
            )
        backward.append(_signals.observe(g, n_threads=threads))
        largest_back.append(_largest(backward[-1]))
    norms = [
        math.nan if s is None else s.rms() * math.sqrt(s.mean.size) for s in backward
    ]
    matched = _matched(weights, "weights", keys, n_layers)
    slopes = _matched(weight_gradients, "weight_gradients", keys, n_layers)
    records, steps, bad, largest = [], [], [], []
    before = math.nan if features is None else features.rms
    rows = _signals.sampled_rows(n)
    for i, array in enumerate(arrays):
        scale = norm = gradient_norm = math.nan
        broken = False
        if matched[i] is not None:
            W = _weight(matched[i], place("weights", i), width, array.shape[1], i == 0)
            norm, broken = _norm_of(W, threads)
            scale = norm * norm / W.shape[1]
            if slopes[i] is not None:
                dW = _matrix(slopes[i], place("weight_gradients", i))
                if dW.shape != W.shape:
                    raise ValueError(
                        f"{place('weight_gradients', i)} must have the shape of "
                        f"{place('weights', i)}, {W.shape}; got {dW.shape}"
                    )
                gradient_norm = _norm_of(dW, threads)[0]
        elif slopes[i] is not None:
            raise ValueError(
                f"{place('weight_gradients', i)} needs {place('weights', i)}"
            )
        low, high, on_z = _signals.flat_bounds(functions[i])
        # What fanin knows nothing of, it does not call unsaturated.
        flat_known = functions[i] is not None and not on_z
        forward = _signals.observe(array, low, high, threads)
        above = next((v for v in norms[i + 1 :] if not math.isnan(v)), math.nan)
        records.append(
            _record(
                labels[i],
                functions[i],
                forward,
                backward[i],
                np.array(array[rows]),
                flat_known=flat_known,
                before=before,
                above=above,
                scale=scale,
                weight_norm=norm,
                weight_gradient_norm=gradient_norm,
                n_threads=threads,
            )
        )
        steps.append(Step("dense", functions[i], scale, 0.0, 0.0))
        bad.append(broken)
        largest.append(_largest(forward))
        before, width = records[-1].rms, array.shape[1]
    facts = verdicts.Facts(
        records,
        ["dense"] * n_layers,
        functions,
        largest,
        largest_back,
        bad,
        [(math.nan, math.nan)] * n_layers,
        features,
        input_rank,
        n,
        bad_input=bad_input,
        by_hand=True,
    )
    return SignalReport._from_facts(facts, steps, None)


def _weight(
    value: Any, name: str, n_in: int | None, n_out: int, first: bool
) -> NDArray[Any]:
    W = check.real_array(value, name)
    wanted = (W.shape[0] if n_in is None and W.ndim else n_in, n_out)
    if W.ndim != 2 or W.shape != wanted or W.size == 0:
        hint = ""
        if W.ndim == 2 and W.shape[0] == n_out and n_in in (None, W.shape[1]):
            hint = f"; samples are in rows, so pass {name}.T"
        asked = "n_in" if n_in is None else n_in
        raise ValueError(
            f"{name} must have shape ({asked}, {n_out}), inputs by outputs of the "
            f"layer; got {W.shape}{hint}"
        )
    return W


def _functions(
    given: Any, keys: list[str] | None, n_layers: int
) -> list[activations.Activation | None]:
    if given is None or isinstance(given, (str, activations.Activation)):
        one = None if given is None else activations.get(given)
        return [one] * n_layers
    if isinstance(given, Mapping):
        listed = _matched(given, "activation", keys, n_layers)
    elif isinstance(given, (list, tuple)):
        listed = list(given)
    else:
        raise TypeError(
            "activation must be a name such as 'relu' or an object of "
            "fanin.activations, or a list or dict of them; got "
            f"{getattr(given, '__name__', None) or check.what(given)}"
        )
    if len(listed) != n_layers:
        raise ValueError(
            f"activation must be one function or one for each of the {n_layers} "
            f"layers; got {len(listed)}"
        )
    return [None if f is None else activations.get(f) for f in listed]
