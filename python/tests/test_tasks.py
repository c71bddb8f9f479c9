"""Tasks and populations against independent counts, enumeration and the command line."""

import itertools
import json
import subprocess
import sys

import numpy as np
import popgrad
import pytest

COMMAND = [sys.executable, "-m", "popgrad.cli"]


def command(*words, **options):
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120, **options)


def sampled(*words):
    done = command("sample", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (popgrad.CausalTree("chain", S=3, T=6), ["causal_tree", "graph=chain", "S=3", "T=6"]),
        (
            popgrad.CausalTree([-1, 0, 0, 2], S=4, alpha=0.5),
            ["causal_tree", "parents=-1,0,0,2", "S=4", "T=5", "alpha=0.5"],
        ),
        (
            popgrad.CausalDag([(), (0,), (0, 1), (1, 2)], S=3),
            ["causal_dag", "parent_sets=-;0;0,1;1,2", "S=3", "T=3"],
        ),
        (popgrad.TriggerBigram(T=24), ["trigger_bigram", "T=24"]),
    ],
)
def test_samples_are_those_of_the_command_line(task, words):
    expected = sampled(words[0], "5", *words[1:], "--seed", "7")
    batch = task.sample(5, seed=7)
    assert (batch.tokens == expected["tokens"]).all()
    if batch.targets is not None:
        assert (batch.targets == expected["targets"]).all()
        assert (batch.weights == 1.0).all()
    else:
        assert (batch.labels == expected["labels"]).all()
        assert (batch.weights == expected["mask"]).all()
        assert (batch.seen == expected["seen"]).all()


def test_sample_i_does_not_depend_on_the_others():
    task = popgrad.CausalTree("chain", S=3, T=6)
    whole, rest = task.sample(20, seed=1), task.sample(8, seed=1, start=12)
    assert (whole.tokens[12:] == rest.tokens).all() and (whole.targets[12:] == rest.targets).all()
    assert not (task.sample(20, seed=2).tokens == whole.tokens).all()
    assert not (task.sample(20, seed=1, test=True).tokens == whole.tokens).all()


