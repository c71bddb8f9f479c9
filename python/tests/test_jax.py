"""popgrad.jax.loss: grad, jit, vmap and jvp against automatic differentiation of the equations."""

import gc
import re
import resource
import subprocess
import sys
import threading

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


def same(found, expected):
    """The bits of a loss and a gradient of the engine."""
    loss, grad = expected
    assert np.asarray(found[0]) == np.asarray(loss, np.asarray(found[0]).dtype)
    for name in grad:
        ours = np.asarray(found[1][name])
        assert ours.dtype == grad[name].dtype and ours.tobytes() == grad[name].tobytes(), name


def live():
    """Objectives that functions hold, or programs that JAX does not just keep for later."""
    jax.clear_caches()
    gc.collect()
    return popgrad._native.ffi_objectives()


@routes
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("model", [m[0] for m in MODELS], ids=[m[0].name for m in MODELS])
def test_the_bits_are_those_of_value_and_grad(via, model, dtype):
    params, f = model.init(seed=0, std=0.5, dtype=dtype), popgrad.jax.loss(model, via=via)
    arrays, rng = popgrad.jax.params(params), np.random.default_rng(0)
    tokens = rng.integers(0, 3, (70, 6)).astype(np.uint32)
    laws = rng.dirichlet(np.ones(3), 70)
    cases = [{"targets": laws}, {"targets": laws, "weights": rng.random(70)}]
    if model.name in ("memory", "transformer"):
        labels = rng.integers(0, 3, (70, 6)).astype(np.uint32)
        cases += [{"labels": labels}, {"labels": labels, "weights": rng.random((70, 6))}]
    ran = 0
    for columns in ({"tokens": tokens, **case} for case in cases):
        batch = popgrad.Batch(**columns)
        try:
            expected = model.value_and_grad(params, batch)
        except popgrad.InvalidError:
            continue  # Targets of the other kind.
        g = jax.value_and_grad(f)
        for h in (g, jax.jit(g)):
            same(h(arrays, columns), expected)
            # Other types with the same numbers.
            same(h(arrays, {**columns, "tokens": tokens.astype(np.int64)}), expected)
            same(h(arrays, {**columns, "tokens": tokens.astype(np.int8)}), expected)
        assert float(jax.jit(f)(arrays, columns)) == float(g(arrays, columns)[0])
        ran += 1
    assert ran


