"""The pictures of a report as SVG text, one a plot: error over time, paths from above, bars per category."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from wm_bench.metrics.catalogue import metric_of, title_of
from wm_bench.report.tables import is_open, number, scenes_words
from wm_bench.sheet import Sheet

_OURS, _TRUE, _OPEN, _INK, _GRID = "#c2541b", "#3b6ea5", "#8a8f98", "#22252b", "#d9dce1"
_STYLE: Any = {
    "svg.hashsalt": "wm-bench",  # without it, names inside the file change from run to run
    "svg.fonttype": "path",
    "font.size": 8.5,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": "#565b64",
    "ytick.color": "#565b64",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
}
MOST_PATHS = 12


def curve_plots(sheet: Sheet) -> list[str]:
    """Errors over time: the mean over scenes with the band between the tenth and ninetieth percentile."""
    drawn = _all_curves(sheet)
    cameras = sorted(n for n in drawn if n.startswith("rot_err_deg@") and not is_open(sheet, n))
    plots = []
    for name in cameras + [n for n in ("ref_psnr_db", "proxy.sharpness") if n in drawn]:
        times, middle, low, high, count = _band(sheet, name)
        with _panel(3.4, 2.3) as (figure, axes):
            axes.fill_between(times, low, high, color=_OURS, alpha=0.18, linewidth=0)
            axes.plot(times, middle, color=_OURS, linewidth=1.4)
            floor = sheet["metrics"].get(name, {}).get("floor")
            if floor is not None:
                axes.axhline(floor["mean"], color=_INK, linewidth=0.9, linestyle=":")
            axes.set_title(f"{_titled(name)}; {scenes_words(count)}", loc="left")
            axes.set_xlabel("seconds")
            axes.set_ylabel(metric_of(name).unit or "ratio")
            axes.grid(color=_GRID, linewidth=0.5)
            axes.margins(x=0.01)
            plots.append(_svg(figure))
    return plots


def path_plots(sheet: Sheet) -> list[str]:
    """Paths from above: asked for, estimated, and what the estimator makes of the exact render."""
    found = [
        (scene_id, name, path)
        for scene_id, scene in sheet["scenes"].items()
        for name, path in sorted(scene["paths"].items())
    ][:MOST_PATHS]
    plots = []
    for scene_id, name, path in found:
        with _panel(2.45, 2.5) as (figure, axes):
            for key, colour, style in (("truth", _TRUE, "-"), ("floor", _OPEN, ":"), ("estimate", _OURS, "--")):
                if key not in path:
                    continue
                x, z = np.array(path[key]).T
                axes.plot(x, z, style, color=colour, linewidth=1.4)
                axes.plot(x[:1], z[:1], "o", color=colour, markersize=3.5)
            axes.set_title(f"{scene_id}\n{name}", loc="left", fontsize=8)
            axes.set_aspect("equal", adjustable="datalim")
            axes.margins(0.12)
            axes.grid(color=_GRID, linewidth=0.5)
            axes.tick_params(labelsize=7)
            axes.set_xlabel("right, m", fontsize=7)
            axes.set_ylabel("ahead, m", fontsize=7)
            plots.append(_svg(figure))
    return plots


def bar_plots(sheet: Sheet, names: list[str]) -> list[str]:
    """Means per category for at most six metrics, with the mean over all scenes as a line."""
    plots = []
    for name in [n for n in names if "per_category" in sheet["metrics"].get(n, {})][:6]:
        found = sheet["metrics"][name]
        groups = found["per_category"]
        with _panel(3.4, 0.27 * len(groups) + 0.85) as (figure, axes):
            white = {"facecolor": "white", "linewidth": 0, "pad": 0.8}  # over the line of the mean
            bars = axes.barh(list(groups), [g["mean"] for g in groups.values()], color=_TRUE, height=0.62)
            axes.bar_label(bars, [number(g["mean"]) for g in groups.values()], padding=3, fontsize=7.5, bbox=white)
            axes.axvline(found["mean"], color=_OURS, linewidth=1.2)
            axes.margins(x=0.28)
            axes.invert_yaxis()
            unit = metric_of(name).unit
            axes.set_title(_titled(name) + (f" ({unit})" if unit else ""), loc="left")
            plots.append(_svg(figure))
    return plots


@contextmanager
def _panel(width: float, height: float) -> Iterator[tuple[Figure, Any]]:
    """One plot of so many inches; a page lays as many side by side as fit."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def _titled(name: str) -> str:
    """A number's title, for a camera number above its protocol and estimator."""
    rest = name.partition("@")[2]
    return f"{title_of(name)}\n{rest}" if rest else title_of(name)


def _all_curves(sheet: Sheet) -> set[str]:
    return {name for scene in sheet["scenes"].values() for name in scene["curves"] if "times_s" not in name}


def _band(sheet: Sheet, name: str) -> tuple[Any, Any, Any, Any, int]:
    """Times and mean, tenth and ninetieth percentile over scenes; each scene interpolated to half seconds."""
    key = f"pose_times_s@{name.rpartition('/')[2]}" if name.startswith("rot_err_deg@") else "times_s"
    pairs = [
        (np.array(scene["curves"][key]), np.array(scene["curves"][name], dtype=np.float64))
        for scene in sheet["scenes"].values()
        if name in scene["curves"]
    ]
    end = min(float(times[-1]) for times, _ in pairs)
    times = np.linspace(0.0, end, max(2, round(end / 0.5) + 1))
    # Frame 0 is the picture that was given: identical, 100 dB, and no part of the curve.
    start = 1 if name == "ref_psnr_db" and len(times) > 2 else 0
    values = np.stack([np.interp(times, t, v) for t, v in pairs])[:, start:]
    low, high = np.percentile(values, [10, 90], axis=0)
    return times[start:], values.mean(0), low, high, len(pairs)


def _svg(figure: Figure) -> str:
    FigureCanvasSVG(figure)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
