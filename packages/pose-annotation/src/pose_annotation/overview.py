"""One page a clip, to be looked at: the verdict, the path from above, the lens, the residuals, some frames, the scores.

A page is drawn before its clip is judged, and a clip can be judged again: the verdict has a place of its own in the
page, where `show_verdict` puts the last one.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pose_annotation.opencv import cv2
from pose_annotation.outputs import write_text
from pose_annotation.types import Array, CameraTrack

_BLUE, _RED, _GREY = "#2563eb", "#dc2626", "#9ca3af"
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:24px auto;padding:0 16px;color:#1f2430}"
    "img{max-width:100%}table{border-collapse:collapse}td,th{padding:2px 14px 2px 0;text-align:left;"
    "font-variant-numeric:tabular-nums}.strip{display:flex;gap:4px}.strip img{flex:1;width:0}"
    ".verdict{border-left:5px solid #9ca3af;background:#f3f4f6;padding:8px 14px;margin:14px 0}.verdict p{margin:0}"
    ".verdict ul{margin:4px 0 0}.kept{border-color:#15803d;background:#f0fdf4}"
    ".rejected{border-color:#b91c1c;background:#fef2f2}"
)
_BEGIN, _END = "<!--verdict-->", "<!--/verdict-->"
_NOT_JUDGED = '<div class="verdict"><p>Not judged yet.</p></div>'


def draw_overview(path: Path, record: dict[str, Any], camera: CameraTrack, frames: NDArray[np.uint8]) -> None:
    """Write the page of a clip as one HTML file without links to others."""
    picks = np.unique(np.round(np.linspace(0, len(frames) - 1, 6)).astype(int))
    strip = "".join(f'<img src="{_jpeg(frames[i])}" title="frame {i}" alt="frame {i}">' for i in picks)
    flags = ", ".join(record["flags"]) or "none"
    unit = "metres" if record["metric"] else "scene units (median depth 1), no metres known"
    facts = {
        "video": f"{record['video']['name']}, {record['video']['start_s']:.2f} to {record['video']['end_s']:.2f} s",
        "frames": f"{record['frames']} at {record['fps']:g} fps, {record['width']}x{record['height']}",
        "translations": unit,
        "doubts": flags,
        "caption": record["caption"].get("text") or "(empty)",
    }
    rows = "".join(f"<tr><th>{k}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
    scores = "".join(
        f"<tr><th>{name}</th><td>{'not measured' if value is None else f'{value:.4g}'}</td></tr>"
        for name, value in sorted(record["scores"].items())
    )
    title = html.escape(record["id"])
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<h1>{title}</h1>{_BEGIN}{_NOT_JUDGED}{_END}"
        f'<table>{rows}</table><div class="strip">{strip}</div>'
        f'<img src="{_figure(camera, record["fps"])}" alt="path, lens and residuals"><h2>Scores</h2>'
        f"<table>{scores}</table></html>\n",
    )


def draw_unsolved(path: Path, record: dict[str, Any]) -> None:
    """Write the page of a clip whose camera was not found."""
    title = html.escape(record["id"])
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{_BEGIN}{_NOT_JUDGED}{_END}<p>No camera: {html.escape(record['reason'])}</p></html>\n",
    )


def show_verdict(path: Path, verdict: dict[str, Any], policy: str) -> None:
    """Put a clip's verdict (a row of verdicts.jsonl) and the name of the policy into its page, over an older one.

    A page that is not there, or was written before pages had verdicts, is left alone.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except OSError:
        return
    before, found, rest = page.partition(_BEGIN)
    _, closed, after = rest.partition(_END)
    if not (found and closed):
        return
    word, kind = ("Kept", "kept") if verdict["kept"] else ("Rejected", "rejected")
    lines = [f"<p><strong>{word}</strong> by {html.escape(policy)}{':' if verdict['reasons'] else '.'}</p>"]
    if verdict["reasons"]:
        lines.append("<ul>" + "".join(f"<li>{html.escape(reason)}</li>" for reason in verdict["reasons"]) + "</ul>")
    if verdict.get("unknown"):
        lines.append(f"<p>Not measured, so not judged: {html.escape(', '.join(verdict['unknown']))}.</p>")
    new = f'{before}{_BEGIN}<div class="verdict {kind}">{"".join(lines)}</div>{_END}{after}'
    if new != page:
        write_text(path, new)


