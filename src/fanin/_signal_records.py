"""What a signal report consists of: records of layers, of the input and of problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["InputRecord", "LayerRecord", "ProblemRecord"]


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """The signals of one layer, forward and backward.

    What is not known is NaN, and None where that is said.

    Attributes
    ----------
    name : str
        Its name, as in `fanin.Network.named_parameters`.
    activation : str or None
        The name of its activation; None for a layer without one.
    n_units : int
        Its outputs.
    mean, std, rms : float
        Mean, standard deviation and root mean square of its outputs, the activation
        applied, over samples and units.
    sample_std : float
        Root mean square over the units of their standard deviations over samples:
        what is left of `std` without the differences of the units' means, and 0 if
        all samples look alike.
    dead : float
        Share of the units that are flat, and so without a gradient, for all samples;
        like `saturated`, NaN where outputs are not finite.
        (Flat is where the activation's slope is below 5 % of its largest; 0 if it has
        no such place.)
    saturated : float
        Share of flat values over samples and units. Of a rectifier it is the share
        that is off, normally about a half.
    effective_rank : float
        Directions that the outputs fill: the participation ratio
        ``tr(S)**2 / tr(S @ S)`` of their covariance S over at most 1024 samples (fewer
        in layers of more than 8192 units). 0 if it is 0.
    scale : float
        C of its weight: ``fan_in * mean(weight**2)``.
    forward_growth : float
        `rms` over that of the layer before; of the first layer, over that of X.
    backward_norm : float
        Gradient norm of a sample: the root of the mean over samples of the sum over
        units of ``dz**2``, dz being the gradient of the loss with respect to the
        layer's z, before the activation (of a layer without one, its output).
    backward_growth : float
        `backward_norm` over that of the layer above.
    weight_norm, weight_gradient_norm : float
        Euclidean norms of its weight (gamma, of a normalization) and of its gradient.
    gradient_to_weight : float
        The second over the first.
    sample : ndarray of shape (at most 1024, n_units), or None
        Outputs for samples evenly spaced among the data, at most 2**18 numbers where
        that is a row or more; not to be written to.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> report = fanin.diagnose_signals([np.array([[1.0, 0.0], [3.0, 0.0]])])
    >>> record = report.layers[0]
    >>> record.n_units, record.mean, record.dead
    (2, 1.0, 0.5)
    """

    name: str
    activation: str | None
    n_units: int
    mean: float
    std: float
    rms: float
    sample_std: float
    dead: float
    saturated: float
    effective_rank: float
    scale: float
    forward_growth: float
    backward_norm: float
    backward_growth: float
    weight_norm: float
    weight_gradient_norm: float
    gradient_to_weight: float
    sample: NDArray[Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class InputRecord:
    """The features of X.

    Attributes
    ----------
    n_samples, n_features : int
        The shape of X.
    names : tuple of str
        The features' names.
    mean, std : ndarray of shape (n_features,)
        Mean and (population) standard deviation of each feature. The arrays cannot be
        written to.
    largest : ndarray of shape (n_features,)
        The largest absolute value of each; not finite if one of them is not.
    rms : float
        Root mean square over samples and features.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> X = np.array([[1.0, 0.0], [3.0, 0.0]])
    >>> record = fanin.diagnose_signals([np.tanh(X)], X=X).input
    >>> record.names, record.mean.tolist()
    (('feature 0', 'feature 1'), [2.0, 0.0])
    """

    n_samples: int
    n_features: int
    names: tuple[str, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    largest: NDArray[np.float64]
    rms: float


@dataclass(frozen=True)
class ProblemRecord:
    """One finding.

    Attributes
    ----------
    kind : str
        "not_finite", "unscaled_features", "dead_units", "saturated_units",
        "exploding_gradients", "vanishing_gradients", "exploding_signal",
        "vanishing_signal" or "collapsed_signal"; of notes "constant_features",
        "gradient_to_weight", "gradient_growth", "few_samples", "batch_statistics" or
        "zero_output".
    layer : str or None
        The layer where it starts; "X" for the input, None for the whole.
    sentence : str
        What it is, in words.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> report = fanin.diagnose_signals([np.full((20, 3), np.nan)])
    >>> report.problems[0].kind, report.problems[0].layer
    ('not_finite', 'layer0')
    """

    kind: str
    layer: str | None
    sentence: str
