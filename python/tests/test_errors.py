"""Bad input: one exception that names the field and what is allowed, never a panic."""

import numpy as np
import popgrad
import pytest
from hypothesis import given
from hypothesis import strategies as st

TOKENS = np.zeros((2, 4), np.uint32)
LAWS = np.full((2, 3), 1 / 3)
MODEL = popgrad.Disentangled(3, 4)
PARAMS = MODEL.init(seed=0, std=0.1)
BATCH = popgrad.Batch(TOKENS, LAWS)

REFUSED = [
    (lambda: popgrad.CausalTree("chian", S=3, T=4), "graph"),
    (lambda: popgrad.CausalTree("chain", S=1, T=4), "S"),
    (lambda: popgrad.CausalTree("chain", S=3, T=4, alpha=-1.0), "alpha"),
    (lambda: popgrad.CausalTree([0, 5, 1], S=3), "parents"),
    (lambda: popgrad.CausalTree("chain", S=3, T=4, roots="shared"), "roots"),
    (lambda: popgrad.TriggerBigram(K=0), "K"),
    (lambda: popgrad.Disentangled(3), "T"),
    (lambda: popgrad.Disentangled(3, 0), "T"),
    (lambda: popgrad.Disentangled(3, 4, heads=[0]), "heads"),
    (lambda: popgrad.Transformer(3, 4, block="pre"), "block"),
    (lambda: popgrad.Memory(3, 4, dim=0), "dim"),
    (lambda: popgrad.Simplified(3, 4, eps=-1.0), "eps"),
    (lambda: MODEL.init(std=float("nan")), "std"),
    (lambda: MODEL.init(dtype="float16"), "dtype"),
    (lambda: MODEL.loss(PARAMS, BATCH, threads=0), "threads"),
    (lambda: MODEL.loss({**PARAMS, "B": PARAMS["W"]}, BATCH), "params"),
    (lambda: MODEL.loss({**PARAMS, "W": PARAMS["W"].T}, BATCH), "params[W]"),
    (lambda: MODEL.loss(PARAMS, popgrad.Batch(np.zeros((2, 5), np.uint32), LAWS)), "T"),
    (lambda: MODEL.loss(PARAMS, popgrad.Batch(TOKENS, np.full((2, 4), 0.25))), "S"),
    (lambda: MODEL.loss(PARAMS, popgrad.Batch(TOKENS + 3, LAWS)), "tokens"),
    (lambda: MODEL.loss(PARAMS, popgrad.Batch(TOKENS, LAWS, weights=np.array([1.0, -1.0]))), "weights"),
    (lambda: MODEL.loss(PARAMS, popgrad.Batch(TOKENS, labels=TOKENS + 9)), "labels"),
    (
        lambda: popgrad.Simplified(3, 4).loss(
            popgrad.Simplified(3, 4).init(), popgrad.Batch(TOKENS, labels=TOKENS)
        ),
        "model",
    ),
    (lambda: popgrad.Batch(TOKENS), "targets"),
    (lambda: popgrad.Batch(TOKENS, LAWS, TOKENS), "labels"),
    (lambda: popgrad.Batch(TOKENS, LAWS[:1]), "targets"),
    (lambda: popgrad.Batch(TOKENS, LAWS * 2), "targets[0]"),
    (lambda: popgrad.Batch(TOKENS.astype(int) - 1, LAWS), "tokens"),
    (lambda: MODEL.run_with_cache(PARAMS, TOKENS, ["layer9.pattern"]), "activation"),
    (lambda: MODEL.run_with_cache(PARAMS, TOKENS[:, :3]), "T"),
    (lambda: MODEL.patch(PARAMS, TOKENS, {"logits": np.zeros(3)}), "patches[logits]"),
    (lambda: popgrad.Population(popgrad.CausalTree("chain", S=3, T=4)), "roots"),
    (lambda: popgrad.preset("chian"), "preset"),
    (lambda: popgrad.preset("chain", stpes=3), "key"),
    (lambda: popgrad.preset("chain", steps=0), "steps"),
    (lambda: popgrad.Run.open("nowhere"), "run"),
    (lambda: popgrad.verify("gradient"), "claim"),
    (lambda: popgrad.CausalTree("chain", S=3, T=4).sample(2, start=2**63), "start"),
    (lambda: popgrad.CausalTree("chain", S=3, T=4).sample(0), "n"),
    (lambda: popgrad.discover(TOKENS), "S"),
    (lambda: popgrad.discover(TOKENS, np.full(2, 0.5), S=3), "labels"),
    (lambda: popgrad.discover(TOKENS, np.array([0, -1]), S=3), "labels"),
    (lambda: popgrad.discover(TOKENS, np.array([0, 2**40]), S=3), "labels"),
    (lambda: popgrad.discover(TOKENS, np.zeros(2, int), S=-3), "S"),
    (lambda: popgrad.Simplified(S=3.7, T=4), "S"),
    (lambda: popgrad.Simplified(S="5", T=4), "S"),
    (lambda: popgrad.Memory(S=3, T=4.5), "T"),
    (lambda: popgrad.Disentangled(3, -4), "T"),
    (lambda: popgrad.CausalTree([-1, 0.9, 1.9], S=3), "parents"),
    (lambda: popgrad.CausalTree("chain", S=3, parents=[-1, 0]), "parents"),
    (lambda: popgrad.CausalTree("random", S=3, parents=[-1, 0]), "parents"),
    (lambda: popgrad.CausalTree([-1, 1], S=3, parents=[-1, 0]), "parents"),
    (lambda: popgrad.CausalTree(3), "graph"),
    (lambda: popgrad.CausalDag([1, 2], S=3), "graph"),
    (lambda: popgrad.CausalTree("random", S=3, graph_seed=-1), "graph_seed"),
    (lambda: popgrad.Simplified(task=3), "task"),
    (lambda: popgrad.Disentangled(3, 4, heads=3), "heads"),
    (lambda: popgrad.discover("abc"), "tokens"),
    (lambda: popgrad.verify(3), "names"),
    (lambda: popgrad.CausalDag([(), (0.5,), (0, 1)], S=3), "parents"),
    (lambda: popgrad.CausalDag("two_parents", S=3, parents=[(), (0,)]), "parents"),
    (lambda: popgrad.sweep("chain", {"lr": []}), "lr"),
    (lambda: popgrad.kernels.gemm(np.zeros((2, 3)), np.zeros((2, 3))), "operands"),
    (lambda: popgrad.kernels.softmax(np.zeros((2, 3, 1))), "x"),
    (lambda: popgrad.kernels.attention(np.zeros((2, 3, 1)), np.zeros((2, 3, 1)), np.zeros((2, 4, 1))), "v"),
]


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_the_error_names_the_field_and_what_is_allowed(i):
    call, field = REFUSED[i]
    with pytest.raises(popgrad.InvalidError) as refused:
        call()
    assert refused.value.field == field
    assert refused.value.allowed
    assert isinstance(refused.value, ValueError)
    assert "\n" not in str(refused.value)


