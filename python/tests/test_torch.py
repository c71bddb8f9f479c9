"""popgrad.torch.loss: against JAX's autodiff of the equations, gradcheck, torch.compile, memory."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import popgrad
import pytest
import transcription
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradients import HEADS, KINDS, ROUNDING, SIZES, TOLERANCE, batch_of

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

TASK = popgrad.CausalTree("chain", S=3, T=5, roots="uniform")
MODELS = [
    (popgrad.Disentangled(task=TASK, heads=[2, 1]), transcription.disentangled, {}),
    (popgrad.Simplified(task=TASK, eps=0.01), transcription.simplified, {"eps": 0.01}),
    (popgrad.MlpTransformer(task=TASK), transcription.mlp_transformer, {}),
    (popgrad.Memory(task=TASK, dim=4, ff2="relu"), transcription.memory, {}),
    (
        popgrad.Transformer(task=TASK, dim=4, heads=2, layers=1),
        transcription.transformer,
        {"heads": 2},
    ),
]
each = pytest.mark.parametrize(
    ("model", "forward", "options"), MODELS, ids=[m[0].name for m in MODELS]
)


def gradient(ours, params, *batch):
    for x in params.values():
        x.grad = None
    loss = ours(params, *batch)
    loss.backward()
    return loss.item(), {name: x.grad.numpy() for name, x in params.items()}


def check(model, forward, batch, seed=0, std=0.5, **options):
    start = model.init(seed=seed, std=std)
    found = gradient(popgrad.torch.loss(model), popgrad.torch.params(start), batch)

    def of(params):
        return transcription.loss(forward, params, batch, model.S, model.T, **options)

    loss, expected = jax.jit(jax.value_and_grad(of))(
        {name: np.array(x) for name, x in start.items()}
    )
    assert abs(found[0] - float(loss)) <= TOLERANCE * float(loss)
    for name, trains in model.trainable.items():
        theirs = np.asarray(expected[name]) if trains else np.zeros_like(start[name])
        difference = np.abs(found[1][name] - theirs).max()
        assert difference <= TOLERANCE * np.abs(theirs).max() + ROUNDING, name


@each
def test_the_gradient_is_that_of_autodiff(model, forward, options):
    check(model, forward, TASK.sample(5), **options)


@settings(max_examples=4)
@given(**SIZES, kind=KINDS, heads=HEADS)
def test_shapes(s, t, n, seed, kind, heads):
    model = popgrad.Disentangled(s, t, heads=heads)
    check(
        model,
        transcription.disentangled,
        batch_of(np.random.default_rng(seed), kind, n, s, t),
        seed,
    )


@settings(max_examples=4)
@given(
    s=st.integers(2, 4),
    t=st.integers(2, 5),
    n=st.integers(1, 4),
    seed=st.integers(0, 99),
    kind=KINDS,
)
def test_gradcheck(s, t, n, seed, kind):
    model = popgrad.Disentangled(s, t)
    batch = popgrad.torch.columns(batch_of(np.random.default_rng(seed), kind, n, s, t))
    assert gradchecked(model, batch, model.init(seed=seed, std=0.5))


@each
def test_gradcheck_of_every_model(model, forward, options):
    assert gradchecked(model, popgrad.torch.columns(TASK.sample(3)), model.init(seed=1, std=0.5))


def gradchecked(model, batch, start):
    """Central differences over the blocks that train; the others are buffers."""
    params, ours = popgrad.torch.params(start), popgrad.torch.loss(model)
    names = [name for name, trains in model.trainable.items() if trains]
    held = {name: x.detach() for name, x in params.items()}

    def f(*blocks):
        return ours({**held, **dict(zip(names, blocks))}, batch)

    return torch.autograd.gradcheck(f, [params[name] for name in names])


def test_gradcheck_sees_a_wrong_gradient():
    model = MODELS[0][0]
    ours = popgrad.torch.loss(model)
    stand_in(Spy(model, wrong=1e-3))
    params, batch = popgrad.torch.params(model.init(std=0.5)), popgrad.torch.columns(TASK.sample(3))
    with pytest.raises(RuntimeError, match="Jacobian"):
        torch.autograd.gradcheck(lambda w: ours({**params, "W": w}, batch), [params["W"]])


class Spy:
    """Stands for a model and keeps what the engine is given; adds `wrong` to an entry."""

    def __init__(self, model, wrong=0.0):
        self.model, self.wrong, self.seen = model, wrong, None
        self.shapes, self.S, self.T = model.shapes, model.S, model.T

    def value_and_grad(self, params, batch, threads):
        self.seen = params, batch
        loss, grad = self.model.value_and_grad(params, batch, threads)
        grad["W"][0, 0] += self.wrong
        return loss, grad


def stand_in(spy):
    """Puts `spy` in the place of the model of the last function that was made."""
    object.__setattr__(popgrad.torch._objectives[max(popgrad.torch._objectives)], "model", spy)


def test_a_population():
    model = MODELS[1][0]
    population = popgrad.Population(TASK)
    start = model.init(seed=2, std=0.5)
    loss, grad = population.value_and_grad(model, start)
    ours = popgrad.torch.loss(population, model)
    found = gradient(ours, popgrad.torch.params(start))
    assert found[0] == loss and all((found[1][name] == grad[name]).all() for name in grad)
    blocks = list(popgrad.torch.params(start).values())
    assert torch.autograd.gradcheck(lambda *x: ours(dict(zip(model.shapes, x))), blocks)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(backend):
    if backend == "inductor" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    model, batch = MODELS[0][0], popgrad.torch.columns(TASK.sample(6))
    ours, start = popgrad.torch.loss(model), model.init(seed=0, std=0.5)

    def scaled(params, batch):
        return 2.0 * ours({name: x * 1.5 for name, x in params.items()}, batch)

    plain = gradient(scaled, popgrad.torch.params(start), batch)
    loss, grad = model.value_and_grad({n: 1.5 * x for n, x in start.items()}, TASK.sample(6))
    assert plain[0] == 2.0 * loss
    assert all(np.allclose(plain[1][n], 3.0 * grad[n], rtol=1e-14, atol=1e-17) for n in grad)
    compiled = torch.compile(scaled, fullgraph=True, backend=backend)
    found = gradient(compiled, popgrad.torch.params(start), batch)
    assert abs(found[0] - plain[0]) <= 1e-14 * plain[0]
    for name, x in plain[1].items():
        assert np.abs(found[1][name] - x).max() <= 1e-13 * np.abs(x).max()
    with torch.no_grad():
        assert (
            abs(compiled(popgrad.torch.params(start), batch).item() - plain[0]) <= 1e-14 * plain[0]
        )
    torch._dynamo.reset()


def test_operators_keep_their_promises():
    """Schemas, shapes without data, and the registration of the derivative, by PyTorch's checks."""
    model, columns = MODELS[0][0], popgrad.torch.columns(TASK.sample(3))
    ours = popgrad.torch.loss(model)
    number = max(popgrad.torch._objectives)
    given = [columns[name] for name in ("tokens", "targets")] + [None, columns["weights"], number]
    blocks = list(popgrad.torch.params(model.init(std=0.3)).values())
    tests = ["test_schema", "test_faketensor", "test_autograd_registration"]
    for op in (torch.ops.popgrad.loss, torch.ops.popgrad.value_and_grad):
        wanted = tests if op is torch.ops.popgrad.value_and_grad else tests[:2]
        torch.library.opcheck(op.default, (blocks, *given), test_utils=wanted)
    assert ours is not None


