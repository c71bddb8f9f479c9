#!/usr/bin/env python3
"""Write results as one dated CSV in benches/record/<cpu>. Standard library only.

`record.py` after `cargo bench`: criterion's latest, as <date>.csv. Columns: bench, median and its 95% interval in nanoseconds,
elements (or bytes) per iteration and per second, instruction set, commit.

`record.py rivals FILE..`, FILE being what `popgrad bench --rivals --json` printed, as <date>-rivals.csv. Columns: case, type, threads,
who, median, least and largest time of a call in nanoseconds, rounds, instruction set, CPU, versions of the rivals, commit.
"""
import csv
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

root = pathlib.Path(__file__).resolve().parent.parent


def cpu_name():
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        fields = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.M))
        name = f"{fields['model name']} family {fields['cpu family']} model {fields['model']}"
    except (OSError, KeyError):
        name = platform.machine()
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def best_isa():
    try:
        flags = re.search(r"^flags\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M).group(1).split()
    except (OSError, AttributeError):
        return "portable"
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags):
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= set(flags) else "portable"


def commit():
    def git(*args):
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True).stdout.strip()

    # Records and the pages made from them differ from the commit because a measurement writes them.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/record", ":!docs")
    if changed:
        raise SystemExit(f"commit these changes before measuring:\n{changed}")
    return git("describe", "--always")


def write(name, columns, rows):
    out = root / "benches" / "record" / cpu_name() / name
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(columns)
        w.writerows(rows)
    print(out.relative_to(root))


def rivals(files):
    rows, at = [], commit()
    for file in files:
        report = json.loads(pathlib.Path(file).read_text())
        versions = "; ".join(report["rivals"])
        for c in report["comparisons"]:
            for t in c["times"]:
                times = [f"{t[k]:.0f}" for k in ("median_ns", "min_ns", "max_ns")]
                case = [c["name"], c["dtype"], c["threads"], t["name"]]
                rows.append([*case, *times, c["rounds"], report["isa"], report["cpu"], versions, at])
    columns = ["case", "dtype", "threads", "impl", "median_ns", "min_ns", "max_ns", "rounds", "isa", "cpu", "versions", "commit"]
    name = f"{datetime.date.today()}-rivals.csv"
    path = root / "benches" / "record" / cpu_name() / name
    # A record can be made in parts: cases measured again replace theirs.
    again = {tuple(map(str, row[:3])) for row in rows}
    old = list(csv.reader(path.open()))[1:] if path.exists() else []
    rows = [row for row in old if tuple(row[:3]) not in again] + rows
    write(name, columns, sorted(rows, key=lambda row: int(row[2])))


def main():
    if sys.argv[1:2] == ["rivals"]:
        return rivals(sys.argv[2:])
    if sys.argv[1:]:
        raise SystemExit(__doc__)
    rows = []
    # Results of earlier days stay where criterion put them: only what this session measured is recorded.
    fresh = time.time() - 2 * 3600
    for path in sorted(root.glob("target/criterion/**/new/benchmark.json")):
        if path.stat().st_mtime < fresh:
            continue
        about = json.loads(path.read_text())
        median = json.loads((path.parent / "estimates.json").read_text())["median"]
        ns, interval = median["point_estimate"], median["confidence_interval"]
        throughput = about.get("throughput") or {}
        unit, amount = next(iter(throughput.items()), ("", None))
        rate = f"{amount / ns * 1e9:.4g}" if amount else ""
        rows.append([about["full_id"], f"{ns:.1f}", f"{interval['lower_bound']:.1f}",
                     f"{interval['upper_bound']:.1f}", unit, amount or "", rate])
    if not rows:
        raise SystemExit("no criterion results: run `cargo bench` first")
    isa, at = os.environ.get("POPGRAD_ISA") or best_isa(), commit()
    columns = ["bench", "median_ns", "low_ns", "high_ns", "unit", "per_iteration", "per_second", "isa", "commit"]
    write(f"{datetime.date.today()}.csv", columns, [[*row, isa, at] for row in rows])


main()
