"""Figures of a run beside their records: matplotlib draws every one of them again."""

import subprocess
import sys

import popgrad
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.mark.parametrize("words", [["chain", "S=3", "T=6"], ["birth", "T=16", "K=2", "dim=8"]], ids=["chain", "birth"])
def test_matplotlib_draws_the_records_of_a_run(tmp_path, words):
    name, *keys = words
    keys = dict(word.split("=") for word in keys)
    options = {"quick": True, "steps": 20, "test_size": 64, "batch": 8, "progress": False, "figures": True}
    popgrad.preset(name, out=tmp_path / "run", **options, **keys)
    figures = tmp_path / "run" / "figures"
    records = sorted(figures.glob("*.figure.json"))
    assert len(records) >= 3
    for ending in ("svg", "png"):
        assert {p.name.removesuffix(".figure.json") for p in records} == {p.stem for p in figures.glob(f"*.{ending}")}
    done = subprocess.run(
        [sys.executable, figures / "redraw.py", *records, "--width", "3.4", "--format", "png"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for record in records:
        again = record.with_name(record.name.replace(".figure.json", ".redrawn.png"))
        assert again.read_bytes().startswith(b"\x89PNG"), again
