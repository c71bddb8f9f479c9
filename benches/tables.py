#!/usr/bin/env python3
"""Put the tables of a record into docs/src/appendix/benchmarks.md, between its two marks.

`python3 benches/tables.py benches/record/CPU/DATE-gemm.csv`, or DATE-rivals.csv. Of the products the tables name the fastest rival of each row; the
record has them all. Standard library only.
"""
import csv
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parent.parent
# Products, and what has rivals in Python.
MARKS = {"gemm": "tables of the record", "rivals": "tables of the rivals"}


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def shape(row):
    """Batch, sizes, and what is unusual about the operands."""
    op = row["op"].removesuffix("-cold")
    batch = "" if row["batch"] == "1" else f"{row['batch']} of "
    form = {"nn": "", "tn": ", A transposed", "nt": ", B transposed"}[op]
    cold = ", from memory" if row["op"] != op else ""
    return f"{batch}{row['m']}x{row['k']}x{row['n']}{form}{cold}"


def is_product(row):
    return row["op"].split("-")[0] in ("nn", "tn", "nt")


def is_ours(name):
    return name.startswith("popgrad")


def cells(found):
    """Planned, plain, AVX2, the best rival, and ours on the instruction set that this CPU gets over it: of one shape and type."""
    rate = {r["impl"]: float(r["rate"]) for r in found}
    share = {r["impl"]: float(r["share_of_peak"] or "nan") for r in found}
    show = lambda n: f"{rate[n]:.0f} ({100 * share[n]:.0f}%)" if n in rate else ""
    rivals = {n: v for n, v in rate.items() if not is_ours(n)}
    best = max(rivals, key=rivals.get) if rivals else ""
    isa = next((i for i in ("avx512", "avx2", "portable") if f"popgrad-{i}" in rate), "")
    ours = max((v for n, v in rate.items() if n in (f"popgrad-{isa}", f"popgrad-{isa}-plan")), default=None)
    ratio = f"**{ours / rivals[best]:.2f}**" if ours and best else ""
    return [show("popgrad-avx512-plan"), show("popgrad-avx512"), show("popgrad-avx2"), f"{show(best)} {best}", ratio]


def products(rows, threads):
    rows = [r for r in rows if is_product(r) and r["threads"] == threads]
    shapes = {}
    for r in rows:
        shapes.setdefault(shape(r), {}).setdefault(r["dtype"], []).append(r)
    # Small squares first, then batches, then sums and runs over many rows.
    def order(item):
        r = next(iter(item[1].values()))[0]
        m, k, n = int(r["m"]), int(r["k"]), int(r["n"])
        return (r["batch"] != "1", "transposed" in item[0] or max(m, k, n) > 10_000, m * k * n, item[0])
    out = ""
    for dtype in ("f32", "f64"):
        peaks = sorted(float(r["peak_gflops"]) for r in rows if r["dtype"] == dtype and r["peak_gflops"])
        lines = [[name, *cells(found[dtype])] for name, found in sorted(shapes.items(), key=order) if dtype in found]
        if not lines:
            continue
        plural = "" if threads == "1" else "s"
        out += f"\n**{dtype}, {threads} thread{plural}**, peak {peaks[len(peaks) // 2]:.0f}: GFLOP/s (share of the peak)\n\n"
        out += table(["m x k x n", "planned", "plain call", "on AVX2", "best rival", "ours / it"], lines)
    return out


def machine(rows):
    rows = [r for r in rows if r["op"] in ("fma", "load", "exp")]
    found = {}
    for r in rows:
        size = int(r["m"])
        where = f" {size >> 10} KiB" if r["op"] == "load" else ""
        what = {"fma": "multiply-add", "load": "load", "exp": "exp"}[r["op"]] + f" {r['dtype']}{where}, {r['unit']}"
        found.setdefault(what, {})[(r["impl"], r["threads"])] = f"{float(r['rate']):.1f} [{slow(r)}]"
    columns = sorted({c for by in found.values() for c in by}, key=lambda c: (c[1], c[0] != "popgrad-avx512"))
    head = ["", *(f"{n.removeprefix('popgrad-')}, {t} thread{'s' if t != '1' else ''}" for n, t in columns)]
    rank = lambda what: (["multiply-add", "exp", "load"].index(what.split()[0]), int(what.split()[2]) if "KiB" in what else 0)
    lines = [[what, *(found[what].get(c, "") for c in columns)] for what in sorted(found, key=lambda w: (rank(w), w))]
    return "\n**The machine**: median [slowest round, fastest]\n\n" + table(head, lines) if lines else ""


def slow(r):
    rate, median = float(r["rate"]), float(r["median_ns"])
    return f"{rate * median / float(r['max_ns']):.1f}, {rate * median / float(r['min_ns']):.1f}"


def against(rows):
    """A line for each case: ours, every rival and how many times ours that is."""
    out = ""
    for threads in sorted({r["threads"] for r in rows}):
        cases = {}
        for r in rows:
            if r["threads"] == threads:
                cases.setdefault((r["case"], r["dtype"]), {})[r["impl"]] = float(r["median_ns"])
        impls = [i for i in dict.fromkeys(r["impl"] for r in rows) if i != "popgrad"]
        lines = []
        for (case, dtype), times in cases.items():
            ours = times["popgrad"]
            rivals = {i: t for i, t in times.items() if i != "popgrad"}
            best = min(rivals, key=rivals.get, default=None)
            cell = lambda i: (f"**{rivals[i] / ours:.1f}**" if i == best else f"{rivals[i] / ours:.1f}") if i in rivals else ""
            lines.append([f"{case} ({dtype})", duration(ours), *map(cell, impls)])
        plural = "" if threads == "1" else "s"
        out += f"\n**{threads} thread{plural}**: ours, and the rivals' times as multiples of it; the fastest in bold\n\n"
        out += table(["", "popgrad", *impls], lines)
    return out


def duration(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns"


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    path = pathlib.Path(sys.argv[1]).resolve()
    rows = list(csv.DictReader(path.open()))
    kind = path.stem.rsplit("-", 1)[-1]
    if not rows or kind not in MARKS:
        raise SystemExit(f"{path}: no rows, or not named DATE-gemm.csv or DATE-rivals.csv")
    about = lambda key: ", ".join(sorted({r[key] for r in rows if r[key]}))
    where = path.relative_to(root) if path.is_relative_to(root) else path.name
    text = f"Record: `{where}`. CPU: {about('cpu')}. Commit: {about('commit')}. Rounds: {about('rounds')}.\n"
    if kind == "gemm":
        versions = sorted({f"{r['impl']} = {r['version']}" for r in rows if not is_ours(r["impl"])})
        text += f"Rivals: {'; '.join(versions)}.\n" if versions else ""
        text += "".join(products(rows, threads) for threads in ("1", "2")) + machine(rows)
    else:
        text += f"Rivals: {about('versions')}.\n" + against(rows)
    begin, end = (f"<!-- {MARKS[kind]}: {edge} -->\n" for edge in ("begin", "end"))
    page = root / "docs/src/appendix/benchmarks.md"
    old = page.read_text()
    before, after = old.split(begin)[0], old.split(end)[1]
    page.write_text(before + begin + text + end + after)


main()