WRONG_TYPES = [
    lambda: MODEL.loss({**PARAMS, "W": PARAMS["W"].astype(np.float32)}, BATCH),
    lambda: MODEL.loss({name: x.astype(np.float16) for name, x in PARAMS.items()}, BATCH),
    lambda: MODEL.loss({name: x.tolist() for name, x in PARAMS.items()}, BATCH),
    lambda: popgrad.Batch(TOKENS.astype(float), LAWS),
    lambda: popgrad.Batch("abc", LAWS),
    lambda: MODEL.run_with_cache(PARAMS, TOKENS.astype(float)),
    lambda: popgrad.kernels.gemm(np.zeros((2, 2)), np.zeros((2, 2), np.float32)),
    lambda: popgrad.kernels.softmax(np.zeros((2, 2), np.int64)),
    lambda: popgrad.preset("chain", lr=object()),
]


@pytest.mark.parametrize("i", range(len(WRONG_TYPES)))
def test_other_types_are_a_type_error(i):
    with pytest.raises(TypeError):
        WRONG_TYPES[i]()


def test_a_missing_block_is_named():
    with pytest.raises(KeyError, match="A.1"):
        MODEL.loss({name: x for name, x in PARAMS.items() if name != "A.1"}, BATCH)


def test_exceptions_pickle():
    import pickle

    with pytest.raises(popgrad.InvalidError) as refused:
        popgrad.Simplified(3, 4, eps=-1.0)
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (str(copy), copy.field, copy.allowed) == (
        str(refused.value),
        refused.value.field,
        refused.value.allowed,
    )


ANY = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=4),
)


@given(
    S=ANY, T=ANY, alpha=ANY, graph=st.one_of(st.text(max_size=5), st.lists(st.integers(-2, 5), max_size=5))
)
def test_tasks_of_anything_never_panic(S, T, alpha, graph):
    try:
        task = popgrad.CausalTree(graph, S=S, T=T, alpha=alpha)
    except (popgrad.InvalidError, TypeError, OverflowError):
        return
    assert task.sample(1).tokens.shape == (1, task.T)


@given(heads=ANY, start=ANY)
def test_models_of_anything_never_panic(heads, start):
    try:
        model = popgrad.Disentangled(3, 4, heads=heads, start=start)
    except (popgrad.InvalidError, TypeError, OverflowError, MemoryError):
        return
    assert model.shapes


def test_parents_alone_are_a_graph():
    for name in (None, "custom"):
        task = popgrad.CausalTree(name, parents=[-1, 0, 0], S=3)
        assert task.keys == popgrad.CausalTree(np.array([-1, 0, 0]), S=3).keys
    assert popgrad.CausalTree(**{k: v for k, v in task.keys.items() if k != "task"}).keys == task.keys
    sets = [(), (0,), (0, 1), (1, 2)]
    assert popgrad.CausalDag(parents=sets, S=3).keys == popgrad.CausalDag(sets, S=3).keys
    assert popgrad.Simplified(S=np.int64(3), T=4).S == 3
