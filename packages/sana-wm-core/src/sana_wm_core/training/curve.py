"""A picture of how losses fell, one line a run, from the metrics the runs wrote."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, MARGIN = (960, 480), (70, 30, 30, 50)  # left, top, right, bottom
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))


def read_curve(run: str | Path, key: str = "loss") -> list[tuple[float, float]]:
    """(step, value) of a run.

    Raises:
        ValueError: The run has no such metric.
    """
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{run}: no metrics.jsonl, so there is nothing to draw")
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    points = [(float(row.get("step", row.get("iteration", 0))), float(row[key])) for row in rows if key in row]
    if not points:
        raise ValueError(f"{run}: no {key!r} in metrics.jsonl; there are {', '.join(sorted(rows[-1]))}")
    return points


def smooth(points: Sequence[tuple[float, float]], memory: float = 0.8) -> list[tuple[float, float]]:
    """Running mean of the values, unbiased at the start."""
    out, mean, weight = [], 0.0, 0.0
    for step, value in points:
        mean, weight = memory * mean + (1 - memory) * value, memory * weight + (1 - memory)
        out.append((step, mean / weight))
    return out


def draw_curves(runs: Sequence[str | Path], out: str | Path, key: str = "loss") -> None:
    """Draw the metric of some runs one behind the other: each starts where the run before it ended."""
    curves, offset = [], 0.0
    for run in runs:
        points = read_curve(run, key)
        curves.append([(offset + step, value) for step, value in points])
        offset += points[-1][0]
    values = [value for curve in curves for _, value in curve if math.isfinite(value)]
    low, high = min(0.0, *values), max(values) * 1.05 or 1.0
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = MARGIN[0], MARGIN[1], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * step / offset
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    for i in range(6):
        value = low + (high - low) * i / 5
        _, y = place(0, value)
        pen.line([(left, y), (right, y)], fill=(225, 225, 225))
        pen.text((left - 8, y), f"{value:.3g}", fill="black", anchor="rm")
        x, _ = place(offset * i / 5, low)
        pen.text((x, bottom + 8), f"{offset * i / 5:.0f}", fill="black", anchor="ma")
    for i, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        pale = tuple(255 - (255 - c) // 3 for c in colour)
        pen.line([place(*p) for p in curve], fill=pale, width=1)
        pen.line([place(*p) for p in smooth(curve)], fill=colour, width=3)
        pen.text((place(curve[0][0], low)[0] + 6, top + 4 + 14 * (i % 3)), Path(run).name, fill=colour)
    pen.text((left, 8), f"{key} over steps", fill="black")
    temporary = Path(out).with_name(f".{Path(out).name}.{os.getpid()}.png")
    image.save(temporary)
    os.replace(temporary, out)
