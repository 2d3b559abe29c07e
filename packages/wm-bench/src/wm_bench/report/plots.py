"""The pictures of a report as SVG text: error over time, paths from above, bars per category, differences."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from wm_bench.metrics.catalogue import metric_of
from wm_bench.sheet import Sheet

_OURS, _TRUE, _INK, _GRID = "#c2541b", "#3b6ea5", "#22252b", "#d9dce1"
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


def curves_svg(sheet: Sheet) -> str:
    """Errors over time: the mean over scenes with the band between the tenth and ninetieth percentile."""
    wanted = [n for n in ("ref_psnr_db", "proxy.sharpness") if _has_curve(sheet, n)]
    cameras = sorted(n for n in _all_curves(sheet) if n.startswith("rot_err_deg@"))
    wanted = [n for n in cameras if not _is_open(sheet, n)] + wanted
    if not wanted:
        return ""
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(len(wanted), 3, (3.5, 2.3))
        for axes, name in zip(panels, wanted, strict=True):
            times, middle, low, high, count = _band(sheet, name)
            axes.fill_between(times, low, high, color=_OURS, alpha=0.18, linewidth=0)
            axes.plot(times, middle, color=_OURS, linewidth=1.4)
            axes.set_title(f"{_two_lines(name)}, {count} scenes", loc="left")
            axes.set_xlabel("seconds")
            axes.set_ylabel(metric_of(name).unit or "ratio")
            axes.grid(color=_GRID, linewidth=0.5)
            axes.margins(x=0.01)
        return _svg(figure)


def paths_svg(sheet: Sheet) -> str:
    """Paths from above, asked for and estimated, laid over each other under the first protocol."""
    found = [
        (scene_id, name, path)
        for scene_id, scene in sheet["scenes"].items()
        for name, path in sorted(scene["paths"].items())
    ][:MOST_PATHS]
    if not found:
        return ""
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(len(found), 4, (2.6, 2.5))
        for axes, (scene_id, name, path) in zip(panels, found, strict=True):
            for key, colour, style, label in (
                ("truth", _TRUE, "-", "asked for"),
                ("estimate", _OURS, "--", "estimated"),
            ):
                x, z = np.array(path[key]).T
                axes.plot(x, z, style, color=colour, linewidth=1.2, label=label)
                axes.plot(x[:1], z[:1], "o", color=colour, markersize=3)
            axes.set_title(f"{scene_id}\n{name}", loc="left", fontsize=8)
            axes.set_aspect("equal", adjustable="datalim")
            axes.tick_params(labelsize=7)
            axes.set_xlabel("right, m", fontsize=7)
            axes.set_ylabel("ahead, m", fontsize=7)
        panels[0].legend(frameon=False, fontsize=7, loc="best")
        return _svg(figure)


def bars_svg(sheet: Sheet, names: list[str]) -> str:
    """Means per category for a few metrics, with the mean over all scenes as a line."""
    known = [n for n in names if "per_category" in sheet["metrics"].get(n, {})]
    # One protocol of each camera number is enough for a glance; the table has them all.
    first: dict[str, str] = {}
    for name in known:
        first.setdefault(name.partition("@")[0], name)
    shown = list(first.values())[:6]
    if not shown:
        return ""
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(len(shown), 3, (3.5, 1.9))
        for axes, name in zip(panels, shown, strict=True):
            found = sheet["metrics"][name]
            groups = found["per_category"]
            axes.barh(list(groups), [g["mean"] for g in groups.values()], color=_TRUE, height=0.62)
            axes.axvline(found["mean"], color=_OURS, linewidth=1.2)
            axes.invert_yaxis()
            unit = metric_of(name).unit
            axes.set_title(_two_lines(name) + (f" ({unit})" if unit else ""), loc="left")
        return _svg(figure)


def differences_svg(rows: list[dict[str, Any]], label: str = "b minus a, each line scaled to its own interval") -> str:
    """Mean differences with their intervals, each in units of its own spread, so that they fit one axis."""
    shown = [r for r in rows if r["low"] is not None]
    if not shown:
        return ""
    colours = {"a": _TRUE, "b": _OURS, "open": "#8a8f98"}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 0.26 * len(shown) + 0.8), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(shown):
            reach = max(abs(row["low"]), abs(row["high"]), 1e-12)
            low, mean, high = (row[key] / reach for key in ("low", "difference", "high"))
            axes.plot([low, high], [place, place], color=colours[row["winner"]], linewidth=2)
            axes.plot([mean], [place], "o", color=colours[row["winner"]], markersize=4)
        axes.axvline(0.0, color=_INK, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [r["metric"] for r in shown], fontsize=7.5)
        axes.invert_yaxis()
        axes.set_xlabel(label)
        return _svg(figure)


def _panels(count: int, columns: int, inches: tuple[float, float]) -> tuple[Figure, list[Any]]:
    """A figure with `count` panels of (width, height) inches, at most `columns` side by side."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(inches[0] * columns, inches[1] * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _two_lines(name: str) -> str:
    """A camera number's name above its protocol and estimator."""
    base, _, rest = name.partition("@")
    return f"{base}\n{rest}" if rest else base


def _is_open(sheet: Sheet, name: str) -> bool:
    """Whether every scene's alignment is in doubt, so that the curve would show the doubt and not the camera."""
    found = sheet["metrics"].get(name, {})
    return max(found.get("flagged", {}).values(), default=0) >= max(found.get("n", 1), 1)


def _all_curves(sheet: Sheet) -> set[str]:
    return {name for scene in sheet["scenes"].values() for name in scene["curves"] if "times_s" not in name}


def _has_curve(sheet: Sheet, name: str) -> bool:
    return name in _all_curves(sheet)


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