def test_memory_is_shared():
    model, batch = MODELS[0][0], TASK.sample(4)
    ours = popgrad.torch.loss(model)
    spy = Spy(model)
    stand_in(spy)
    columns, start = popgrad.torch.columns(batch), model.init(std=0.5)
    params = popgrad.torch.params(start)
    ours(params, columns)
    arrays, given = spy.seen
    # The set of model.init is read where it is; so are the columns.
    assert model.is_borrowed(arrays)
    for name, x in params.items():
        assert arrays[name].ctypes.data == x.data_ptr() == start[name].ctypes.data
    for name, x in columns.items():
        assert getattr(given, name).ctypes.data == x.data_ptr() == getattr(batch, name).ctypes.data
    # Tensors that lie apart are not copied on the way to the engine.
    apart = {name: x.detach().clone().requires_grad_() for name, x in params.items()}
    ours(apart, columns)
    assert all(spy.seen[0][name].ctypes.data == x.data_ptr() for name, x in apart.items())
    # An optimizer's update stays in that memory.
    gradient(ours, params, columns)
    torch.optim.SGD(params.values(), lr=0.1).step()
    assert all((start[name] == x.detach().numpy()).all() for name, x in params.items())
    ours(params, columns)
    assert model.is_borrowed(spy.seen[0])


