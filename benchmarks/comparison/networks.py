"""Rows of `fanin.Network`: training steps, forward and backward, prediction."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import fanin
from comparison.model import (
    CONFIDENCE,
    Contender,
    Contenders,
    Row,
    Session,
    require,
    unit_roundoff,
)
from comparison.numpy_network import BareProducts, NumpyNetwork

RATE = {"adam": 1e-3, "sgd": 1e-2}
STEPS_CHECKED = 3


def fanin_network(
    sizes: list[int], dtype: Any, activation: str = "relu"
) -> fanin.Network:
    hidden = [fanin.layers.Dense(n, activation=activation) for n in sizes[1:-1]]
    layers = [*hidden, fanin.layers.Dense(sizes[-1])]
    return fanin.Network(
        sizes[0], layers, loss="softmax_cross_entropy", dtype=dtype, rng=3
    )


def make_batch(sizes: list[int], n_rows: int, dtype: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(4)
    X = rng.standard_normal((n_rows, sizes[0])).astype(dtype)
    return X, rng.integers(0, sizes[-1], n_rows)


@dataclass
class Reference:
    """Forward, loss and gradient in float64 NumPy, and what float32 may differ by.

    A pre-activation is a sum of n products and is off by ``delta`` of its root mean
    square at most (see `model.CONFIDENCE`), with n the widest layer's inputs. Each
    matrix product of the two passes adds as much, so values and gradients are off by
    ``2 * n_layers * delta`` of their size. To that, ReLU adds the units whose sign
    rounding may flip: a share f of flipped unit-and-sample pairs changes a gradient
    by sqrt(f) of its norm. They are counted, not guessed, and are most often none.
    """

    sizes: list[int]
    X: Any
    y: Any
    theta: Any

    def __post_init__(self) -> None:
        self.network = NumpyNetwork(self.sizes, np.float64)
        self.network.theta[...] = self.theta
        n_layers = len(self.sizes) - 1
        u = unit_roundoff(self.theta.dtype)
        self.delta = CONFIDENCE * u * math.sqrt(max(self.sizes))
        X = self.X.astype(np.float64)
        near = total = 0
        A = X
        for weight, bias in self.network.layers[:-1]:
            Z = A @ weight + bias
            near += int((np.abs(Z) < self.delta * math.sqrt((Z * Z).mean())).sum())
            total += Z.size
            A = np.maximum(Z, 0)
        self.relative = 2 * n_layers * self.delta + 2 * math.sqrt(near / max(total, 1))
        self.output = self.network.forward(X).copy()
        loss, gradient = self.network.loss_and_gradient(X, self.y)
        self.loss, self.gradient = loss, gradient.copy()
        # A loss moves by at most twice what its logits do.
        size = max(1.0, float(np.abs(self.output).max()))
        self.loss_error = 2 * 2 * n_layers * self.delta * size
        self.wide_X = X

    def check_output(self, Z: Any) -> None:
        require(float(np.shape(Z) != self.output.shape), 0, f"shape {np.shape(Z)}")
        size = float(np.abs(self.output).max())
        error = float(np.abs(np.asarray(Z, np.float64) - self.output).max())
        allowed = 2 * (len(self.sizes) - 1) * self.delta
        require(error / size, allowed, "largest error of an output")

    def check_probabilities(self, P: Any) -> None:
        e = np.exp(self.output - self.output.max(axis=1, keepdims=True))
        error = np.abs(np.asarray(P, np.float64) - e / e.sum(axis=1, keepdims=True))
        require(float(error.max()), self.loss_error, "largest error of a probability")

    def check_labels(self, labels: Any) -> None:
        """Require labels whose logits are the largest, but for rounding."""
        labels = np.asarray(labels)
        rows = np.arange(len(self.output))
        short = self.output.max(axis=1) - self.output[rows, labels]
        require(float(short.max()), self.loss_error, "a label's logit below the best")

    def check_gradient(self, found: tuple[Any, Any]) -> None:
        loss, gradient = found
        require(abs(float(loss) - self.loss), self.loss_error, "loss")
        g = np.asarray(gradient, np.float64)
        pairs = zip(
            self.network.views(g), self.network.views(self.gradient), strict=True
        )
        for i, (mine, right) in enumerate(pairs):
            for name, a, b in zip(("weight", "bias"), mine, right, strict=True):
                error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
                require(error, self.relative, f"gradient of layer {i}'s {name}")

    def check_steps(
        self,
        optimizer: str,
        step: Callable[[], Any],
        parameters: Callable[[], Any],
        slack: float,
        first_loss: float,
    ) -> None:
        """Compare the parameters after one step, and the losses of some.

        Where the gradient is off by d, SGD's step is off by rate * d. Adam's first
        step is rate * g / (|g| + epsilon), which is off by at most
        2 * rate * min(1, (d + slack) / |g|), where `slack` is what another place of
        epsilon in the formula amounts to. To first order, a loss is then off by the
        sum over the parameters of |g| times that.
        """
        rate = RATE[optimizer]
        net = self.network
        net.theta[...] = self.theta
        net.reset()
        take = net.adam_step if optimizer == "adam" else net.sgd_step
        g = np.abs(self.gradient)
        d = np.empty_like(g)
        for view, of in zip(net.views(d), net.views(self.gradient), strict=True):
            for part, block in zip(view, of, strict=True):
                part[...] = self.relative * np.linalg.norm(block)
        if optimizer == "adam":
            off = 2 * rate * np.minimum(1.0, (d + slack) / np.maximum(g, 1e-300))
        else:
            off = rate * d
        drift = 4 * float((off * g).sum())
        off += 4 * unit_roundoff(self.theta.dtype) * (np.abs(self.theta) + rate)
        for t in range(STEPS_CHECKED):
            mine = first_loss if t == 0 else float(step())
            right = take(self.wide_X, self.y, rate)
            allowed = self.loss_error + t * drift
            require(abs(mine - right), allowed, f"loss of step {t + 1}")
            if t == 0:
                error = np.abs(np.asarray(parameters(), np.float64) - net.theta)
                require(float((error / off).max()), 1.0, "a parameter after a step")


# --- the peers' networks ------------------------------------------------------------


def torch_network(torch: Any, sizes: list[int], theta: Any) -> Any:
    layers: list[Any] = []
    for n_in, n_out in pairwise(sizes):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).to(torch.from_numpy(theta).dtype)
    torch_load(torch, model, sizes, theta)
    return model


def torch_load(torch: Any, model: Any, sizes: list[int], theta: Any) -> None:
    shape = NumpyNetwork(sizes, theta.dtype)
    linear = [m for m in model if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(linear, shape.views(theta), strict=True):
            layer.weight.copy_(torch.from_numpy(weight.T.copy()))
            layer.bias.copy_(torch.from_numpy(bias.copy()))


def torch_flat(model: Any, attribute: str) -> Any:
    parts = []
    for p in model.parameters():
        value = p.detach() if attribute == "value" else p.grad
        parts.append(value.numpy().T.ravel())
    return np.concatenate(parts)


def jax_parameters(jax: Any, sizes: list[int], theta: Any) -> Any:
    views = NumpyNetwork(sizes, theta.dtype).views(theta)
    # Copies: a jitted step is given the memory of what it is called with.
    return [(jax.numpy.array(w), jax.numpy.array(b)) for w, b in views]


def jax_flat(parameters: Any) -> Any:
    return np.concatenate([np.asarray(a).ravel() for pair in parameters for a in pair])


def jax_forward(jax: Any, parameters: Any, X: Any) -> Any:
    for weight, bias in parameters[:-1]:
        X = jax.nn.relu(X @ weight + bias)
    weight, bias = parameters[-1]
    return X @ weight + bias


def jax_loss(jax: Any, parameters: Any, X: Any, y: Any) -> Any:
    logits = jax.nn.log_softmax(jax_forward(jax, parameters, X))
    return -jax.numpy.take_along_axis(logits, y[:, None], axis=1).mean()


def sklearn_network(
    sizes: list[int], theta: Any, X: Any, optimizer: str, n_rows: int
) -> Any:
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        tuple(sizes[1:-1]),
        activation="relu",
        solver=optimizer,
        alpha=0.0,
        batch_size=n_rows,
        learning_rate_init=RATE[optimizer],
        momentum=0.0,
        shuffle=False,
        random_state=0,
    )
    # One step, so that the arrays exist; a label for each output.
    labels = np.arange(n_rows) % sizes[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.partial_fit(X, labels, classes=np.arange(sizes[-1]))
    sklearn_load(model, sizes, theta)
    return model


def sklearn_load(model: Any, sizes: list[int], theta: Any) -> None:
    views = NumpyNetwork(sizes, theta.dtype).views(theta)
    for i, (weight, bias) in enumerate(views):
        model.coefs_[i][...] = weight
        model.intercepts_[i][...] = bias
    # The optimizer's state goes with it; the next partial_fit makes another.
    vars(model).pop("_optimizer", None)


def onnx_session(session: Session, sizes: list[int], theta: Any, labels: bool) -> Any:
    onnx, runtime = session["onnx"], session["ONNX Runtime"]
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes, initializers, name = [], [], "X"
    views = NumpyNetwork(sizes, theta.dtype).views(theta)
    for i, (weight, bias) in enumerate(views):
        initializers += [
            numpy_helper.from_array(np.ascontiguousarray(weight), f"W{i}"),
            numpy_helper.from_array(np.ascontiguousarray(bias), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [name, f"W{i}", f"b{i}"], [f"Z{i}"]))
        name = f"Z{i}"
        if i < len(views) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"A{i}"]))
            name = f"A{i}"
    kind = helper.np_dtype_to_tensor_dtype(theta.dtype)
    out_kind, out_shape = kind, [None, sizes[-1]]
    if labels:
        nodes.append(helper.make_node("ArgMax", [name], ["label"], axis=1, keepdims=0))
        name, out_kind, out_shape = "label", onnx.TensorProto.INT64, [None]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("X", kind, [None, sizes[0]])],
        [helper.make_tensor_value_info(name, out_kind, out_shape)],
        initializers,
    )
    # What the oldest runtime of NumPy 2 reads.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = session.n_threads
    return runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


# --- rows ---------------------------------------------------------------------------


def training_step(
    sizes: list[int], n_rows: int, dtype: Any, optimizer: str, session: Session
) -> Contenders:
    X, y = make_batch(sizes, n_rows, dtype)
    net = fanin_network(sizes, dtype)
    theta = net.parameters.copy()
    reference = Reference(sizes, X, y, theta)
    rate = RATE[optimizer]

    def contender(
        step: Callable[[], Any],
        parameters: Callable[[], Any],
        reset: Callable[[], None],
        slack: float = 0.0,
    ) -> Contender:
        def check(first_loss: Any) -> None:
            reference.check_steps(optimizer, step, parameters, slack, float(first_loss))

        return Contender(step, check, reset)

    hand = NumpyNetwork(sizes, dtype)
    hand.theta[...] = theta
    yield "floor", Contender(BareProducts(hand, X, backward=True))

    ours = {
        "adam": fanin.optimizers.Adam(rate),
        "sgd": fanin.optimizers.SGD(rate),
    }[optimizer]

    def own_reset() -> None:
        net.parameters = theta
        ours.reset()

    yield (
        "fanin",
        contender(
            lambda: net.train_step(X, y, ours), lambda: net.parameters, own_reset
        ),
    )

    def hand_reset() -> None:
        hand.theta[...] = theta
        hand.reset()

    by_hand = hand.adam_step if optimizer == "adam" else hand.sgd_step
    yield (
        "NumPy",
        contender(lambda: by_hand(X, y, rate), lambda: hand.theta, hand_reset),
    )
    if session.has("scikit-learn"):
        model = sklearn_network(sizes, theta, X, optimizer, n_rows)

        def sklearn_step() -> float:
            model.partial_fit(X, y)
            return float(model.loss_)

        def sklearn_parameters() -> Any:
            pairs = zip(model.coefs_, model.intercepts_, strict=True)
            return np.concatenate([a.ravel() for pair in pairs for a in pair])

        # Its Adam adds epsilon to sqrt(v), not to sqrt(v_hat).
        yield (
            "scikit-learn",
            contender(
                sklearn_step,
                sklearn_parameters,
                lambda: sklearn_load(model, sizes, theta),
                slack=1e-8 / math.sqrt(1 - 0.999),
            ),
        )
    if session.has("PyTorch"):
        yield "PyTorch", torch_step(session, reference, optimizer, contender)
    if session.has("JAX"):
        yield "JAX", jax_step(session, reference, optimizer, contender)


def torch_step(
    session: Session, reference: Reference, optimizer: str, contender: Any
) -> Contender:
    torch = session["PyTorch"]
    sizes, theta = reference.sizes, reference.theta
    model = torch_network(torch, sizes, theta)
    X, y = torch.from_numpy(reference.X), torch.from_numpy(reference.y)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    state: list[Any] = []

    def reset() -> None:
        torch_load(torch, model, sizes, theta)
        try:
            state[:] = [kind(model.parameters(), lr=RATE[optimizer], fused=True)]
        except (RuntimeError, TypeError):  # before PyTorch 2.4 on a CPU
            state[:] = [kind(model.parameters(), lr=RATE[optimizer])]

    def step() -> float:
        state[0].zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(X), y)
        loss.backward()
        state[0].step()
        return float(loss.item())

    made: Contender = contender(step, lambda: torch_flat(model, "value"), reset)
    return made


def jax_step(
    session: Session, reference: Reference, optimizer: str, contender: Any
) -> Contender:
    jax = session["JAX"]
    rate = RATE[optimizer]
    X, y = jax.device_put(reference.X), jax.device_put(reference.y)
    tree = jax.tree_util.tree_map

    def sgd(parameters: Any, state: Any, X: Any, y: Any) -> Any:
        loss, g = jax.value_and_grad(partial(jax_loss, jax))(parameters, X, y)
        return tree(lambda p, d: p - rate * d, parameters, g), state, loss

    def adam(parameters: Any, state: Any, X: Any, y: Any) -> Any:
        first, second, t = state
        loss, g = jax.value_and_grad(partial(jax_loss, jax))(parameters, X, y)
        t = t + 1
        first = tree(lambda m, d: 0.9 * m + (1 - 0.9) * d, first, g)
        second = tree(lambda v, d: 0.999 * v + (1 - 0.999) * d * d, second, g)
        correction = jax.numpy.sqrt(1 - 0.999**t)
        size = rate / (1 - 0.9**t)
        parameters = tree(
            lambda p, m, v: p - size * m / (jax.numpy.sqrt(v) / correction + 1e-8),
            parameters,
            first,
            second,
        )
        return parameters, (first, second, t), loss

    jitted = jax.jit({"adam": adam, "sgd": sgd}[optimizer], donate_argnums=(0, 1))
    held: list[Any] = []

    def reset() -> None:
        parameters = jax_parameters(jax, reference.sizes, reference.theta)
        zeros = partial(tree, jax.numpy.zeros_like, parameters)
        count = jax.numpy.zeros((), reference.theta.dtype)
        state = (zeros(), zeros(), count) if optimizer == "adam" else ()
        held[:] = [parameters, state]

    def step() -> Any:
        parameters, state, loss = jax.block_until_ready(jitted(*held, X, y))
        held[:] = [parameters, state]
        return loss

    made: Contender = contender(step, lambda: jax_flat(held[0]), reset)
    return made


def forward_and_backward(
    sizes: list[int], n_rows: int, dtype: Any, session: Session
) -> Contenders:
    X, y = make_batch(sizes, n_rows, dtype)
    net = fanin_network(sizes, dtype)
    theta = net.parameters.copy()
    reference = Reference(sizes, X, y, theta)
    check = reference.check_gradient
    hand = NumpyNetwork(sizes, dtype)
    hand.theta[...] = theta
    out = np.empty_like(theta)
    yield "floor", Contender(BareProducts(hand, X, backward=True))
    yield "fanin", Contender(lambda: net.loss_and_gradient(X, y, out=out), check)
    yield "NumPy", Contender(lambda: hand.loss_and_gradient(X, y), check)
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        model = torch_network(torch, sizes, theta)
        tensors = torch.from_numpy(X), torch.from_numpy(y)

        def run() -> float:
            model.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(model(tensors[0]), tensors[1])
            loss.backward()
            return float(loss.item())

        yield (
            "PyTorch",
            Contender(run, lambda loss: check((loss, torch_flat(model, "grad")))),
        )
    if session.has("JAX"):
        jax = session["JAX"]
        parameters = jax_parameters(jax, sizes, theta)
        arrays = jax.device_put(X), jax.device_put(y)
        jitted = jax.jit(jax.value_and_grad(partial(jax_loss, jax)))
        yield (
            "JAX",
            Contender(
                lambda: jax.block_until_ready(jitted(parameters, *arrays)),
                lambda found: check((found[0], jax_flat(found[1]))),
            ),
        )


def epoch(
    sizes: list[int], n_samples: int, n_rows: int, dtype: Any, session: Session
) -> Contenders:
    """One epoch of `fit` beside the same number of steps on batches that lie ready."""
    X, y = make_batch(sizes, n_samples, dtype)
    net = fanin_network(sizes, dtype)
    theta = net.parameters.copy()
    adam = fanin.optimizers.Adam(RATE["adam"])
    starts = range(0, n_samples, n_rows)

    def reset() -> None:
        net.parameters = theta
        adam.reset()

    def steps() -> None:
        for start in starts:
            stop = start + n_rows
            net.train_step(X[start:stop], y[start:stop], adam)

    def fit() -> Any:
        return net.fit(X, y, optimizer=adam, epochs=1, batch_size=n_rows, rng=0)

    def check(history: Any) -> None:
        require(float(history.n_steps != [len(starts)]), 0, "number of steps")
        # Labels at random: nothing is learned but how often each one occurs.
        require(abs(history.loss[0] - math.log(sizes[-1])), 1.0, "loss of the epoch")

    yield "floor", Contender(steps, None, reset)
    yield "fanin", Contender(fit, check, reset)


def predict(
    sizes: list[int], n_rows: int, dtype: Any, labels: bool, session: Session
) -> Contenders:
    X, y = make_batch(sizes, n_rows, dtype)
    net = fanin_network(sizes, dtype)
    theta = net.parameters
    reference = Reference(sizes, X, y, theta)
    check = reference.check_labels if labels else reference.check_output
    hand = NumpyNetwork(sizes, dtype)
    hand.theta[...] = theta
    yield "floor", Contender(BareProducts(hand, X, backward=False))
    if labels:
        yield "fanin", Contender(lambda: net.predict(X), check)
        yield "NumPy", Contender(lambda: hand.forward(X).argmax(axis=1), check)
    else:
        yield "fanin", Contender(lambda: net.forward(X), check)
        yield "NumPy", Contender(lambda: hand.forward(X), check)
    if session.has("scikit-learn"):
        model = sklearn_network(sizes, theta, X, "adam", n_rows)
        # It gives no logits; probabilities are the nearest that it has.
        call = model.predict if labels else model.predict_proba
        right = check if labels else reference.check_probabilities
        yield "scikit-learn", Contender(lambda: call(X), right)
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        network = torch_network(torch, sizes, theta).eval()
        tensor = torch.from_numpy(X)

        def run() -> Any:
            with torch.inference_mode():
                Z = network(tensor)
                return Z.argmax(1) if labels else Z

        yield "PyTorch", Contender(run, lambda Z: check(Z.numpy()))
    if session.has("JAX"):
        jax = session["JAX"]
        parameters = jax_parameters(jax, sizes, theta)

        @jax.jit
        def jitted(parameters: Any, X: Any) -> Any:
            Z = jax_forward(jax, parameters, X)
            return Z.argmax(axis=1) if labels else Z

        array = jax.device_put(X)
        yield (
            "JAX",
            Contender(lambda: jitted(parameters, array).block_until_ready(), check),
        )
    if session.has("ONNX Runtime"):
        model = onnx_session(session, sizes, theta, labels)
        feed = {"X": X}
        yield "ONNX Runtime", Contender(lambda: model.run(None, feed)[0], check)


def two_at_once(
    sizes: list[int], n_rows: int, n_steps: int, dtype: Any, session: Session
) -> Contenders:
    """Time steps of two networks on two Python threads beside those of one alone.

    With two CPUs at rest and no lock held the times are equal.
    """
    X, y = make_batch(sizes, n_rows, dtype)
    start = fanin_network(sizes, dtype).parameters.copy()
    nets = [fanin_network(sizes, dtype) for _ in range(3)]
    optimizers = [fanin.optimizers.Adam(RATE["adam"]) for _ in nets]

    def train(i: int) -> None:
        for _ in range(n_steps):
            nets[i].train_step(X, y, optimizers[i], n_threads=1)

    def reset() -> None:
        for net, optimizer in zip(nets, optimizers, strict=True):
            net.parameters = start
            optimizer.reset()

    def both() -> None:
        other = threading.Thread(target=train, args=(1,))
        other.start()
        train(2)
        other.join()

    def check(_: None) -> None:
        train(0)
        for i, net in enumerate(nets[1:], start=1):
            differing = np.count_nonzero(net.parameters != nets[0].parameters)
            require(float(differing), 0.0, f"bits of network {i} beside another")

    yield "floor", Contender(lambda: train(0), None, reset)
    yield "fanin", Contender(both, check, reset)


def name_of(sizes: list[int]) -> str:
    return "-".join(str(n) for n in sizes)


def rows() -> list[Row]:
    f4 = np.float32
    small, middle = [64, 100, 10], [784, 256, 128, 10]
    products = "floor: the matrix products alone, by np.matmul"
    found = []
    for optimizer, title in (("adam", "Adam"), ("sgd", "SGD")):
        for sizes, n in ((small, 32), (small, 200), (middle, 128)):
            name = f"training step {name_of(sizes)}, batch {n}, {title}"
            build = partial(training_step, sizes, n, f4, optimizer)
            found.append(Row(name, build, products))
    for sizes, n in ((small, 32), (middle, 128)):
        name = f"training step {name_of(sizes)}, batch {n}, Adam, float64"
        build = partial(training_step, sizes, n, np.float64, "adam")
        found.append(Row(name, build, products))
    wide, wider = [784, 1024, 1024, 10], [784, 2048, 2048, 2048, 10]
    for sizes, n, dtype, suffix in (
        (wide, 256, f4, ""),
        (wider, 512, f4, ""),
        (wide, 256, np.float64, ", float64"),
        (wider, 512, np.float64, ", float64"),
    ):
        name = f"forward and backward {name_of(sizes)}, batch {n}{suffix}"
        build = partial(forward_and_backward, sizes, n, dtype)
        found.append(Row(name, build, products))
    name = f"one epoch of fit, 60,000×784, {name_of(middle)}, batch 128, Adam"
    steps = "floor: its steps alone, on batches that lie one after the other"
    found.append(Row(name, partial(epoch, middle, 60_000, 128, f4), steps))
    for sizes, n, labels, dtype in (
        ([64, 32, 10], 1, False, f4),
        ([64, 32, 10], 1, True, f4),
        (middle, 1, False, f4),
        (middle, 1024, False, f4),
        ([64, 32, 10], 1, False, np.float64),
        (middle, 1, False, np.float64),
        (middle, 1024, False, np.float64),
    ):
        what = "labels" if labels else "logits"
        count = "one row" if n == 1 else f"{n} rows"
        suffix = "" if dtype == f4 else ", float64"
        name = f"predict {count}, {name_of(sizes)}, {what}{suffix}"
        note = f"{products}; scikit-learn: {'labels' if labels else 'probabilities'}"
        found.append(Row(name, partial(predict, sizes, n, dtype, labels), note))
    name = f"20 steps on each of two Python threads, {name_of(middle)}, batch 128, Adam"
    alone = "two networks, one thread a call; floor: one of them alone"
    found.append(Row(name, partial(two_at_once, middle, 128, 20, f4), alone))
    return found
