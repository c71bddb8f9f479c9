"""The package as such: types, documentation, examples, what an import costs."""

import doctest
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import popgrad
import pytest
from popgrad import _native

MODULES = [f"popgrad.{m.name}" for m in pkgutil.iter_modules(popgrad.__path__)]


def test_every_public_name_is_documented():
    for name in popgrad.__all__:
        thing = getattr(popgrad, name)
        assert name == "__version__" or inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for method, value in inspect.getmembers(thing):
                if not method.startswith("_") and method not in dir(dict) and callable(value):
                    assert inspect.getdoc(value), f"{name}.{method}"


@pytest.mark.parametrize("name", [m for m in MODULES if not m.endswith("_native")] + ["popgrad"])
def test_examples_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name in ("popgrad.jax", "popgrad.torch"):
        pytest.importorskip(name.removeprefix("popgrad."))
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for example in finder.find(importlib.import_module(name), name, extraglobs={"popgrad": popgrad}):
        if not example.name.startswith(NATIVE_NAMES):
            runner.run(example)
    assert runner.failures == 0


NATIVE = [popgrad.Batch, popgrad.Population, _native.Model, _native.Task]
NATIVE_NAMES = ("popgrad.Batch", "popgrad.Population")


@pytest.mark.parametrize("kind", NATIVE, ids=lambda k: k.__name__)
def test_examples_of_native_classes_are_true(kind):
    task = popgrad.CausalTree("chain", S=3, T=6)
    model = popgrad.Disentangled(task=task)
    if kind is popgrad.Population:
        model = popgrad.Simplified(S=2, T=6)
    names = {"popgrad": popgrad, "np": np, "task": task, "model": model, "params": model.init(seed=0)}
    names["batch"] = task.sample(4)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for example in finder.find(kind, module=False, globs=names):
        runner.run(example)
    assert runner.failures == 0 and (kind is popgrad.Batch or runner.tries > 0)


def test_the_stubs_are_those_of_the_module(tmp_path):
    pytest.importorskip("mypy")
    root, config = Path(popgrad.__file__).parent.parent, Path(__file__).parents[1] / "pyproject.toml"
    # What is installed is found; what is not stands in a folder of its own.
    env = dict(os.environ) if root.name == "site-packages" else {**os.environ, "MYPYPATH": str(root)}
    typed = ["mypy", "--strict", "--config-file", str(config), "-p", "popgrad"]
    for words in (["mypy.stubtest", "popgrad._native"], typed):
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, cwd=tmp_path, env=env
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(popgrad.__file__).parent / "py.typed").is_file()


def test_an_import_brings_in_no_other_package():
    """NumPy and the rest come where they are needed: the command starts at once."""
    others = "{'numpy', 'jax', 'matplotlib', 'pandas', 'torch'}"
    code = f"import sys, popgrad; print(sorted({{m.split('.')[0] for m in sys.modules}} & {others}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_what_the_guide_says_of_pickle_and_spawned_workers(tmp_path):
    import pickle

    task = popgrad.CausalTree("chain", S=2, T=4, roots="uniform")
    batch = task.sample(2)
    assert (pickle.loads(pickle.dumps(batch)).tokens == batch.tokens).all()
    params = popgrad.Simplified(task=task).init()
    assert (pickle.loads(pickle.dumps(params))["A1"] == params["A1"]).all()
    population = popgrad.Population(task)
    again = pickle.loads(pickle.dumps(population))
    assert again.bayes() == population.bayes()
    script = tmp_path / "spawned.py"
    script.write_text(
        "import multiprocessing, popgrad\n"
        "task = popgrad.CausalTree('chain', S=3, T=6)\n"
        "def work(args):\n"
        "    model, seed = args\n"
        "    return model.loss(model.init(seed=seed, std=0.1), task.sample(8), threads=1)\n"
        "if __name__ == '__main__':\n"
        "    model = popgrad.Disentangled(task=task)\n"
        "    jobs = [(model, 0), (model, 1)]\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        assert pool.map(work, jobs) == [work(job) for job in jobs]\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_workflow_installs_what_the_tests_need():
    """A test that lacks its library is skipped, so nobody would see it fail."""
    workflow = Path(__file__).parents[2] / ".github/workflows/ci.yml"
    text = workflow.read_text(encoding="utf-8")
    assert "./python[test,notebooks,tensorboard,wandb]" in text
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in text
    assert text.index("whl/cpu") < text.index("pytest python/tests")
