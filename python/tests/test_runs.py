"""Runs: the command line's bytes; callbacks, interruptions, resuming; two runs at once."""

import copy
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import popgrad
import pytest

COMMAND = [sys.executable, "-m", "popgrad.cli"]
QUIET = {"progress": False}


def lines(folder):
    return (folder / "metrics.jsonl").read_bytes()


def small(out=None, steps=60, **more):
    task = popgrad.CausalTree("chain", S=3, T=6)
    model = popgrad.Disentangled(task=task)
    options = {"eval_every": 10, "batch": 64, "test_size": 128, **QUIET, **more}
    return popgrad.train(task, model, optimizer=popgrad.SGD(lr=0.5), steps=steps, out=out, **options)


KEYS = [
    "graph=chain", "S=3", "T=6", "model=disentangled", "heads=1,1", "optimizer=sgd", "momentum=0.0", "lr=0.5",
    "weight_decay=0.0", "schedule=constant", "batch=64", "seed=0", "dtype=f32", "eval_every=10",
    "checkpoint_every=6", "test_size=128", "steps=60",
]  # fmt: skip


def test_a_run_with_a_callback_every_step_is_that_of_the_command_line(tmp_path):
    seen = []
    ours = small(tmp_path / "ours", callbacks=[lambda state: seen.append(state.step)])
    words = ["run", "chain", *KEYS, "--out", str(tmp_path / "theirs"), "--quiet"]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert seen == list(range(61))
    assert lines(ours.folder) == lines(tmp_path / "theirs") and lines(ours.folder).count(b"\n") == 7
    theirs = popgrad.Run.open(tmp_path / "theirs")
    assert all((ours.params()[name] == x).all() for name, x in theirs.params().items())


def test_a_preset_is_that_of_the_command_line(tmp_path):
    ours = popgrad.preset("chain", quick=True, steps=20, eval_every=5, out=tmp_path / "ours", **QUIET)
    words = [
        "run",
        "chain",
        "--quick",
        "steps=20",
        "eval_every=5",
        "--out",
        str(tmp_path / "theirs"),
        "--quiet",
    ]
    assert subprocess.run([*COMMAND, *words], capture_output=True, timeout=120).returncode == 0
    assert lines(ours.folder) == lines(tmp_path / "theirs")


def test_what_a_run_holds(tmp_path):
    run = small(tmp_path / "run", snapshots=[0, 10])
    assert not run.stopped and run.config["steps"] == 60 and run.step == 60
    records = [json.loads(line) for line in lines(run.folder).splitlines()]
    assert (run.metrics["step"] == [r["step"] for r in records]).all()
    assert (run.metrics["test_loss"] == [r["test_loss"] for r in records]).all()
    assert list(run.metrics.to_pandas()["step"]) == list(range(0, 61, 10))
    assert run.snapshots == [0, 10, 60]
    assert not run.params(0)["W"].any() and run.params(10)["W"].any()
    assert run.params()["W"].dtype == np.float32
    patterns = run.attention()
    assert [p.shape for p in patterns] == [(1, 6, 6), (1, 6, 6)]
    rows = np.nansum(patterns[0][0], axis=1)
    assert np.allclose(rows, 1, atol=1e-6) and np.isnan(patterns[0][0][0, 1])
    with pytest.raises(popgrad.InvalidError) as refused:
        run.params(11)
    assert refused.value.field == "step"
    page = run._repr_html_()
    assert "<svg" in page and "layer 1, head 0" in page
    assert repr(popgrad.Run.open(run.folder)) == repr(run)