def test_other_layouts_are_copied_and_right():
    model, batch = MODELS[0][0], TASK.sample(4)
    ours, start = popgrad.torch.loss(model), model.init(std=0.5)
    loss, grad = gradient(ours, popgrad.torch.params(start), batch)
    turned = {
        n: torch.from_numpy(x.copy()).transpose(0, -1).contiguous().transpose(0, -1)
        for n, x in start.items()
    }
    moved = {name: x.requires_grad_() for name, x in turned.items()}
    columns = {n: x.long() if n == "tokens" else x for n, x in popgrad.torch.columns(batch).items()}
    other = gradient(ours, moved, columns)
    assert other[0] == loss and all((other[1][name] == grad[name]).all() for name in grad)
    # In one memory, but not in its order.
    inside = popgrad.torch.params(model.init(std=0.5), requires_grad=False)
    weight = inside["W"].view(inside["W"].shape[::-1]).t()
    weight.copy_(torch.from_numpy(start["W"]))
    for name, x in {**inside, "W": weight}.items():
        inside[name] = x.requires_grad_()
    other = gradient(ours, inside, columns)
    assert other[0] == loss and all((other[1][name] == grad[name]).all() for name in grad)


def test_the_type_is_that_of_the_parameters():
    model, batch = MODELS[0][0], TASK.sample(4)
    start = model.init(std=0.5, dtype="float32")
    loss, grad = model.value_and_grad(start, batch)
    params, ours = popgrad.torch.params(start), popgrad.torch.loss(model)
    found = gradient(ours, params, batch)
    assert ours(params, batch).dtype == torch.float32 and found[0] == np.float32(loss)
    assert all((found[1][name] == grad[name]).all() for name in grad)
    with pytest.raises(TypeError, match="float64; allowed: float32"):
        ours({**params, "W": params["W"].double()}, batch)
    with pytest.raises(TypeError, match="float16"):
        ours({name: x.half() for name, x in params.items()}, batch)


def test_only_first_derivatives():
    model, columns = MODELS[0][0], popgrad.torch.columns(TASK.sample(4))
    ours, params = popgrad.torch.loss(model), popgrad.torch.params(model.init(std=0.5))
    blocks = list(params.values())
    grads = torch.autograd.grad(ours(params, columns), blocks, create_graph=True)
    with pytest.raises(NotImplementedError, match="only first derivatives"):
        torch.autograd.grad(sum((x**2).sum() for x in grads), blocks)
    with pytest.raises(NotImplementedError, match="weights"):
        ours(params, {**columns, "weights": columns["weights"].clone().requires_grad_()})


def modes(f, p, v):
    """Derivatives of f at p along v, by each of PyTorch's forward modes."""
    from torch.autograd import forward_ad

    def dual():
        with forward_ad.dual_level():
            pairs = {name: forward_ad.make_dual(x, v[name]) for name, x in p.items()}
            return forward_ad.unpack_dual(f(pairs)).tangent

    def along(x):
        return sum((x[name] * v[name]).sum() for name in v)

    return {
        "jvp": lambda: torch.func.jvp(f, (p,), (v,))[1],
        "jacfwd": lambda: along(torch.func.jacfwd(f)(p)),
        "make_dual": dual,
        "linearize": lambda: torch.func.linearize(f, p)[1](v),
        "compiled jvp": lambda: torch.compile(
            lambda p, v: torch.func.jvp(f, (p,), (v,)), backend="aot_eager"
        )(p, v)[1],
    }


@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_mode_is_refused(requires_grad):
    """It was 0 without a word; a right one would do, too."""
    model, columns = MODELS[0][0], popgrad.torch.columns(TASK.sample(4))
    ours, start = popgrad.torch.loss(model), model.init(std=0.5)
    params = popgrad.torch.params(start, requires_grad)
    along = {n: torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape) for n, x in params.items()}
    for f in (lambda p: ours(p, columns), torch.compile(lambda p: ours(p, columns), backend="aot_eager")):
        f(params)
        for name, derivative in modes(f, params, along).items():
            with pytest.raises((NotImplementedError, RuntimeError), match="reverse mode|functorch|FX"):
                print(name, derivative())
    torch._dynamo.reset()
    weights = (columns["weights"],)
    with pytest.raises(NotImplementedError, match="reverse mode, first order only"):
        torch.func.jvp(lambda w: ours(params, {**columns, "weights": w}), weights, weights)
    with pytest.raises(NotImplementedError, match="vmap"):
        torch.func.vmap(lambda w: ours({**params, "W": w}, columns))(torch.stack([params["W"]] * 2))


