"""popgrad.jax.loss: grad, jit, vmap and jvp against automatic differentiation of the equations."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import popgrad
import popgrad.jax
import pytest
import transcription
from hypothesis import given, settings
from test_gradients import HEADS, KINDS, ROUNDING, SIZES, TOLERANCE, batch_of

TASK = popgrad.CausalTree("chain", S=3, T=6, roots="uniform")
MODELS = [
    (popgrad.Disentangled(task=TASK, heads=[2, 1]), transcription.disentangled, {}),
    (popgrad.Simplified(task=TASK, eps=0.01), transcription.simplified, {"eps": 0.01}),
    (popgrad.MlpTransformer(task=TASK), transcription.mlp_transformer, {}),
    (popgrad.Memory(task=TASK, dim=6, ff2="relu"), transcription.memory, {}),
    (popgrad.Transformer(task=TASK, dim=8, heads=2), transcription.transformer, {"heads": 2}),
]
LACKING_FFI = popgrad.jax._lacking()
ffi = pytest.mark.skipif(LACKING_FFI is not None, reason=str(LACKING_FFI))
# The two ways from a compiled program to the engine.
routes = pytest.mark.parametrize("via", [pytest.param("ffi", marks=ffi), "callback"])
each = pytest.mark.parametrize(
    ("model", "forward", "options"), MODELS, ids=[m[0].name for m in MODELS]
)


def close(found, expected, trainable):
    for name, trains in trainable.items():
        ours, theirs = np.asarray(found[name]), np.asarray(expected[name])
        if trains:
            bound = TOLERANCE * np.abs(theirs).max() + ROUNDING
            assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= bound, name
        else:
            assert not ours.any(), name


def both_sides(via, model, forward, batch, seed=0, std=0.5, **options):
    """Our function and that of the transcription, of (params, columns)."""

    def theirs(params, columns):
        held = type("Held", (), {"targets": None, "labels": None, **columns})
        return transcription.loss(forward, params, held, model.S, model.T, **options)

    params = popgrad.jax.params(model.init(seed=seed, std=std))
    return popgrad.jax.loss(model, via=via), theirs, params, popgrad.jax.columns(batch)


@routes
@each
def test_value_and_grad_is_that_of_autodiff(via, model, forward, options):
    batch = TASK.sample(5)
    ours, theirs, params, columns = both_sides(via, model, forward, batch, **options)
    expected = jax.jit(jax.value_and_grad(theirs))(params, columns)
    plain, traced = jax.value_and_grad(ours), jax.jit(jax.value_and_grad(ours))
    outside = jax.value_and_grad(jax.jit(ours))
    for f in (plain, traced, outside):
        loss, grad = f(params, columns)
        assert abs(float(loss) - float(expected[0])) <= TOLERANCE * float(expected[0])
        close(grad, expected[1], model.trainable)
    assert abs(float(ours(params, columns)) - float(expected[0])) <= TOLERANCE * float(expected[0])
    # A Batch is a constant of the function.
    loss, grad = jax.jit(jax.value_and_grad(lambda p: ours(p, batch)))(params)
    assert float(loss) == float(traced(params, columns)[0])
    close(grad, expected[1], model.trainable)


@routes
@settings(max_examples=4)
@given(**SIZES, kind=KINDS, heads=HEADS)
def test_shapes(via, s, t, n, seed, kind, heads):
    model = popgrad.Disentangled(s, t, heads=heads)
    batch = batch_of(np.random.default_rng(seed), kind, n, s, t)
    ours, theirs, params, columns = both_sides(via, model, transcription.disentangled, batch, seed)
    close(
        jax.grad(ours)(params, columns), jax.jit(jax.grad(theirs))(params, columns), model.trainable
    )


@routes
def test_a_directional_derivative_is_the_gradient_along_it(via):
    model, forward, options = MODELS[0]
    ours, theirs, params, columns = both_sides(via, model, forward, TASK.sample(5), **options)
    along = popgrad.jax.params(model.init(seed=9, std=1.0))
    found = jax.jvp(lambda p: ours(p, columns), (params,), (along,))[1]
    expected = jax.jit(lambda p, v: jax.jvp(lambda p: theirs(p, columns), (p,), (v,))[1])(
        params, along
    )
    assert abs(found - expected) <= 1e-12 * abs(expected)
    # Of one block alone, the others held.
    one = jax.grad(lambda w: 3.0 * ours({**params, "W": w}, columns))(params["W"])
    whole = jax.grad(ours)(params, columns)["W"]
    assert np.allclose(one, 3.0 * whole, rtol=1e-14, atol=0)


@routes
def test_vmap_is_one_call_after_the_other(via):
    model = MODELS[0][0]
    ours = popgrad.jax.loss(model, via=via)
    sets = [popgrad.jax.params(model.init(seed=k, std=0.5)) for k in range(3)]
    batches = [popgrad.jax.columns(TASK.sample(4, seed=k)) for k in range(3)]
    params = jax.tree.map(lambda *x: jnp.stack(x), *sets)
    columns = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    f = jax.value_and_grad(ours)
    cases = [
        ((0, 0), (params, columns), lambda k: f(sets[k], batches[k])),
        ((0, None), (params, batches[1]), lambda k: f(sets[k], batches[1])),
        ((None, 0), (sets[1], columns), lambda k: f(sets[1], batches[k])),
    ]
    for axes, arguments, one in cases:
        for g in (jax.vmap(f, axes), jax.jit(jax.vmap(f, axes))):
            losses, grads = g(*arguments)
            for k in range(3):
                loss, grad = one(k)
                assert losses[k] == loss
                assert all((grads[name][k] == grad[name]).all() for name in grad)


@routes
@pytest.mark.parametrize("method", ["tree", "words"])
def test_a_population(via, method):
    model, forward, options = MODELS[1]
    population = popgrad.Population(TASK, method=method)
    ours = popgrad.jax.loss(population, model, via=via)
    _, theirs, params, columns = both_sides(via, model, forward, population.batch(), **options)
    expected, autodiff = jax.jit(jax.value_and_grad(theirs))(params, columns)
    loss, grad = jax.jit(jax.value_and_grad(ours))(params)
    assert abs(float(loss) - float(expected)) <= TOLERANCE * float(expected)
    close(grad, autodiff, model.trainable)


@routes
def test_the_type_is_that_of_the_parameters(via):
    model = MODELS[0][0]
    ours, batch = popgrad.jax.loss(model, via=via), TASK.sample(8)
    double = model.init(seed=0, std=0.5)
    single = {name: x.astype(np.float32) for name, x in double.items()}
    loss, grad = jax.value_and_grad(ours)(single, batch)
    exact, reference = model.value_and_grad(single, batch)
    assert loss.dtype == np.float32 and float(loss) == np.float32(exact)
    assert all(grad[n].dtype == np.float32 and (grad[n] == reference[n]).all() for n in grad)
    with pytest.raises(TypeError, match="float64, as|float64; allowed: float32"):
        ours({**single, "W": double["W"]}, batch)
    with pytest.raises(TypeError, match="float16"):
        ours({n: x.astype(np.float16) for n, x in double.items()}, batch)


@routes
def test_only_first_derivatives(via):
    model = MODELS[0][0]
    ours, params, columns = (
        popgrad.jax.loss(model, via=via),
        model.init(std=0.3),
        popgrad.jax.columns(TASK.sample(4)),
    )

    def norm(params):
        return sum((x**2).sum() for x in jax.grad(ours)(params, columns).values())

    for f in (jax.grad(norm), jax.jit(jax.grad(norm)), jax.hessian(lambda p: ours(p, columns))):
        with pytest.raises(NotImplementedError, match="only first derivatives"):
            f(params)


@routes
def test_columns_have_no_derivative(via):
    model = MODELS[0][0]
    ours, params, columns = (
        popgrad.jax.loss(model, via=via),
        model.init(std=0.3),
        popgrad.jax.columns(TASK.sample(4)),
    )
    tokens = jax.grad(lambda x: ours(params, {**columns, "tokens": x}), allow_int=True)(
        columns["tokens"]
    )
    assert tokens.dtype == jax.dtypes.float0
    for name in ("targets", "weights"):
        with pytest.raises(NotImplementedError, match=name):
            jax.grad(lambda x, name=name: ours(params, {**columns, name: x}))(columns[name])
    held = jax.grad(lambda x: ours(params, {**columns, "weights": jax.lax.stop_gradient(x)}))
    assert not held(columns["weights"]).any()


@routes
def test_what_is_refused(via):
    model = MODELS[0][0]
    ours, params, batch = popgrad.jax.loss(model, via=via), model.init(std=0.3), TASK.sample(4)
    columns = popgrad.jax.columns(batch)
    for f in (ours, jax.jit(ours)):
        for wrong in ({"V": params["W"]}, {"W": params["W"][1:]}):
            with pytest.raises(popgrad.InvalidError, match="allowed"):
                f({**params, **wrong}, columns)
        with pytest.raises(KeyError, match="W"):
            f({"A.0": params["A.0"]}, columns)
        for wrong in ({"labels": columns["tokens"]}, {"weights": np.ones(5)}, {"token": 0}):
            with pytest.raises(popgrad.InvalidError, match="allowed"):
                f(params, {**columns, **wrong})
        with pytest.raises(TypeError, match="tokens"):
            f(params, {**columns, "tokens": columns["tokens"] * 1.0})
        # Values are found by the engine.
        with pytest.raises((ValueError, RuntimeError), match="allowed: 0 <= symbol < 3"):
            jax.block_until_ready(
                f(params, {**columns, "tokens": columns["tokens"] + np.uint32(3)})
            )
    for wrong in ((model, model), (TASK,), (popgrad.Population(TASK),)):
        with pytest.raises(TypeError, match="loss"):
            popgrad.jax.loss(*wrong)


SINGLE = """
import sys, jax, numpy as np, popgrad, popgrad.jax
task = popgrad.CausalTree("chain", S=3, T=6)
model = popgrad.Disentangled(task=task)
params, batch = model.init(seed=0, std=0.5), task.sample(16)
f = jax.jit(jax.value_and_grad(popgrad.jax.loss(model, via=sys.argv[1])))
loss, grad = f(popgrad.jax.params(params), popgrad.jax.columns(batch))
exact, reference = model.value_and_grad(params, batch)
assert loss.dtype == np.float32 and abs(float(loss) - exact) < 1e-6 * exact
for name in grad:
    assert grad[name].dtype == np.float32
    assert abs(grad[name] - reference[name]).max() < 1e-5 * abs(reference[name]).max()
