"""No copies, shown on addresses; nothing is lost over many calls; threads and forks."""

import os
import resource
import sys
import threading

import numpy as np
import popgrad
import pytest

S, T = 3, 6


def problem(n=16):
    task = popgrad.CausalTree("chain", S=S, T=T)
    model = popgrad.Disentangled(S, T, heads=[2, 1])
    return model, model.init(seed=0, std=0.3), task.sample(n)


def address(x):
    return x.__array_interface__["data"][0]


def test_a_parameter_set_is_views_of_one_flat_array():
    model, params, _ = problem()
    bases = {id(x.base) for x in params.values()}
    assert len(bases) == 1 and all(x.flags.c_contiguous for x in params.values())
    at = address(params["A.0"])
    for name, shape in model.shapes.items():
        assert params[name].shape == shape and address(params[name]) == at
        at += params[name].nbytes
    assert model.is_borrowed(params)


def test_what_is_borrowed_is_not_copied_and_what_is_apart_is_copied_once_or_refused():
    model, params, batch = problem()
    expected = model.value_and_grad(params, batch)
    assert model.value_and_grad(params, batch, copy=False)[0] == expected[0]
    apart = {name: x.copy() for name, x in params.items()}
    strided = {name: np.repeat(x, 2, axis=-1)[..., ::2] for name, x in params.items()}
    for other in (apart, strided):
        assert not model.is_borrowed(other)
        loss, grad = model.value_and_grad(other, batch)
        assert loss == expected[0]
        assert all((grad[name] == expected[1][name]).all() for name in grad)
        with pytest.raises(popgrad.InvalidError, match="params") as refused:
            model.value_and_grad(other, batch, copy=False)
        assert refused.value.field == "params" and "flat" in refused.value.allowed
    assert model.is_borrowed(model.flat(apart))


def test_what_the_engine_reads_is_the_arrays_themselves():
    """A change made through a view of the memory is seen, so there is no copy kept anywhere."""
    model, params, batch = problem()
    before = model.loss(params, batch)
    params["W"].base[-1] += 1.0
    assert params["W"].ravel()[-1] == params["W"].base[-1]
    assert model.loss(params, batch) != before


def test_out_is_written_in_place():
    model, params, batch = problem()
    _, expected = model.value_and_grad(params, batch)
    out = model.flat({name: np.full_like(x, np.nan) for name, x in params.items()})
    places = {name: address(x) for name, x in out.items()}
    _, grad = model.value_and_grad(params, batch, out=out)
    assert grad is out and {name: address(x) for name, x in out.items()} == places
    assert all((out[name] == expected[name]).all() for name in out)
    with pytest.raises(popgrad.InvalidError, match="out"):
        model.value_and_grad(params, batch, out=params)
    with pytest.raises(popgrad.InvalidError, match="out"):
        model.value_and_grad(params, batch, out={name: x.copy() for name, x in params.items()})
    out["W"].flags.writeable = False
    with pytest.raises(popgrad.InvalidError, match="read-only"):
        model.value_and_grad(params, batch, out=out)


def test_columns_of_a_batch_are_the_arrays_that_were_given():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, S, (5, T)).astype(np.uint32)
    targets, weights = rng.dirichlet(np.ones(S), 5), rng.random(5)
    batch = popgrad.Batch(tokens, targets, weights=weights, copy=False)
    assert batch.tokens is tokens and batch.targets is targets and batch.weights is weights
    for wrong in (tokens.astype(np.int64), np.asfortranarray(tokens)):
        assert (popgrad.Batch(wrong, targets).tokens == tokens).all()
        with pytest.raises(popgrad.InvalidError, match="copy=True"):
            popgrad.Batch(wrong, targets, copy=False)


def test_memory_does_not_grow_over_many_calls():
    model, params, batch = problem(n=2)
    out = model.flat(params)

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in range(2000):
        model.value_and_grad(params, batch, threads=1)
    blocks, before = sys.getallocatedblocks(), peak()
    for _ in range(50_000):
        model.value_and_grad(params, batch, threads=1)
        model.value_and_grad(params, batch, threads=1, out=out)
    # A leak of one parameter set a call would be 200 MB.
    assert peak() - before < 4096
    assert sys.getallocatedblocks() - blocks < 500


def test_threads_share_a_model():
    model, params, batch = problem(n=600)
    expected = model.value_and_grad(params, batch, threads=1)
    wrong = []

    def work():
        for _ in range(20):
            loss, grad = model.value_and_grad(params, batch, threads=2)
            if loss != expected[0] or any((grad[n] != expected[1][n]).any() for n in grad):
                wrong.append(loss)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join(timeout=60) for t in threads]
    assert not any(t.is_alive() for t in threads) and not wrong


def test_the_lock_of_the_interpreter_is_released():
    """Another thread counts while one long call is under way."""
    model = popgrad.Transformer(20, 64, dim=64, layers=2)
    task_tokens = np.random.default_rng(0).integers(0, 20, (64, 64)).astype(np.uint32)
    batch, params = popgrad.Batch(task_tokens, labels=task_tokens), model.init(seed=0)
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            done.wait(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    before = counted[0]
    model.value_and_grad(params, batch, threads=1)
    during = counted[0] - before
    done.set()
    thread.join()
    assert during > 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")
def test_a_child_of_a_fork_computes_with_threads_of_its_own():
    model, params, batch = problem(n=600)
    expected = model.loss(params, batch, threads=2)
    child = os.fork()
    if child == 0:
        os._exit(0 if model.loss(params, batch, threads=2) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
