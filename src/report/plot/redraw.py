"""Draws figures from their records, by matplotlib: to change a label, a colour, a size.

    python redraw.py loss.figure.json               # loss.redrawn.pdf
    python redraw.py *.figure.json --width 3.4 --format png --dpi 300
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
MAPS = {"sequential": "viridis", "diverging": "RdBu_r", "binary": "Greys"}


def numbers(values, width):
    """Rows of numbers; null is a gap."""
    return np.array(values, dtype=float).reshape(-1, width).T


def set_scale(axis, scale, values):
    if scale == "log":
        # Counts keep their zero.
        values = values[np.isfinite(values)]
        zero = axis.axis_name == "x" and (values == 0).any() and not ((values > 0) & (values < 1)).any()
        if zero:
            positive = values[values > 0]
            axis.axes.set_xscale("symlog", linthresh=positive.min() if positive.size else 1)
            axis.axes.set_xlim(left=0)
        else:
            axis.axes.set(**{f"{axis.axis_name}scale": "log"})


def line(ax, f):
    xs, ys = [], []
    for s in f["series"]:
        color = COLORS[s["color"] % len(COLORS)]
        x, y = numbers(s["points"], 2)
        style = {"linestyle": "--" if s["dashed"] else "-", "marker": "o" if s["marked"] else None}
        ax.plot(x, y, color=color, markersize=3, linewidth=1.3, label=s["label"] or None, **style)
        if s["band"]:
            at, low, high = numbers(s["band"], 3)
            ax.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
        xs.append(x)
        ys.append(y)
    for r in f["reference_lines"]:
        if r["y"] is not None:
            ax.axhline(r["y"], color="#666666", linewidth=0.8, linestyle=":")
            ax.annotate(r["label"], (1.01, r["y"]), xycoords=("axes fraction", "data"), va="center", fontsize=7)
    set_scale(ax.xaxis, f["x_scale"], np.concatenate(xs) if xs else np.array([]))
    set_scale(ax.yaxis, f["y_scale"], np.concatenate(ys) if ys else np.array([]))
    if f["y_range"]:
        ax.set_ylim(*f["y_range"])
    if any(s["label"] for s in f["series"]):
        ax.legend(fontsize=7, frameon=False)


def ticks(axis, given, blocks, count, pool):
    if blocks and not isinstance(given, dict):
        ends = np.cumsum([b["size"] for b in blocks])
        middles = [(end - b["size"] / 2) / pool - 0.5 for end, b in zip(ends, blocks)]
        axis.set_ticks(middles, [b["label"] for b in blocks], fontsize=7)
        axis.axes.tick_params("x", rotation=90)
    elif isinstance(given, dict):
        kind, value = next(iter(given.items()))
        labels = [str(value + i) for i in range(count)] if kind == "from" else value
        every = -(-count // 16)
        axis.set_ticks([i / pool for i in range(0, count, every)], labels[::every], fontsize=7)
    else:
        axis.set_ticks([])


def heat(ax, f):
    k, l = (max(1, n) for n in f["pool"])
    cells = np.array(f["values"], dtype=float).reshape(-(-f["rows"] // k), -(-f["cols"] // l))
    finite = cells[np.isfinite(cells)] if np.isfinite(cells).any() else np.zeros(1)
    low, high = f["range"] or (finite.min(), finite.max())
    if f["colormap"] == "diverging" and not f["range"]:
        low, high = -np.abs(finite).max(), np.abs(finite).max()
    colors = plt.get_cmap(MAPS[f["colormap"]]).with_extremes(bad="#bdbdbd")
    image = ax.imshow(cells, cmap=colors, vmin=low, vmax=high, aspect="equal", interpolation="nearest")
    for axis, blocks, pool in ((ax.axhline, f["row_blocks"], k), (ax.axvline, f["col_blocks"], l)):
        for end in np.cumsum([b["size"] for b in blocks])[:-1]:
            axis(end / pool - 0.5, color="white", linewidth=0.6)
    ticks(ax.yaxis, f["row_ticks"], f["row_blocks"], f["rows"], k)
    ticks(ax.xaxis, f["col_ticks"], f["col_blocks"], f["cols"], l)
    if f["colormap"] != "binary":
        ax.figure.colorbar(image, ax=ax, shrink=0.8)


def draw(parent, f):
    """A figure, or a figure of figures, in a figure or a part of one."""
    if f["kind"] == "panels":
        columns = min(f["columns"], len(f["figures"]))
        parts = parent.subfigures(-(-len(f["figures"]) // columns), columns, squeeze=False)
        for part, inner in zip(parts.flat, f["figures"]):
            draw(part, inner)
        parent.suptitle(f["title"], fontsize=10)
        return
    ax = parent.subplots()
    {"line": line, "heat": heat}[f["kind"]](ax, f)
    ax.set_title(f["title"], fontsize=9)
    ax.set_xlabel(f["x_label"], fontsize=8)
    ax.set_ylabel(f["y_label"], fontsize=8)
    ax.tick_params(labelsize=7)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--width", type=float, help="inches; 3.4 is a column, 7 a page")
    parser.add_argument("--format", default="pdf", choices=["pdf", "png", "svg"])
    parser.add_argument("--dpi", type=float, default=200)
    options = parser.parse_args()
    for path in options.records:
        f = json.loads(path.read_text())
        columns = min(f["columns"], len(f["figures"])) if f["kind"] == "panels" else 1
        rows = -(-len(f["figures"]) // columns) if f["kind"] == "panels" else 1
        width = options.width or 4.5 * columns
        fig = plt.figure(figsize=(width, 0.75 * width * rows / columns), layout="constrained")
        draw(fig, f)
        stem = path.name.removesuffix(".json").removesuffix(".figure")
        fig.savefig(path.with_name(f"{stem}.redrawn.{options.format}"), dpi=options.dpi)
        plt.close(fig)


if __name__ == "__main__":
    main()
