"""The package as such: types, documentation, examples, what an import costs."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import popgrad
import pytest

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
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_some_examples_are_run():
    finder = doctest.DocTestFinder()
    all_of_them = [t for m in MODULES for t in finder.find(importlib.import_module(m)) if t.examples]
    assert len(all_of_them) >= 8


def test_the_stubs_are_those_of_the_module():
    pytest.importorskip("mypy")
    for words in (["mypy.stubtest", "popgrad._native"], ["mypy", "--strict", "-p", "popgrad"]):
        root = Path(popgrad.__file__).parent.parent
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=root)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(popgrad.__file__).parent / "py.typed").is_file()


def test_an_import_brings_in_no_other_package():
    """NumPy and the rest come where they are needed: the command starts at once."""
    code = "import sys, popgrad; print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'jax', 'matplotlib', 'pandas', 'torch'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
