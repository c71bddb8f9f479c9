"""Pictures of runs: by matplotlib, and as HTML without it."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from .run import Run


def _bayes(run: Run) -> float | None:
    found = (run.summary or {}).get("bayes_counts")
    return float(found) if isinstance(found, (int, float)) else None


def curve(run: Run, ax: Axes | None = None) -> Axes:
    """Losses of `run` against updates."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots()[1]
    metrics = run.metrics
    for name in ("train_loss", "test_loss"):
        if name in metrics:
            ax.plot(metrics["step"], metrics[name], label=name.replace("_", " "))
    bayes = _bayes(run)
    if bayes is not None:
        ax.axhline(bayes, color="grey", linestyle="--", label="Bayes, counts")
    ax.set_xlabel("updates")
    ax.set_ylabel("loss (nats)")
    ax.legend()
    return ax


def _line(x: np.ndarray, y: np.ndarray, width: int = 320, height: int = 120) -> str:
    """A curve as SVG."""
    points = [(float(a), float(b)) for a, b in zip(x, y) if math.isfinite(a) and math.isfinite(b)]
    if len(points) < 2:
        return ""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    path = " ".join(
        f"{4 + (a - min(xs)) / wide * (width - 8):.1f},{height - 4 - (b - min(ys)) / high * (height - 8):.1f}"
        for a, b in points
    )
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="test loss">'
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )


def _map(pattern: np.ndarray, title: str, cell: int = 6) -> str:
    """An attention pattern (T, T) as SVG; darker is more."""
    t = len(pattern)
    squares = []
    for i, row in enumerate(pattern):
        for j, p in enumerate(row):
            if math.isfinite(p) and p >= 0.005:
                place = f'x="{j * cell}" y="{i * cell}" width="{cell}" height="{cell}"'
                squares.append(f'<rect {place} fill="currentColor" fill-opacity="{min(float(p), 1.0):.2f}"/>')
    size = t * cell
    frame = f'<rect width="{size}" height="{size}" fill="none" stroke="currentColor" stroke-opacity="0.3"/>'
    picture = f'<svg width="{size}" height="{size}">{frame}{"".join(squares)}</svg>'
    return (
        f'<figure style="display:inline-block;margin:4px">{picture}<figcaption>{title}</figcaption></figure>'
    )


def page(run: Run) -> str:
    """Summary, loss curve and attention of `run` as HTML."""
    summary = run.summary or {"stopped after update": run.step}
    rows = "".join(
        f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>"
        for k, v in summary.items()
        if not isinstance(v, (list, dict)) or v
    )
    metrics = run.metrics
    loss = _line(metrics["step"], metrics["test_loss"]) if "test_loss" in metrics else ""
    maps = []
    for layer, heads in enumerate(run.attention() if run.step else []):
        # A large pattern is cut: a page of a million squares opens nowhere.
        shown = heads[:4, :64, :64]
        maps += [_map(p, f"layer {layer}, head {h}") for h, p in enumerate(shown)]
    title = html.escape(f"{run.config['task']}, {run.config['model']}")
    return f"<div><b>{title}</b><table>{rows}</table>{loss}<div>{''.join(maps)}</div></div>"
