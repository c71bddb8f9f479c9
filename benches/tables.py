#!/usr/bin/env python3
"""Put the tables of a record into docs/benchmarks.md, between its two marks.

`python3 benches/tables.py benches/record/CPU/DATE-gemm.csv [benches/record/CPU/DATE-gemm-held.csv]`: of the second, what was held to one
instruction set, measured in runs of its own. Standard library only.
"""
import csv
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tables of the record: begin -->\n", "<!-- tables of the record: end -->\n"
ORDER = ["popgrad-avx512", "popgrad-avx2", "popgrad-portable", "faer", "gemm-v4", "gemm", "matrixmultiply", "openblas", "numpy"]
# Which are compared with one another: at their best, and held to one instruction set.
GROUPS = [
    ("", [n for n in ORDER if n != "popgrad-portable"]),
    (", AVX2 alone", ["popgrad-avx2", "gemm", "openblas-avx2"]),
    (", baseline alone (SSE2)", ["popgrad-portable", "matrixmultiply-sse2"]),
]


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def shape(row):
    batch = "" if row["batch"] == "1" else f"{row['batch']} of "
    form = {"nn": "", "tn": ", A transposed", "nt": ", B transposed"}[row["op"]]
    return f"{batch}{row['m']}x{row['k']}x{row['n']}{form}"


def products(rows, dtype, threads, group, order):
    rows = [r for r in rows if r["op"] in ("nn", "tn", "nt") and (r["dtype"], r["threads"]) == (dtype, threads)]
    rows = [r for r in rows if r["impl"] in order]
    names = [n for n in order if any(r["impl"] == n for r in rows)]
    # A comparison needs both sides, and one of its own beyond the first table.
    own = any(n not in ORDER or n == "popgrad-portable" for n in names)
    if len(names) < 2 or group and not own:
        return ""
    cases = {}
    for r in rows:
        cases.setdefault(shape(r), {})[r["impl"]] = r
    order = lambda c: [(c.count("of "), len(c.split("x")[0]) > 5, "transposed" in c)]
    lines, peaks = [], [float(r["peak_gflops"]) for r in rows if r["peak_gflops"]]
    for name, found in sorted(cases.items(), key=lambda c: (order(c[0]), volume(c[1]))):
        rate = {n: float(r["rate"]) for n, r in found.items()}
        ours = max((v for n, v in rate.items() if n.startswith("popgrad")), default=None)
        rival = max((v for n, v in rate.items() if not n.startswith("popgrad")), default=None)
        best = max(rate.values())
        cells = []
        for n in names:
            if n not in found:
                cells.append("")
                continue
            share = found[n]["share_of_peak"]
            text = f"{rate[n]:.1f}" + (f" ({100 * float(share):.0f}%)" if share else "")
            cells.append(f"**{text}**" if rate[n] == best else text)
        ratio = f"{ours / rival:.2f}" if ours and rival else ""
        lines.append([name, *cells, ratio])
    peak = f", peak {sorted(peaks)[len(peaks) // 2]:.1f} GFLOP/s" if peaks else ""
    title = f"\n**{dtype}, {threads} thread{'s' if threads != '1' else ''}{group}{peak}**: GFLOP/s (share of peak)\n\n"
    return title + table(["m x k x n", *names, "ours / best rival"], lines)


def volume(found):
    r = next(iter(found.values()))
    return int(r["m"]) * int(r["k"]) * int(r["n"])


def machine(rows):
    rows = [r for r in rows if r["op"] in ("fma", "load", "exp")]
    cells = {}
    for r in rows:
        size = int(r["m"])
        where = f" {size >> 10} KiB" if r["op"] == "load" else ""
        what = {"fma": "multiply-add", "load": "load", "exp": "exp"}[r["op"]] + f" {r['dtype']}{where}, {r['unit']}"
        cells.setdefault(what, {})[(r["impl"], r["threads"])] = f"{float(r['rate']):.1f} [{slow(r)}]"
    columns = [(n, t) for t in ("1", "2") for n in ORDER if any((n, t) in c for c in cells.values())]
    head = ["", *(f"{n.removeprefix('popgrad-')}, {t} thread{'s' if t != '1' else ''}" for n, t in columns)]
    rank = lambda what: (["multiply-add", "exp", "load"].index(what.split()[0]), int(what.split()[2]) if "KiB" in what else 0)
    lines = [[what, *(cells[what].get(c, "") for c in columns)] for what in sorted(cells, key=lambda w: (rank(w), w))]
    return "\n**The machine**: median [slowest round to fastest]\n\n" + table(head, lines) if lines else ""


def slow(r):
    rate, median = float(r["rate"]), float(r["median_ns"])
    return f"{rate * median / float(r['max_ns']):.1f}, {rate * median / float(r['min_ns']):.1f}"


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    path = pathlib.Path(sys.argv[1]).resolve()
    rows = list(csv.DictReader(path.open()))
    held = list(csv.DictReader(open(sys.argv[2]))) if len(sys.argv) == 3 else []
    if not rows:
        raise SystemExit(f"{path}: no rows")
    about = lambda key: ", ".join(sorted({r[key] for r in rows if r[key]}))
    versions = sorted({f"{r['impl']} = {r['version']}" for r in rows + held if not r["impl"].startswith("popgrad")})
    where = path.relative_to(root) if path.is_relative_to(root) else path.name
    text = f"Record: `{where}`. CPU: {about('cpu')}. Commit: {about('commit')}. Rounds: {about('rounds')}.\n"
    text += f"Rivals: {'; '.join(versions)}.\n" if versions else ""
    text += machine(rows)
    for group, order in GROUPS:
        for threads in ("1", "2"):
            for dtype in ("f32", "f64"):
                # That build of matrixmultiply has no threads.
                if threads != "1" and "matrixmultiply-sse2" in order:
                    continue
                text += products(held if group else rows, dtype, threads, group, order)
    page = root / "docs" / "benchmarks.md"
    old = page.read_text()
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    page.write_text(before + BEGIN + text + END + after)


main()