@routes
@pytest.mark.parametrize("method", ["tree", "words"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_bits_of_a_population(via, method, dtype):
    model, population = MODELS[1][0], popgrad.Population(TASK, method=method)
    params = model.init(seed=3, std=0.5, dtype=dtype)
    f = jax.jit(jax.value_and_grad(popgrad.jax.loss(population, model, via=via)))
    same(f(popgrad.jax.params(params)), population.value_and_grad(model, params))


@routes
def test_subnormal_numbers_are_read_as_they_are(via):
    """Threads of JAX read them as 0."""
    model = popgrad.Memory(task=TASK, dim=6, ff2="relu")
    params = {name: x * 1e-310 for name, x in model.init(seed=0, std=0.5).items()}
    batch = batch_of(np.random.default_rng(0), "labels", 4, 3, 6)
    f = jax.jit(jax.value_and_grad(popgrad.jax.loss(model, via=via)))
    same(f(popgrad.jax.params(params), popgrad.jax.columns(batch)), model.value_and_grad(params, batch))


@routes
def test_errors_say_what_the_engine_says(via):
    model = MODELS[0][0]
    params = popgrad.jax.params(model.init(std=0.3))
    columns = popgrad.jax.columns(TASK.sample(4))
    wrong = [
        ({"tokens": columns["tokens"] + np.uint32(3)}, "tokens.*allowed: 0 <= symbol < 3"),
        ({"tokens": columns["tokens"].astype(np.int32) - 5}, "tokens: -.*allowed: an array of integers, 0"),
        ({"targets": columns["targets"] * 2}, r"targets\[0\]: sums to 2; allowed"),
        ({"targets": columns["targets"] - 5}, r"targets\[0\]: holds -"),
        ({"weights": -columns["weights"]}, "weights.*allowed"),
    ]
    for function in (popgrad.jax.loss(model, via=via), popgrad.jax.loss(model, threads=1, via=via)):
        for f in (function, jax.jit(function), jax.jit(jax.value_and_grad(function))):
            for other, text in wrong:
                with pytest.raises((ValueError, RuntimeError), match=text):
                    jax.block_until_ready(f(params, {**columns, **other}))
            # The same program goes on.
            jax.block_until_ready(f(params, columns))


@routes
def test_threads_change_no_bit_and_are_checked(via):
    model, batch = MODELS[0][0], TASK.sample(600)
    params, columns = model.init(seed=0, std=0.5), popgrad.jax.columns(batch)
    expected = model.value_and_grad(params, batch, 1)
    for threads in (None, 1, 2, 3):
        f = popgrad.jax.loss(model, threads=threads, via=via)
        same(jax.jit(jax.value_and_grad(f))(popgrad.jax.params(params), columns), expected)
    for threads in (0, -1, 1.5, 10**6):
        with pytest.raises(popgrad.InvalidError, match="threads") as refused:
            popgrad.jax.loss(model, threads=threads, via=via)
        assert refused.value.field == "threads"


@routes
def test_two_python_threads_at_once(via):
    model, batch = MODELS[0][0], TASK.sample(300)
    params, columns = model.init(seed=0, std=0.5), popgrad.jax.columns(batch)
    f = jax.jit(jax.value_and_grad(popgrad.jax.loss(model, via=via)))
    sets = [{name: x * scale for name, x in params.items()} for scale in (1.0, 0.5)]
    failed = []

    def work(own):
        try:
            expected = model.value_and_grad(own, batch)
            for _ in range(30):
                same(f(popgrad.jax.params(own), columns), expected)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in sets]
    [t.start() for t in threads]
    [t.join(timeout=120) for t in threads]
    assert not any(t.is_alive() for t in threads) and not failed


@routes
def test_memory_does_not_grow_over_many_calls(via):
    task = popgrad.CausalTree("chain", S=8, T=32)
    model = popgrad.Disentangled(task=task)
    params, columns = popgrad.jax.params(model.init(std=0.1)), popgrad.jax.columns(task.sample(4))
    f = jax.jit(jax.value_and_grad(popgrad.jax.loss(model, via=via)))

    def calls(n):
        for _ in range(n):
            jax.block_until_ready(f(params, columns))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = calls(200)
    # A gradient a call, some 20 kB, would be 20 MB.
    assert calls(1000) - before < 8192


@ffi
def test_functions_of_one_model_share_an_objective_and_leave_none():
    before = live()
    model = popgrad.Disentangled(task=TASK)
    params, columns = popgrad.jax.params(model.init(std=0.3)), popgrad.jax.columns(TASK.sample(4))
    functions = [popgrad.jax.loss(model, threads=t, via="ffi") for t in (None, 1, 2)]
    values = [float(f(params, columns)) for f in functions]
    assert len(set(values)) == 1 and live() == before + 1
    other = popgrad.jax.loss(popgrad.Disentangled(task=TASK))
    assert live() == before + 2
    del functions, model, other
    assert live() == before


@routes
def test_a_program_outlives_its_function(via):
    before = live()
    model = popgrad.Disentangled(task=TASK)
    params, batch = model.init(seed=0, std=0.5), TASK.sample(600)
    arrays, columns = popgrad.jax.params(params), popgrad.jax.columns(batch)
    expected = model.value_and_grad(params, batch)
    function = popgrad.jax.loss(model, via=via)
    program = jax.jit(jax.value_and_grad(function)).lower(arrays, columns).compile()
    jaxpr = jax.make_jaxpr(function)(arrays, columns)
    # The call is under way while all that made it goes.
    running = program(arrays, columns)
    del function, model
    jax.clear_caches()
    gc.collect()
    same(running, expected)
    for _ in range(3):
        same(program(arrays, columns), expected)
    del program
    jax.clear_caches()
    # What was traced keeps the objective, too: it is compiled now.
    leaves = jax.tree.leaves((arrays, columns))
    assert jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *leaves)[0] == expected[0]
    del jaxpr
    assert live() == before


