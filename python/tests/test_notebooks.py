"""The notebooks run from top to bottom and say what they said when they were committed."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def needs(*libraries):
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


def said(cell):
    """What a cell printed or returned as text, and the kinds of its other outputs."""
    text, kinds = "", []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream":
            text += "".join(output["text"])
        else:
            kinds.append(sorted(output["data"]))
            text += "".join(output["data"]["text/plain"])
    return text, kinds


def words(text):
    """Text without numbers, whose last digits depend on the processor."""
    return re.sub(r"\s+", " ", re.sub(r"-?\d+(\.\d*)?(e-?\d+)?", "#", text))


@pytest.mark.parametrize("name", ["causal_graph", "induction_head"])
def test_a_notebook_runs_from_top_to_bottom(name):
    needs("nbclient", "nbformat", "ipykernel", "matplotlib")
    import nbformat
    from nbclient import NotebookClient

    path = NOTEBOOKS / f"{name}.ipynb"
    committed = nbformat.read(path, as_version=4)
    nbformat.validate(committed)
    assert path.stat().st_size < 250_000
    fresh = nbformat.read(path, as_version=4)
    for cell in fresh.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell["outputs"], cell["execution_count"] = [], None
    # An exception in a cell surfaces here.
    NotebookClient(fresh, timeout=120, kernel_name="python3").execute()
    code = [[c for c in book.cells if c.cell_type == "code"] for book in (committed, fresh)]
    assert len(code[0]) == len(code[1]) == 10
    for number, (before, now) in enumerate(zip(*code), start=1):
        assert now.execution_count == before.execution_count == number
        (text, kinds), (new_text, new_kinds) = said(before), said(now)
        assert new_text or new_kinds
        assert kinds == new_kinds
        if (name, number) not in SEEN_DIFFERENTLY:
            assert words(text) == words(new_text)
    CHECKS[name]("".join(said(cell)[0] for cell in code[1]))


# Which token a trained head attends to may depend on the last bits; `check_head` reads these lines.
SEEN_DIFFERENTLY = {("induction_head", 8)}


def number(pattern, text):
    return float(re.search(pattern + r"\D*?(-?\d+\.\d+)", text)[1])


def check_graph(text):
    assert "argmax over j < i: [0, 0, 1, 2, 2, 4]  parents: [0, 0, 1, 2, 2, 4]" in text
    assert "found   [-1, 0, 0, 1, 2, 2, 4]\nparents [-1, 0, 0, 1, 2, 2, 4]" in text
    assert number("attention on the parent", text) > 0.6
    assert number("without the head", text) > number("loss", text.split("parent")[-1]) + 0.1


def check_head(text):
    recalled = [float(x) for x in re.search(r"W_K1 (\S+), W_K2 (\S+), W_O2 (\S+)", text).groups()]
    assert recalled[0] > 0.4 and recalled[1] == 1 and recalled[2] > 0.95
    assert number("accuracy", text.split("Bayes")[0].split("says")[-1]) > 0.8
    sequence = ast.literal_eval(re.search(r"(['\"]).*\1(?=\ntriggers)", text)[0])
    line = r"t=(\d+): (\S+) attends to s=(\d+), the end of (\S+), says"
    behind = 0
    for t, symbol, s, pair in re.findall(line, text):
        t, s, symbol, pair = int(t), int(s), ast.literal_eval(symbol), ast.literal_eval(pair)
        assert sequence[t] == symbol and s <= t and pair == sequence[max(s - 1, 0) : s + 1]
        behind += len(pair) == 2 and pair[0] == symbol
    assert behind >= 2
    assert number("layer 1 off", text) < 0.5 and number("by hand", text) > 0.8


CHECKS = {"causal_graph": check_graph, "induction_head": check_head}


def test_the_marimo_notebook_runs():
    needs("marimo", "matplotlib")
    path = NOTEBOOKS / "causal_graph.py"
    spec = importlib.util.spec_from_file_location("causal_graph_marimo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, names = module.app.run()
    assert names["best"] == names["parents"][1:]
    assert [-1 if p is None else p for p in names["found"].parents] == names["parents"]
    assert names["mean"] > 0.6


def test_the_marimo_notebook_has_the_code_of_the_other():
    import json

    book = json.loads((NOTEBOOKS / "causal_graph.ipynb").read_text())
    marimo = (NOTEBOOKS / "causal_graph.py").read_text()
    lines = {line.strip() for line in marimo.splitlines()}
    for cell in book["cells"]:
        for line in "".join(cell["source"]).splitlines():
            assert line.strip() in lines, line
