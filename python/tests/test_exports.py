"""Metrics in the formats of TensorBoard and Weights & Biases, read back by those tools."""

import json
import math
import time

import popgrad
import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "chain"
    return popgrad.preset("chain", quick=True, steps=12, eval_every=4, out=folder, progress=False)


def finite(run, name):
    pairs = zip(run.metrics["step"], run.metrics[name], strict=True)
    return [(int(step), x) for step, x in pairs if math.isfinite(x)]


def test_tensorboard_reads_every_number(run, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    before = time.time()
    assert run.to_tensorboard(tmp_path / "events") == tmp_path / "events"
    found = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    names = {name for name in run.metrics if name != "step" and finite(run, name)}
    assert set(found.Tags()["scalars"]) == names and "test_loss" in names
    for name in names:
        events = found.Scalars(name)
        assert [e.step for e in events] == [step for step, _ in finite(run, name)]
        values = [x for _, x in finite(run, name)]
        assert [e.value for e in events] == pytest.approx(values, rel=1e-6, abs=1e-30)
        assert all(before <= e.wall_time <= time.time() for e in events)
    with pytest.raises(popgrad.InvalidError, match="a folder without event files") as refused:
        run.to_tensorboard(tmp_path / "events")
    assert refused.value.field == "folder"
    assert len(list((tmp_path / "events").iterdir())) == 1


def chunks(data, block=1 << 15):
    """The records of a log in LevelDB's format behind a header of 7 bytes."""
    at, parts = 7, []
    while at < len(data):
        room = block - at % block
        if room < 7:
            at += room
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def ended(file):
    """True if the log has its last record."""
    from wandb.proto.wandb_internal_pb2 import Record

    return any(Record.FromString(data).HasField("exit") for data in chunks(file.read_bytes()))


def test_wandb_has_configuration_metrics_and_summary(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_SILENT", "true")
    log = run.to_wandb("popgrad-test", dir=str(tmp_path))
    assert log.config["lr"] == run.config["lr"] and log.name == "chain"
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    # wandb's own process writes the file.
    deadline = time.time() + 20
    while not ended(file) and time.time() < deadline:
        time.sleep(0.1)
    history, summary = [], {}
    for data in chunks(file.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            items = record.history.item
            history.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
        if record.HasField("summary"):
            summary.update({i.key: json.loads(i.value_json) for i in record.summary.update})
    assert [(row["_step"], row["test_loss"]) for row in history] == finite(run, "test_loss")
    assert summary["test_loss"] == run.summary["test_loss"]


def test_snapshots_of_a_preset_are_a_list_too(tmp_path):
    run = popgrad.preset("chain", quick=True, steps=4, snapshots=[0, 3], out=tmp_path / "r", progress=False)
    assert run.snapshots == [0, 3, 4]