@ffi
def test_what_was_lowered_needs_its_function_until_it_is_compiled():
    model = popgrad.Disentangled(task=TASK)
    arrays, columns = popgrad.jax.params(model.init()), popgrad.jax.columns(TASK.sample(4))
    lowered = jax.jit(popgrad.jax.loss(model, via="ffi")).lower(arrays, columns)
    text = lowered.as_text()
    assert "popgrad_loss" in text and "callback" not in text
    number = re.search(r"objective = (\d+)", text)[1]
    assert int(number) == popgrad._native.FfiObjective(model).id
    assert float(lowered.compile()(arrays, columns)) == model.loss(model.init(), TASK.sample(4))


def test_via():
    model = MODELS[0][0]
    arrays, columns = popgrad.jax.params(model.init()), popgrad.jax.columns(TASK.sample(4))
    for wrong in ("FFI", "", None, 1):
        with pytest.raises(popgrad.InvalidError, match="via") as refused:
            popgrad.jax.loss(model, via=wrong)
        assert (refused.value.field, refused.value.allowed) == ("via", "auto, ffi, callback")
    text = jax.jit(popgrad.jax.loss(model, via="callback")).lower(arrays, columns).as_text()
    assert "popgrad_loss" not in text and "callback" in text
    text = jax.jit(popgrad.jax.loss(model)).lower(arrays, columns).as_text()
    assert ("popgrad_loss" in text) == (LACKING_FFI is None)


def header(folder, major, minor):
    path = folder / "xla" / "ffi" / "api" / "c_api.h"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#define XLA_FFI_API_MAJOR {major}\n#define XLA_FFI_API_MINOR {minor}\n")
    return str(folder)


@pytest.mark.skipif(not hasattr(jax, "ffi"), reason="no jax.ffi")
def test_other_versions_fall_back(tmp_path, monkeypatch):
    model = MODELS[0][0]
    params, batch = model.init(seed=0, std=0.5), TASK.sample(4)
    arrays, columns = popgrad.jax.params(params), popgrad.jax.columns(batch)
    folders = [str(tmp_path / "none")]
    folders += [header(tmp_path / f"{a}.{b}", a, b) for a, b in ((1, 0), (1, 9), (0, 2), (0, "x"))]
    for folder in folders:
        monkeypatch.setattr(jax.ffi, "include_dir", lambda folder=folder: folder)
        with pytest.raises(ImportError, match="via='ffi'"):
            popgrad.jax.loss(model, via="ffi")
        f = jax.jit(jax.value_and_grad(popgrad.jax.loss(model)))
        assert "popgrad_value_and_grad" not in f.lower(arrays, columns).as_text()
        same(f(arrays, columns), model.value_and_grad(params, batch))
    monkeypatch.delattr(jax, "ffi")
    with pytest.raises(ImportError, match="lacks jax.ffi"):
        popgrad.jax.loss(model, via="ffi")
    same(
        jax.jit(jax.value_and_grad(popgrad.jax.loss(model)))(arrays, columns),
        model.value_and_grad(params, batch),
    )


@ffi
def test_other_platforms_fall_back(monkeypatch):
    model = MODELS[0][0]
    arrays, columns = popgrad.jax.params(model.init()), popgrad.jax.columns(TASK.sample(4))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    text = jax.jit(popgrad.jax.loss(model)).lower(arrays, columns).as_text()
    assert "popgrad_loss" not in text
    with pytest.raises(popgrad.InvalidError, match="via: 'ffi' on gpu"):
        popgrad.jax.loss(model, via="ffi")(arrays, columns)


