"""Activations against the predictions and the equations; replaced ones against recomputed ones."""

import jax
import numpy as np
import popgrad
import pytest
import transcription

TASK = popgrad.CausalTree("chain", S=3, T=5)
BATCH = TASK.sample(4)
MODELS = [
    popgrad.Disentangled(task=TASK, heads=[2, 1]),
    popgrad.Simplified(task=TASK),
    popgrad.MlpTransformer(task=TASK),
    popgrad.Memory(task=TASK, dim=6, ff2="relu"),
    popgrad.Transformer(task=TASK, dim=8, heads=2),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_the_plain_pass_is_the_model(model):
    params = model.init(seed=0, std=0.5)
    probs, cache = model.run_with_cache(params, BATCH.tokens)
    assert probs.shape == (4, 5, 3)
    assert np.allclose(probs[:, -1], model.predict(params, BATCH), rtol=1e-12, atol=1e-14)
    assert {name: x.shape[1:] for name, x in cache.items()} == model.activations
    for name, x in cache.items():
        if name.endswith("pattern"):
            assert np.allclose(x.sum(axis=-1), 1, atol=1e-13) and not np.triu(x, 1).any()
    one = list(model.activations)[-1]
    assert list(model.run_with_cache(params, BATCH.tokens, [one])[1]) == [one]
    single = model.run_with_cache({n: x.astype(np.float32) for n, x in params.items()}, BATCH.tokens[0])
    assert single[0].shape == (1, 5, 3) and np.abs(single[0] - probs[:1]).max() < 1e-5


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_an_activation_replaced_by_itself_changes_nothing_and_by_zeros_does(model):
    params, other = model.init(seed=0, std=0.5), model.init(seed=1, std=0.5)
    probs, cache = model.run_with_cache(params, BATCH.tokens)
    theirs, own = model.run_with_cache(other, BATCH.tokens)
    name = "layer0.head0.out"
    assert (model.patch(params, BATCH.tokens, {name: cache[name]})[0] == probs).all()
    assert not np.allclose(model.patch(params, BATCH.tokens, {name: 0})[0], probs, atol=1e-6)
    # Another model's activation, by its parameters and by its values.
    swapped, patched = model.patch(params, BATCH.tokens, {name: other})
    assert (patched[name] == own[name]).all()
    assert (swapped == model.patch(params, BATCH.tokens, {name: own[name]})[0]).all()
    last = list(model.activations)[-1]
    assert (model.patch(params, BATCH.tokens, {last: own[last]})[0] == theirs).all()


def test_the_pattern_is_that_of_the_equations():
    model = MODELS[0]
    params = model.init(seed=0, std=0.5)
    _, cache = model.run_with_cache(params, BATCH.tokens, ["layer0.pattern", "layer0.resid", "logits"])
    for b, tokens in enumerate(BATCH.tokens):
        x = np.concatenate([np.eye(3)[tokens], np.eye(5)], axis=1)
        for h in range(2):
            expected = transcription.causal(x @ params["A.0"][h] @ x.T)
            assert np.allclose(cache["layer0.pattern"][b, h], expected, rtol=1e-12, atol=1e-15)
        logits = transcription.disentangled(params, tokens.astype(int), 3, 5)
        assert np.allclose(cache["logits"][b], logits, rtol=1e-12, atol=1e-14)


def test_the_intervention_is_that_of_the_equations():
    """Zeros in place of layer 0's second head: the stream without it."""
    model = MODELS[0]
    params = model.init(seed=0, std=0.5)
    probs, _ = model.patch(params, BATCH.tokens, {"layer0.head1.out": "zero"}, names=[])
    for b, tokens in enumerate(BATCH.tokens):
        x = np.concatenate([np.eye(3)[tokens], np.eye(5)], axis=1)
        head = transcription.causal(x @ params["A.0"][0] @ x.T) @ x
        x = np.concatenate([x, head, 0 * head], axis=1)
        top = transcription.causal(x @ params["A.1"][0] @ x.T) @ x
        expected = jax.nn.softmax(np.concatenate([x, top], axis=1) @ params["W"], axis=1)
        assert np.allclose(probs[b], expected, rtol=1e-12, atol=1e-14)
