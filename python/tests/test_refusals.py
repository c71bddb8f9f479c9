"""What once went wrong quietly: arrays that change under a batch, memory that two arguments share,
sizes that no memory holds, objects that are copied."""

import copy
import pickle

import numpy as np
import popgrad
import pytest

TASK = popgrad.CausalTree("chain", S=3, T=8)
MODEL = popgrad.Disentangled(task=TASK)
PARAMS = MODEL.init(seed=0, std=0.1)


def test_arrays_that_change_their_type_or_shape_under_a_batch_are_refused():
    batch = TASK.sample(16)
    batch.tokens.dtype = np.uint8
    for call in (lambda: MODEL.loss(PARAMS, batch), lambda: TASK.bayes(batch)):
        with pytest.raises(popgrad.InvalidError, match="tokens: changed since the Batch was made"):
            call()
    batch = TASK.sample(16)
    batch.weights.dtype = np.float32
    with pytest.raises(popgrad.InvalidError, match="weights: changed"):
        MODEL.value_and_grad(PARAMS, batch)
    own = np.zeros((16, 8), np.uint32)
    batch = popgrad.Batch(own, TASK.sample(16).targets, copy=False)
    own.resize((4, 8), refcheck=False)
    with pytest.raises(popgrad.InvalidError, match="tokens: changed"):
        MODEL.predict(PARAMS, batch)


def test_a_gradient_is_not_written_over_the_batch():
    model = popgrad.Simplified(task=TASK)
    params = model.init()
    out = model.flat(params)
    sample = TASK.sample(16)
    inside = out["A1"].base[:48]
    inside[:] = sample.targets.ravel()
    batch = popgrad.Batch(sample.tokens, inside.reshape(16, 3), copy=False)
    before = batch.targets.copy()
    with pytest.raises(popgrad.InvalidError, match="out: memory that the batch lies in"):
        model.value_and_grad(params, batch, out=out)
    assert (batch.targets == before).all()


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("threads", lambda: MODEL.loss(PARAMS, TASK.sample(2), threads=-1)),
        ("threads", lambda: MODEL.value_and_grad(PARAMS, TASK.sample(2), threads=2**70)),
        ("seed", lambda: MODEL.init(seed=-1)),
        ("seed", lambda: TASK.sample(2, seed=2**64)),
        ("n", lambda: TASK.sample(-1)),
        ("start", lambda: TASK.sample(1, start=-1)),
        ("S", lambda: popgrad.Simplified(S=-1, T=4)),
        ("T", lambda: popgrad.Simplified(S=2, T=-4)),
    ],
)
def test_whole_numbers_out_of_range_are_named(field, call):
    with pytest.raises(popgrad.InvalidError) as caught:
        call()
    assert caught.value.field == field, caught.value


def test_what_no_memory_holds_is_refused():
    big = 10**6
    for call in (
        lambda: popgrad.kernels.gemm(np.zeros((big, 0)), np.zeros((0, big))),
        lambda: popgrad.kernels.gemm(np.zeros((2**31, 0)), np.zeros((0, 2**31))),
        lambda: popgrad.kernels.attention(*[np.zeros((10**9, 2000, 0))] * 2, np.zeros((10**9, 2000, 0))),
    ):
        with pytest.raises(popgrad.InvalidError, match="memory"):
            call()


def test_an_activation_is_named_once():
    with pytest.raises(popgrad.InvalidError, match="`logits` twice"):
        MODEL.run_with_cache(PARAMS, TASK.sample(2).tokens, ["logits", "logits"])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_tasks_models_populations_and_batches_are_copied(copied):
    small = popgrad.CausalTree("chain", S=2, T=5, roots="uniform")
    for task in (TASK, popgrad.TriggerBigram(T=16, K=2), popgrad.CausalDag("ngram", S=3, T=6, order=3)):
        again = copied(task)
        assert type(again) is type(task) and again.keys == task.keys and repr(again) == repr(task)
        assert (again.sample(4).tokens == task.sample(4).tokens).all()
    for model in (MODEL, popgrad.Simplified(task=small, eps=0.1), popgrad.Memory(4, 6, dim=8)):
        again = copied(model)
        assert type(again) is type(model) and again.shapes == model.shapes and again.keys == model.keys
    population = popgrad.Population(small, eps=0.1, max_seconds=5.0)
    model = popgrad.Simplified(task=small, eps=0.1)
    again = copied(population)
    assert again.loss(model, model.init()) == population.loss(model, model.init())
    batch = popgrad.TriggerBigram(T=32).sample(2)
    again = copied(batch)
    for name in ("tokens", "labels", "weights", "seen"):
        assert (getattr(again, name) == getattr(batch, name)).all(), name