@ffi
def test_calls_that_do_not_fit_are_refused():
    """By hand, as nothing in the package calls: each ends as an error with a text."""
    model = MODELS[0][0]
    columns = popgrad.jax.columns(TASK.sample(4))
    arrays = popgrad.jax.params(model.init())
    popgrad.jax.loss(model, via="ffi")(arrays, columns)
    own = popgrad._native.FfiObjective(model)
    scalar, blocks = jax.ShapeDtypeStruct((), np.float64), list(arrays.values())
    batch = [columns["tokens"], columns["targets"], columns["weights"]]
    good = {"objective": np.int64(own.id), "threads": np.int64(1), "columns": np.int64(11)}

    def call(arguments, outs=scalar, target="popgrad_loss", **attributes):
        given = {name: x for name, x in {**good, **attributes}.items() if x is not None}
        return jax.block_until_ready(jax.ffi.ffi_call(target, outs)(*arguments, **given))

    assert float(call(blocks + batch)) == model.loss(model.init(), TASK.sample(4))
    cases = [
        ("objective: .*not there", {"arguments": blocks + batch, "objective": np.int64(-5)}),
        ("objective: no attribute", {"arguments": blocks + batch, "objective": None}),
        ("threads: no attribute", {"arguments": blocks + batch, "threads": np.int32(7)}),
        ("threads: 0; allowed", {"arguments": blocks + batch, "threads": np.int64(-1)}),
        ("columns: 64; allowed", {"arguments": blocks + batch, "columns": np.int64(64)}),
        ("tokens: none; allowed", {"arguments": blocks + batch[1:], "columns": np.int64(10)}),
        ("targets: none or two", {"arguments": blocks + batch[:1], "columns": np.int64(1)}),
        ("arguments and results", {"arguments": blocks + batch[:2]}),
        ("arguments and results", {"arguments": blocks + batch, "target": "popgrad_value_and_grad"}),
        ("arguments and results", {"arguments": blocks + batch, "outs": [scalar, scalar]}),
        ("params.*shape", {"arguments": [blocks[0][:1], *blocks[1:], *batch]}),
        ("params.*shape", {"arguments": [blocks[0].ravel(), *blocks[1:], *batch]}),
        ("params.*another type", {"arguments": [blocks[0].astype(int), *blocks[1:], *batch]}),
        ("XLA: a buffer of another type", {"arguments": [*blocks[:-1], blocks[-1].astype("f4"), *batch]}),
        ("XLA: a result", {"arguments": blocks + batch, "outs": jax.ShapeDtypeStruct((), np.float32)}),
        ("XLA: a result", {"arguments": blocks + batch, "outs": jax.ShapeDtypeStruct((2,), np.float64)}),
        ("tokens: shape", {"arguments": [*blocks, batch[0][0], *batch[1:]]}),
        ("T: 5; allowed: 6", {"arguments": [*blocks, batch[0][:, :5], *batch[1:]]}),
        ("targets: shape", {"arguments": [*blocks, batch[0], batch[1][:2], batch[2]]}),
        ("S: 2; allowed: 3", {"arguments": [*blocks, batch[0], batch[1][:, :2] * 0 + 0.5, batch[2]]}),
        ("weights: shape", {"arguments": [*blocks, *batch[:2], batch[2][:1]]}),
        ("tokens: an array of another", {"arguments": [*blocks, batch[0].astype("i1"), *batch[1:]]}),
        ("tokens: .*integers", {"arguments": [*blocks, batch[0].astype("f4") + 0.5, *batch[1:]]}),
    ]
    for text, words in cases:
        with pytest.raises((ValueError, RuntimeError), match=text):
            call(**words)
    assert float(call(blocks + batch)) == model.loss(model.init(), TASK.sample(4))