def test_a_plot(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    run = small(tmp_path / "run")
    ax = run.plot()
    losses = [line.get_ydata() for line in ax.get_lines() if line.get_label() == "test loss"]
    assert (losses[0] == run.metrics["test_loss"]).all()


def test_training_starts_from_given_parameters():
    task = popgrad.CausalTree("chain", S=3, T=6)
    model = popgrad.Disentangled(task=task)
    params = model.init(seed=5, std=0.2)
    kept = []
    with pytest.warns(popgrad.RunWarning, match="uniform guess"):
        run = small(steps=1, params=params, callbacks=[kept.append])
    assert run.config["dtype"] == "f64"
    assert all((kept[0].params[name] == x).all() for name, x in params.items())
    # One step of gradient descent on the first batch, by our own hand.
    loss, grad = model.value_and_grad(params, task.sample(64, seed=0))
    assert abs(loss - kept[1].loss) < 1e-14
    for name, x in kept[1].params.items():
        assert np.abs(x - (params[name] - 0.5 * grad[name])).max() < 1e-14


def test_an_exception_in_a_callback_surfaces_as_itself_and_the_run_goes_on_to_the_same_bits(tmp_path):
    whole = small(tmp_path / "whole")

    def fail(state):
        if state.step == 23:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        small(tmp_path / "cut", callbacks=[fail])
    cut = popgrad.Run.open(tmp_path / "cut")
    assert cut.stopped and cut.step == 23
    done = cut.resume(**QUIET)
    assert not done.stopped
    assert lines(done.folder) == lines(whole.folder)
    assert all((done.params()[name] == x).all() for name, x in whole.params().items())


def test_a_run_goes_on_to_more_steps(tmp_path):
    run = small(tmp_path / "run", steps=40).resume(steps=60, **QUIET)
    assert run.step == 60 and lines(run.folder) == lines(small(tmp_path / "whole", checkpoint_every=4).folder)


LONG = {"steps": 10**6, "eval_every": 10**6, "checkpoint_every": 10**6}


@pytest.mark.parametrize("callbacks", [[], [lambda state: None]])
def test_an_interrupt_stops_soon_and_leaves_a_run(tmp_path, callbacks):
    def interrupt():
        # A folder without this file is of a run that has not begun.
        while not (tmp_path / "run" / "provenance.jsonl").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.warns(popgrad.RunWarning, match="stopped after update"):
        run = small(tmp_path / "run", callbacks=callbacks, **LONG)
    thread.join()
    assert run.stopped and 0 < run.step < 10**6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = run.step + 5
        assert run.resume(steps=steps, **QUIET).step == steps


def test_a_run_that_diverges_says_so(tmp_path):
    with pytest.raises(popgrad.DivergedError) as diverged:
        popgrad.preset("birth", quick=True, lr=1e30, steps=20, out=tmp_path / "run", **QUIET)
    assert diverged.value.step > 0 and not np.isfinite(diverged.value.value)
    assert isinstance(diverged.value, ArithmeticError)


def test_two_threads_train_two_runs_at_once(tmp_path):
    expected, found = lines(small(tmp_path / "alone").folder), {}

    def work(name):
        found[name] = lines(small(tmp_path / name, threads=2, callbacks=[lambda state: None]).folder)

    threads = [threading.Thread(target=work, args=(f"run{i}",)) for i in range(3)]
    [t.start() for t in threads]
    [t.join(timeout=60) for t in threads]
    assert not any(t.is_alive() for t in threads)
    assert list(found.values()) == [expected] * 3


def test_a_sweep_is_its_runs(tmp_path):
    keys = {"steps": 10, "eval_every": 5, "test_size": 64, "batch": 32, "S": 3, "T": 5}
    cells = popgrad.sweep("chain", {"lr": [0.1, 0.5]}, seeds=2, workers=2, out=tmp_path, **keys)
    assert [(c.keys["lr"], c.seed) for c in cells] == [(0.1, 0), (0.1, 1), (0.5, 0), (0.5, 1)]
    alone = popgrad.preset("chain", lr=0.5, seed=1, out=tmp_path / "alone", **keys, **QUIET)
    assert lines(cells[3].result.folder) == lines(alone.folder)
    assert lines(cells[2].result.folder) != lines(alone.folder)
    with pytest.raises(ZeroDivisionError):
        popgrad.sweep(lambda a, seed: 1 / a, {"a": [0]})


def test_a_temporary_run_is_removed_with_its_last_name():
    run = small(steps=2)
    folder = run.folder
    assert folder.is_dir()
    del run
    assert not folder.exists()


def test_an_exception_ends_the_other_runs_of_a_sweep(tmp_path):
    keys = {"S": 3, "T": 5, "test_size": 64, "batch": 32, **LONG}
    with pytest.raises(popgrad.InvalidError):
        popgrad.sweep("chain", {"alpha": [0.1, -1.0]}, workers=2, out=tmp_path, **keys)
    assert not list(tmp_path.rglob("summary.json"))


def test_a_temporary_run_goes_silently_and_its_copies_keep_it():
    run = small(steps=2)
    folder = run.folder
    others = [copy.copy(run), copy.deepcopy(run), run.resume(steps=3, **QUIET)]
    with pytest.raises(popgrad.InvalidError, match="allowed: a run with out=FOLDER") as refused:
        pickle.dumps(run)
    assert refused.value.field == "out"
    del run, refused
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while others:
            gc.collect()
            assert others.pop().metrics["step"].size > 0
        gc.collect()
    assert not folder.exists() and not folder.parent.exists()


def test_a_temporary_run_is_removed_at_the_end_of_the_process_without_a_word():
    code = (
        "import popgrad\n"
        "run = popgrad.preset('chain', quick=True, steps=2, progress=False)\n"
        "print(run.folder)\n"
    )
    words = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "ResourceWarning" not in done.stderr
    assert not os.path.exists(done.stdout.strip())


def test_a_run_with_a_folder_can_be_pickled(tmp_path):
    run = small(tmp_path / "run", steps=2)
    other = pickle.loads(pickle.dumps(run))
    assert repr(other) == repr(run) and (other.metrics["step"] == run.metrics["step"]).all()


@pytest.mark.parametrize("text", [None, "no record"])
def test_metrics_that_cannot_be_read_are_a_file_error(tmp_path, text):
    run = small(tmp_path / "run", steps=2)
    (run.folder / "metrics.jsonl").unlink()
    if text is not None:
        (run.folder / "metrics.jsonl").write_text(text)
    with pytest.raises(popgrad.FileError, match="metrics.jsonl"):
        run.metrics
    with pytest.raises(popgrad.FileError, match="metrics.jsonl"):
        run.to_tensorboard(tmp_path / "events")


def test_warnings_point_at_the_line_of_the_user(tmp_path):
    params = KINDS[1].init(seed=5, std=0.2)
    np.savez(tmp_path / "start.npz", **params)
    keys = {"S": 3, "T": 6, "heads": "1,1", "batch": 64, "test_size": 128, "steps": 1, "lr": 0.5}
    keys.update(params=str(tmp_path / "start.npz"), dtype="f64")
    calls = [
        lambda: small(steps=1, params=params),
        lambda: popgrad.preset("chain", **keys, **QUIET),
        lambda: popgrad.sweep("chain", {"alpha": [0.1]}, **keys),
    ]
    for call in calls:
        with pytest.warns(popgrad.RunWarning) as seen:
            call()
        assert {w.filename for w in seen} == {__file__}


KINDS = popgrad.CausalTree("chain", S=3, T=6), popgrad.Disentangled(3, 6)


def train(task=KINDS[0], model=KINDS[1], **more):
    options = {"optimizer": popgrad.SGD(lr=0.5), "steps": 2, "batch": 8, "test_size": 32, **QUIET, **more}
    return popgrad.train(task, model, **options)


def sweep(grid=None, what="chain", **more):
    return popgrad.sweep(what, {"lr": [0.1]} if grid is None else grid, **{"steps": 2, "quick": True, **more})


REFUSED = [
    (lambda: train(optimizer=None), "optimizer"),
    (lambda: train(optimizer="sgd"), "optimizer"),
    (lambda: train(optimizer={"lr": 1.0}), "optimizer"),
    (lambda: train(optimizer=popgrad.SGD(lr=None)), "lr"),
    (lambda: train(batch=None), "batch"),
    (lambda: train(steps=2**70), "steps"),
    (lambda: train(task=None), "task"),
    (lambda: train(task="chain"), "task"),
    (lambda: train(model=None), "model"),
    (lambda: train(params=3), "params"),
    (lambda: train(steps=-1), "steps"),
    (lambda: train(steps=2.5), "steps"),
    (lambda: train(steps="many"), "steps"),
    (lambda: train(steps=None), "steps"),
    (lambda: train(dtype=["float32"]), "dtype"),
    (lambda: train(eval_every=-1), "eval_every"),
    (lambda: train(batch=-1), "batch"),
    (lambda: train(seed=-1), "seed"),
    (lambda: train(threads=-1), "threads"),
    (lambda: train(threads=0), "threads"),
    (lambda: train(threads=1.5), "threads"),
    (lambda: train(callbacks=print), "callbacks"),
    (lambda: train(callbacks=None), "callbacks"),
    (lambda: train(callbacks=[3]), "callbacks"),
    (lambda: train(snapshots=[1.7, 3]), "snapshots"),
    (lambda: train(snapshots=[-1]), "snapshots"),
    (lambda: train(snapshots=3), "snapshots"),
    (lambda: popgrad.preset(None), "preset"),
    (lambda: popgrad.preset("chain", quick=True, threads=-1), "threads"),
    (lambda: popgrad.preset("chain", quick=True, steps=-1), "steps"),
    (lambda: popgrad.preset("chain", quick=True, snapshots=[0.5]), "snapshots"),
    (lambda: sweep(what=None), "what"),
    (lambda: sweep(3), "grid"),
    (lambda: sweep({"seed": [1]}), "seed"),
    (lambda: sweep(seed=1), "seed"),
    (lambda: sweep({"seed": [1]}, what=lambda seed: seed), "seed"),
    (lambda: sweep({"threads": [1]}), "threads"),
    (lambda: sweep(progress=True), "progress"),
    (lambda: sweep({"lr": [0.1]}, lr=0.2), "lr"),
    (lambda: sweep({"schedule": "constant"}), "schedule"),
    (lambda: sweep({"lr": 0.1}), "lr"),
    (lambda: sweep(workers=0), "workers"),
    (lambda: sweep(workers=-2), "workers"),
    (lambda: sweep(workers=1.5), "workers"),
    (lambda: sweep(seeds=-1), "seeds"),
    (lambda: sweep(seeds=[-1]), "seeds"),
    (lambda: sweep(seeds=[0.5]), "seeds"),
    (lambda: sweep(seeds="12"), "seeds"),
]


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_arguments_are_refused_before_anything_starts(i, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    call, field = REFUSED[i]
    with pytest.raises(popgrad.InvalidError) as refused:
        call()
    assert refused.value.field == field and refused.value.allowed
    assert str(refused.value).startswith(field) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_numbers_of_updates_out_of_their_domain(tmp_path):
    run = train(out=tmp_path / "run")
    calls = {
        "step": [lambda: run.params(-1), lambda: run.params(0.5), lambda: run.attention(-1)],
        "steps": [lambda: run.resume(steps=-1), lambda: run.resume(steps=2.5)],
        "threads": [lambda: run.resume(threads=-1)],
        "callbacks": [lambda: run.resume(callbacks=[None])],
    }
    for field, some in calls.items():
        for call in some:
            with pytest.raises(popgrad.InvalidError) as refused:
                call()
            assert refused.value.field == field
    assert run.step == 2


def test_numbers_in_other_guises(tmp_path):
    assert train(steps="2^2", snapshots=np.array([0, 2]), threads=np.int64(1)).snapshots == [0, 2, 4]
    assert len(popgrad.sweep(lambda a, seed: a, {"a": np.arange(2)}, seeds=np.int64(2), workers=1)) == 4
    assert [c.seed for c in popgrad.sweep(lambda seed: seed, {}, seeds=np.array([3, 5]))] == [3, 5]


def test_a_run_that_is_stopped_before_its_first_update_is_a_run(tmp_path):
    def stop(state):
        raise KeyboardInterrupt

    with pytest.warns(popgrad.RunWarning, match="stopped after update 0 of 60"):
        run = small(tmp_path / "run", callbacks=[stop])
    assert run.stopped and run.step == 0
    assert "stopped after update" in run._repr_html_()
    with pytest.raises(popgrad.InvalidError, match="has made no update"):
        run.params()
    whole = small(tmp_path / "whole")
    assert lines(run.resume(progress=False).folder) == lines(whole.folder)


def test_a_refused_run_leaves_the_start_of_another_as_it_is(tmp_path):
    task = popgrad.CausalTree("chain", S=3, T=6)
    model = popgrad.Disentangled(task=task)
    first, second = model.init(seed=1, std=0.1), model.init(seed=2, std=0.1)
    options = {"optimizer": popgrad.SGD(lr=0.5), "steps": 2, "batch": 8, "test_size": 8, **QUIET}
    popgrad.train(task, model, first, out=tmp_path / "run", **options)
    before = (tmp_path / "run-start.npz").read_bytes()
    with pytest.raises(popgrad.FileError, match="not empty"):
        popgrad.train(task, model, second, out=tmp_path / "run", **options)
    assert (tmp_path / "run-start.npz").read_bytes() == before
    with pytest.raises(popgrad.InvalidError):
        popgrad.train(task, model, second, out=tmp_path / "other", **{**options, "batch": -1})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run-start.npz"]
