"""The benchmark compares equals: its PyTorch models are the engine's, and it sees what is not."""

import importlib.util
from pathlib import Path

import numpy as np
import popgrad
import pytest
from test_gradients import ROUNDING, TOLERANCE, batch_of

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
BENCHES = Path(__file__).parents[1] / "benches"


def module(name):
    spec = importlib.util.spec_from_file_location(name, BENCHES / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


MODELS = [
    ("disentangled", popgrad.Disentangled(4, 6, heads=[2, 1])),
    ("simplified", popgrad.Simplified(4, 6, eps=0.01)),
    ("mlp_transformer", popgrad.MlpTransformer(4, 6, heads=[2, 1])),
    ("memory", popgrad.Memory(4, 6, dim=6)),
    ("transformer", popgrad.Transformer(4, 6, dim=8, layers=2, heads=2)),
]


@pytest.mark.parametrize("kind", ["targets", "labels"])
@pytest.mark.parametrize(("name", "model"), MODELS, ids=[name for name, _ in MODELS])
def test_the_models_in_pytorch_are_ours(name, model, kind):
    torch_models = module("torch_models")
    eps, options = (0.01, {}) if name == "simplified" else (None, {})
    if eps is not None and kind == "labels":
        pytest.skip("simplified answers at the last position")
    if name == "transformer":
        options["heads"] = 2
    batch = batch_of(np.random.default_rng(0), kind, 5, 4, 6)
    params = model.init(seed=0, std=0.5)
    loss, grad = model.value_and_grad(params, batch)
    blocks = {n: torch.from_numpy(x.copy()).requires_grad_() for n, x in params.items()}
    tokens = torch.from_numpy(batch.tokens.astype("int64"))
    out = getattr(torch_models, name)(blocks, tokens, 4, **options)
    targets = None if batch.targets is None else torch.from_numpy(batch.targets)
    labels = None if batch.labels is None else torch.from_numpy(batch.labels.astype("int64"))
    found = torch_models.loss(out, targets, labels, torch.from_numpy(batch.weights), eps)
    found.backward()
    assert abs(found.item() - loss) <= TOLERANCE * loss
    for n, trains in model.trainable.items():
        if trains:
            theirs = blocks[n].grad.numpy()
            bound = TOLERANCE * np.abs(theirs).max() + ROUNDING
            assert np.abs(theirs - grad[n]).max() <= bound, n


def test_contenders_that_disagree_are_refused():
    bench = module("side_by_side")
    problem = next(iter(bench.problems(small=True)))
    model, batch = problem.model, problem.batch
    params = model.init(seed=0, std=0.1, dtype="float32")
    names = list(model.shapes)
    ours = (lambda: model.value_and_grad(params, batch), lambda found: found)
    theirs = bench.in_torch(problem, params, names, compiled=False)
    found = {"popgrad": ours, "eager": theirs}
    bench.check(found)
    taken = bench.times(found, rounds=3, seconds=0.01)
    assert set(taken) == {"popgrad", "eager"} and all(len(x) >= 3 for x in taken.values())

    def off(by_loss, by_grad):
        def call():
            loss, grad = model.value_and_grad(params, batch)
            grad["W"][0, 0] += by_grad
            return loss + by_loss, grad

        return call, lambda found: found

    for wrong, word in ((off(1e-3, 0.0), "loss"), (off(0.0, 1e-3), "gradient of W")):
        with pytest.raises(SystemExit, match=word):
            bench.check({"popgrad": ours, "wrong": wrong})