assert float(jax.value_and_grad(popgrad.jax.loss(model))(params, batch)[0]) == float(loss)
print("single", len(grad))
"""

LACKING = """
import sys
sys.modules["jax"] = None
import popgrad
try:
    popgrad.jax
except ImportError as error:
    print("refused:", error)
"""


def run(text, *words):
    command = [sys.executable, "-c", text, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@routes
def test_without_x64_all_is_single(via):
    done = run(SINGLE, via)
    assert done.stdout == "single 3\n", done.stderr


def test_without_jax_the_import_says_so():
    done = run(LACKING)
    assert done.stdout == "refused: popgrad.jax needs JAX: pip install jax\n", done.stderr


@routes
def test_large_arrays_and_many_steps_do_not_deadlock(via):
    """The callback reads buffers while the program that called it runs."""
    task = popgrad.CausalTree("chain", S=10, T=90)
    model = popgrad.Disentangled(task=task)
    ours, columns = popgrad.jax.loss(model, via=via), popgrad.jax.columns(task.sample(2))
    start = popgrad.jax.params(model.init(seed=0, std=0.01))

    def step(params, _):
        loss, grad = jax.value_and_grad(ours)(params, columns)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grad), loss

    losses = jax.jit(lambda p: jax.lax.scan(step, p, None, length=40))(start)[1]
    assert losses[-1] < losses[0]