def test_functional_transforms_of_reverse_mode():
    model, batch = MODELS[0][0], TASK.sample(4)
    start, columns, ours = model.init(std=0.5), popgrad.torch.columns(batch), popgrad.torch.loss(model)
    params = popgrad.torch.params(start, requires_grad=False)
    loss, grad = model.value_and_grad(start, batch)

    def f(p):
        return ours(p, columns)

    one = torch.tensor(1.0, dtype=torch.float64)
    found = [torch.func.grad(f)(params), torch.func.jacrev(f)(params), torch.func.vjp(f, params)[1](one)[0]]
    found.append(torch.func.grad_and_value(f)(params)[0])
    for theirs in found:
        assert all((theirs[name].numpy() == x).all() for name, x in grad.items())
    with pytest.raises(NotImplementedError, match="only first derivatives"):
        torch.func.jacrev(torch.func.grad(f))(params)
    with pytest.raises(NotImplementedError, match="reverse mode, first order only"):
        torch.func.hessian(f)(params)


def test_what_is_refused():
    model, columns = MODELS[0][0], popgrad.torch.columns(TASK.sample(4))
    ours, params = popgrad.torch.loss(model), popgrad.torch.params(model.init(std=0.5))
    for wrong in ({"V": params["W"]}, {"W": params["W"][1:]}):
        with pytest.raises(popgrad.InvalidError, match="allowed"):
            ours({**params, **wrong}, columns)
    with pytest.raises(KeyError, match="W"):
        ours({"A.0": params["A.0"]}, columns)
    tokens = columns["tokens"].long()
    for wrong in (
        {"labels": tokens},
        {"weights": torch.ones(5)},
        {"token": tokens},
        {"tokens": tokens + 3},
    ):
        with pytest.raises(popgrad.InvalidError, match="allowed"):
            ours(params, {**columns, **wrong})
    with pytest.raises(TypeError, match=r"params\[A.0\]: ndarray; allowed: a tensor"):
        ours(model.init(std=0.5), columns)
    for arguments in ((params, None), (None, columns)):
        with pytest.raises(TypeError, match="NoneType; allowed"):
            ours(*arguments)
    with pytest.raises(popgrad.InvalidError, match="arrays: none; allowed"):
        popgrad.torch.params({})
    for wrong in (None, {"W": [[1.0]]}):
        with pytest.raises(TypeError, match="allowed"):
            popgrad.torch.params(wrong)
    for threads in (0, -1, 1.5):
        with pytest.raises(popgrad.InvalidError, match="threads") as refused:
            popgrad.torch.loss(model, threads=threads)
        assert refused.value.field == "threads"
    with pytest.raises(TypeError, match="cpu"):
        ours({name: x.to("meta") for name, x in params.items()}, columns)


def test_subnormal_numbers_read_as_zero_change_nothing():
    """The ReLU's gradient compares with the least positive number."""
    model, batch = MODELS[3][0], TASK.sample(5)
    start = model.init(seed=0, std=0.5)
    loss, grad = model.value_and_grad(start, batch)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        found = gradient(popgrad.torch.loss(model), popgrad.torch.params(start), batch)
    finally:
        torch.set_flush_denormal(False)
    assert found[0] == loss and all((found[1][name] == grad[name]).all() for name in grad)


def test_without_torch_the_import_says_so():
    text = "import sys\nsys.modules['torch'] = None\nimport popgrad\npopgrad.torch"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert "ImportError: popgrad.torch needs PyTorch: pip install torch" in done.stderr


def test_relu_stops_gradients_where_subnormals_are_zero_too():
    task = popgrad.TriggerBigram(T=12, K=2)
    model = popgrad.Memory(task=task, dim=16, ff2="relu")
    params, batch = model.init(seed=0, std=0.3, dtype="float64"), task.sample(8, seed=0)
    loss, grad = model.value_and_grad(params, batch, threads=1)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU has no such mode")
    try:
        other, here = model.value_and_grad(params, batch, threads=1)
    finally:
        torch.set_flush_denormal(False)
    assert other == pytest.approx(loss, rel=1e-12)
    for name, g in grad.items():
        assert np.abs(here[name] - g).max() <= 1e-10 * np.abs(g).max(), name