def _jpeg(frame: NDArray[np.uint8]) -> str:
    width = min(240, frame.shape[1])
    small = cv2.resize(frame, (width, round(frame.shape[0] * width / frame.shape[1])), interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _figure(camera: CameraTrack, fps: float) -> str:
    figure = Figure(figsize=(11.5, 6.2), dpi=100, layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1.25, 1.0))
    _plan(figure.add_subplot(grid[:, 0]), camera)
    times = np.arange(len(camera)) / fps
    _lens(figure.add_subplot(grid[0, 1]), camera, times)
    residual = figure.add_subplot(grid[1, 1])
    residual.plot(times, camera.rmse_px, color=_BLUE, lw=1.2)
    residual.set(title="reprojection error, px (where solved)", ylim=(0, None))
    share = figure.add_subplot(grid[2, 1])
    share.plot(times, 100 * camera.inlier_ratio, color=_BLUE, lw=1.2)
    share.set(title="points that agree, %", ylim=(0, 105), xlabel="seconds")
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _plan(axes: Axes, camera: CameraTrack) -> None:
    """Path from above: points of the map grey, keyframes red, wedges the view."""
    centres = camera.c2w[:, :3, 3]
    step = max(float(np.linalg.norm(np.ptp(centres, axis=0))), 1e-6)
    if len(camera.points):
        near = np.linalg.norm(camera.points - centres.mean(0), axis=1)
        kept = camera.points[near < np.percentile(near, 95)]
        axes.plot(kept[:, 0], kept[:, 2], ".", ms=1.2, color=_GREY, alpha=0.6)
        step = max(step, 0.15 * float(np.percentile(near, 50)))
    axes.plot(centres[:, 0], centres[:, 2], color=_BLUE, lw=1.5)
    key = camera.is_keyframe
    axes.plot(centres[key, 0], centres[key, 2], ".", ms=5, color=_RED, label="keyframes")
    axes.plot(centres[0, 0], centres[0, 2], "o", ms=8, mfc="none", color=_BLUE, label="start")
    for i in np.unique(np.round(np.linspace(0, len(camera) - 1, 9)).astype(int)):
        corners = _wedge(camera.c2w[i], camera.intrinsics[i], camera.size[1], 0.14 * step)
        axes.plot(corners[:, 0], corners[:, 2], color=_BLUE, lw=0.8, alpha=0.7)
    axes.set_aspect("equal", adjustable="datalim")
    unit = "m" if camera.metric else "scene units"
    axes.set(title="from above: right is +x, up is +z (ahead)", xlabel=f"x, {unit}", ylabel=f"z, {unit}")
    axes.legend(loc="best", fontsize=8)


def _wedge(c2w: Array, lens: Array, width: int, length: float) -> Array:
    left, right = -lens[2] / lens[0], (width - lens[2]) / lens[0]
    local = length * np.array([[0, 0, 0], [left, 0, 1], [right, 0, 1], [0, 0, 0]], float)
    return local @ c2w[:3, :3].T + c2w[:3, 3]


def _lens(axes: Axes, camera: CameraTrack, times: Array) -> None:
    """The focal lengths at the scale of what they do, but a shaking of 1 % is not drawn as a mountain range."""
    focal, other = camera.intrinsics[:, 0], camera.intrinsics[:, 1]
    middle = float(np.median(focal))
    square = bool(np.abs(other / focal - 1.0).max() < 1e-4)
    low, high = float(min(focal.min(), other.min())), float(max(focal.max(), other.max()))
    known = bool(np.isfinite(camera.focal_std).all())
    if known:
        band = np.minimum(camera.focal_std, 1.0) * focal
        axes.fill_between(times, focal - band, focal + band, color=_BLUE, alpha=0.18, lw=0, label="one deviation")
        # A wide band must not press the curve flat: it may run out of the picture.
        room = max(2.0 * (high - low), 0.1 * middle)
        low, high = max(low - room, float((focal - band).min())), min(high + room, float((focal + band).max()))
    pad = max(0.08 * (high - low), 0.5 * (0.04 * middle - (high - low)), 0.0)
    axes.set_ylim(low - pad, high + pad)
    axes.plot(times, focal, color=_BLUE, lw=1.6, label="fx = fy" if square else "fx")
    if not square:
        axes.plot(times, other, color=_RED, lw=1.0, ls="--", label="fy")
    wide = 2 * np.degrees(np.arctan(camera.size[1] / (2 * focal)))
    span = f"{wide.min():.1f}" if np.ptp(wide) < 0.05 else f"{wide.min():.1f} to {wide.max():.1f}"
    axes.set_title(f"focal length, px ({span} degrees wide)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