def test_graphs():
    assert popgrad.CausalTree("chain", S=3, T=5).graph == [[], [0], [1], [2]]
    sets = [[], [0], [0, 1], [1, 2]]
    assert popgrad.CausalDag(sets, S=3).graph == sets
    assert popgrad.TriggerBigram().graph is None
    drawn = [popgrad.CausalTree("random", S=3, T=12, graph_seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].graph == drawn[1].graph != drawn[2].graph
    # The graph belongs to the task, whatever the seed of its samples.
    assert len(drawn[0].graph) == 11 and all(p == [] or p[0] < i for i, p in enumerate(drawn[0].graph))


def counts(tokens, parents, s, alpha):
    """Posterior mean of the row of the last token, from the edges."""
    out = np.full(s, alpha)
    for i, p in enumerate(parents):
        if p >= 0 and tokens[p] == tokens[-1]:
            out[tokens[i]] += 1
    return out / out.sum()


def test_the_bayes_answer_over_a_tree_is_the_count_of_edges():
    parents = [-1, 0, 0, 2, -1, 3]
    task = popgrad.CausalTree(parents, S=3, alpha=0.3, roots="uniform")
    batch = task.sample(50, seed=3)
    expected = [counts(row, parents, 3, 0.3) for row in batch.tokens]
    assert np.allclose(task.bayes(batch), expected, rtol=1e-14, atol=0)
    assert (task.bayes(batch, "exact") == task.bayes(batch)).all()


def test_the_bayes_answer_of_trigger_bigrams_copies_what_followed():
    task = popgrad.TriggerBigram(T=64, K=3, loss="all")
    batch = task.sample(6, seed=0)
    laws = task.bayes(batch)
    assert laws.shape == (6, 64, task.S)
    assert np.allclose(laws.sum(axis=2), 1, atol=1e-12)
    again = batch.seen >= 2
    assert again.any()
    right = np.take_along_axis(laws, batch.labels[..., None].astype(int), axis=2)[..., 0]
    assert (right[again] == 1.0).all() and (right > 0).all()


SMALL = [
    popgrad.CausalTree("chain", S=2, T=6, alpha=0.5, roots="uniform"),
    popgrad.CausalTree([-1, 0, 0, -1], S=3, alpha=0.7, roots="uniform"),
    popgrad.CausalDag([(), (0,), (0, 1), (1, 2)], S=2, roots="uniform"),
]


@pytest.mark.parametrize("task", SMALL)
def test_the_population_is_every_word_once(task):
    population = popgrad.Population(task)
    words, weights = population.words(), population.weights()
    every = np.array(list(itertools.product(range(task.S), repeat=task.T)))
    assert (words == every).all()
    assert abs(weights.sum() - 1) < 1e-13 and (weights > 0).all()


def test_probabilities_of_words_are_those_of_the_task():
    """P of a chain with uniform root and query, rows Dirichlet: one factor for each step."""
    alpha, s, t = 0.5, 2, 6
    population = popgrad.Population(SMALL[0])
    for word, weight in zip(population.words(), population.weights()):
        n, p = np.zeros((s, s)), 1 / s
        for a, b in zip(word[: t - 2], word[1 : t - 1]):
            p *= (alpha + n[a, b]) / (s * alpha + n[a].sum())
            n[a, b] += 1
        assert abs(weight - p / s) < 1e-15


@pytest.mark.parametrize("task", SMALL)
def test_the_bayes_loss_is_the_least(task):
    population = popgrad.Population(task)
    batch = population.batch()
    laws = task.bayes(batch)
    loss = -(batch.weights[:, None] * batch.targets * np.log(laws)).sum()
    assert abs(population.bayes() - loss) < 1e-13
    model = popgrad.Disentangled(task=task)
    assert population.loss(model, model.init(seed=0, std=0.3)) > population.bayes()


@pytest.mark.parametrize("task", SMALL[:2])
def test_the_tree_and_the_words_are_one_sum(task):
    model = popgrad.Simplified(task=task, eps=0.02)
    params = model.init(seed=1, std=0.5)
    tree, words = (popgrad.Population(task, eps=0.02, method=m) for m in ("tree", "words"))
    (loss, grad), (other, sums) = tree.value_and_grad(model, params), words.value_and_grad(model, params)
    assert abs(loss - other) < 1e-13
    assert all(np.abs(grad[name] - sums[name]).max() < 1e-14 for name in grad)
    batch = words.batch()
    assert abs(model.loss(params, batch) - loss) < 1e-13
    assert tree.loss(model, params) == loss
    auto = popgrad.Population(task).value_and_grad(model, params)
    assert auto[0] == loss and all((auto[1][name] == grad[name]).all() for name in grad)
    single = {name: x.astype(np.float32) for name, x in params.items()}
    assert tree.value_and_grad(model, single)[1]["A1"].dtype == np.float32


def test_samples_approach_the_population():
    task = SMALL[0]
    model = popgrad.Disentangled(task=task)
    params = model.init(seed=0, std=0.5)
    exact, grad = popgrad.Population(task).value_and_grad(model, params)
    loss, sample = model.value_and_grad(params, task.sample(40000, seed=0))
    assert abs(loss - exact) < 0.01
    assert np.abs(sample["W"] - grad["W"]).max() < 0.02 * np.abs(grad["W"]).max() + 0.002


def test_a_population_that_takes_too_long_is_refused():
    task = popgrad.CausalTree("chain", S=2, T=24, roots="uniform")
    population = popgrad.Population(task, max_seconds=1e-6)
    model = popgrad.Simplified(task=task)
    with pytest.raises(popgrad.InvalidError) as refused:
        population.loss(model, model.init())
    assert refused.value.field == "max_seconds"
    with pytest.raises(popgrad.InvalidError, match="eps"):
        popgrad.Population(SMALL[0], eps=0.5).loss(
            *(lambda m: (m, m.init()))(popgrad.Simplified(task=SMALL[0]))
        )


def test_discover_finds_the_graph():
    parents = [-1, 0, 0, 2, 3, 1, 5, 4]
    task = popgrad.CausalTree(parents, S=3, alpha=0.5, roots="uniform")
    batch = task.sample(20000, seed=0)
    found = popgrad.discover(batch.tokens, batch.targets)
    assert found.tested and found.parents == [None if p < 0 else p for p in parents]
    assert found.scores.shape == (8, 8)
    assert (np.isnan(found.scores) == np.triu(np.ones((8, 8), bool), 1)).all()


def test_verify():
    claim = popgrad.verify("leading")[0]
    assert (claim.name, claim.verdict) == ("leading", "pass") and claim.checks


def test_the_command_keeps_its_exit_codes():
    assert command("info").returncode == 0
    refused = command("run", "chian")
    assert refused.returncode == 2 and "chain" in refused.stderr
    assert command("--version").stdout.startswith("popgrad ")


def test_info_names_the_instruction_set():
    found = popgrad.info()
    assert found["isa"] in found["isas"] and found["popgrad"] == popgrad.__version__


def test_shapes_of_what_discover_finds():
    tokens, targets = (batch := popgrad.CausalTree("chain", S=3, T=5).sample(500)).tokens, batch.targets
    by_gradient = popgrad.discover(tokens, targets)
    assert by_gradient.scores.shape == (4, 4)
    assert len(by_gradient.parents) == len(by_gradient.positions) == 4
    assert (np.isnan(by_gradient.scores) == ~np.tri(4, dtype=bool)).all()
    for labels in (None, targets):
        by_counts = popgrad.discover(tokens, labels, "chi2")
        assert by_counts.scores.shape == (5, 5)
        assert len(by_counts.parents) == len(by_counts.positions) == 5
        assert (np.isnan(by_counts.scores) == ~np.tri(5, k=-1, dtype=bool)).all()
