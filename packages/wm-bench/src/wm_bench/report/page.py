"""The report of one method on one split as a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm_bench.metrics.catalogue import metric_of, title_of
from wm_bench.quoted import quoted
from wm_bench.report.clips import ClipStrip
from wm_bench.report.parts import Cell, document, grid, named, section, table
from wm_bench.report.plots import bar_plots, curve_plots, path_plots
from wm_bench.report.tables import (
    coverage_words,
    headline_names,
    is_open,
    line_of,
    number,
    one_of_each,
    ordered_names,
    scenes_words,
)
from wm_bench.sheet import Sheet

_QUOTED = ("method", "rot_err_deg", "trans_err_m", "cam_mc", "overall")
_TILES = ("rot_err_deg", "trans_err_m", "ref_psnr_db", "warp_gap_db", "revisit_psnr_db", "vbench_quality")
_INFO = ("resolution", "fps", "steps", "seed", "dtype", "refiner", "commit")
_GAP_PX = 3


def score_page(sheet: Sheet, strips: Sequence[ClipStrip]) -> str:
    """The report of one method on one split."""
    c = sheet["coverage"]
    names = headline_names(sheet)
    measured = [n for n in names if "mean" in sheet["metrics"][n] and not n.startswith("registered")]
    # One protocol of each camera number is enough for a glance; the table has them all.
    short = one_of_each(sheet, measured)
    body = [
        f"<h1>{escape(sheet['method'])}</h1>",
        f"<p class=quiet>{escape(sheet['split'])}, {escape(sheet['revision'])}, {scenes_words(c['scored'])}"
        f"{_made_how(sheet)}</p>",
        f"<div class='banner{' full' if c['headline'] else ''}'>{escape(coverage_words(sheet))}</div>",
        _tiles(sheet, [n for n in short if n.partition("@")[0] in _TILES]),
        _findings(sheet),
        _numbers(sheet, measured, [n for n in names if n.startswith("registered") and "mean" in sheet["metrics"][n]]),
        section(
            "Over time",
            "Mean over scenes; the band holds eight scenes of ten, the dotted line is the estimator's floor. A "
            "protocol whose alignment is open in every scene is left out.",
            grid(curve_plots(sheet)),
        ),
        section(
            "Paths from above",
            "Metres. Solid blue is the path that was asked for, dashed orange the one estimated from the video, dotted "
            "grey what the same estimator finds in the exact render; dots are the start. All are turned, moved and "
            "scaled to bring their positions as near to the first as they go.",
            grid(path_plots(sheet)),
        ),
        section(
            "By category",
            "Bars are means of a category's scenes, the line is the mean of all.",
            grid(bar_plots(sheet, short)),
        ),
        _clips(strips),
        _scenes(sheet, short[:8]),
        _missing(sheet, names),
        _all(sheet),
        _published(sheet),
    ]
    return document(f"{sheet['method']} on {sheet['split']}", body)


def _made_how(sheet: Sheet) -> str:
    info = sheet["method_info"] or {}
    words = [f"{key} {info[key]}" for key in _INFO if isinstance(info.get(key), (str, int, float))]
    return f"<br>{escape(', '.join(words))}" if words else ""


def _tiles(sheet: Sheet, names: list[str]) -> str:
    tiles = []
    for name in names:
        x = line_of(sheet, name)
        below = [f"95 %: {x.interval}" if x.interval else "", f"floor {x.floor}" if x.floor else ""]
        below.append(escape(name.partition("@")[2] or x.what))
        tiles.append(
            f"<div>{escape(title_of(name))}<b>{x.value} <small>{escape(x.unit)}</small></b>"
            f"<span class=quiet>{'<br>'.join(filter(None, below))}</span></div>"
        )
    return f"<div class=tiles>{''.join(tiles)}</div>" if tiles else ""


def _numbers(sheet: Sheet, names: list[str], placed: list[str]) -> str:
    if not names:
        return ""
    rows = []
    for name in [*names, *placed]:
        x = line_of(sheet, name)
        flagged = f"; flagged: {escape(x.note)}" if x.note else ""
        value = f"<span class=quiet>{x.value}</span>" if is_open(sheet, name) else x.value
        unit = escape(f"{x.unit}, {x.better} is better" if x.unit and x.better else x.unit or _direction(x.better))
        rows.append(
            [
                Cell("", named(title_of(name), name)), Cell("n", value), Cell("n", x.interval), Cell("n", x.floor),
                Cell("", unit), Cell("n", x.coverage), Cell("", escape(x.what) + flagged),
            ]
        )  # fmt: skip
    heads = ["number", "mean", "95 % interval", "floor", "unit", "scenes", "what it is"]
    note = (
        "<p class=quiet>Camera numbers are named number@protocol/estimator. The floor is what the same estimator makes "
        "of the exact render at the same size: an error near it is the estimator's, not the model's. Grey: the "
        "alignment is in doubt in every scene, so the number shows the doubt and not the camera.</p>"
    )
    return "<h2>Numbers</h2>" + table(heads, rows) + note


def _direction(better: str) -> str:
    return f"{better} is better" if better else ""


def _missing(sheet: Sheet, names: list[str]) -> str:
    reasons: dict[str, list[str]] = {}
    for name in names:
        if "mean" not in sheet["metrics"][name]:
            reasons.setdefault(sheet["metrics"][name]["reason"], []).append(name)
    items = "".join(
        f"<li>{escape(reason)}: {', '.join(f'<code>{escape(n)}</code>' for n in lacking)}</li>"
        for reason, lacking in reasons.items()
    )
    return f"<h2>Not measured</h2><ul class=quiet>{items}</ul>" if items else ""


def _findings(sheet: Sheet) -> str:
    if not sheet["findings"]:
        return ""
    rows = [
        [Cell("", f["level"]), Cell("m", f["scene"]), Cell("", f["code"]), Cell("", escape(f["message"]))]
        for f in sheet["findings"]
    ]
    return "<h2>Findings</h2>" + table(["level", "scene", "code", "what is wrong"], rows)


def _clips(strips: Sequence[ClipStrip]) -> str:
    if not strips:
        return ""
    parts = []
    for strip in strips:
        rows = [strip.frames] if strip.truth is None else [strip.frames, strip.truth]
        times = ", ".join(f"{t:.1f}" for t in strip.times_s)
        below = "" if strip.truth is None else "; below: the exact render"
        parts.append(
            f"<div class=strip><p><b>{escape(strip.scene)}</b> <span class=quiet>{escape(strip.words)}; at {times} s"
            f"{below}</span></p><div class=wide><img alt='frames of {escape(strip.scene)}' src='{_picture(rows)}'>"
            "</div></div>"
        )
    return "<h2>Worst and best clips</h2>" + "".join(parts)


def _picture(rows: list[NDArray[np.uint8]]) -> str:
    count, height, width = rows[0].shape[:3]
    size = (len(rows) * (height + _GAP_PX) - _GAP_PX, count * (width + _GAP_PX) - _GAP_PX, 3)
    sheet = np.full(size, 255, np.uint8)
    for r, row in enumerate(rows):
        for c, frame in enumerate(row):
            top, left = r * (height + _GAP_PX), c * (width + _GAP_PX)
            sheet[top : top + height, left : left + width] = frame
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _scenes(sheet: Sheet, names: list[str]) -> str:
    rows = []
    for scene_id, scene in sheet["scenes"].items():
        cells = [Cell("m", escape(scene_id)), Cell("", escape(scene["template"]))]
        rows.append([*cells, *(Cell("n", number(scene["values"].get(name))) for name in names)])
    heads = [escape(title_of(n)) + (f" ({u})" if (u := metric_of(n).unit) else "") for n in names]
    return "<h2>Scenes</h2>" + table(["scene", "camera plan", *heads], rows) if rows else ""


def _all(sheet: Sheet) -> str:
    rows = []
    for name in ordered_names(sheet):
        found = sheet["metrics"][name]
        ident = found.get("identity")
        if ident is None:
            continue
        weights = ident["weights_sha256"]
        rows.append(
            [
                Cell("m", escape(name)), Cell("n", number(found.get("mean"))), Cell("m", ident["id"]),
                Cell("", escape(f"{ident['backend']} {ident['backend_version']}")), Cell("m", weights[:12]),
                Cell("", escape(", ".join(f"{k}={v}" for k, v in ident["protocol"].items()))),
            ]
        )  # fmt: skip
    listed = table(["number", "mean", "identity", "backend", "weights", "protocol"], rows)
    return (
        "<h2>Identities</h2><p class=quiet>Two numbers may stand in one ranking only when their identity is the same: "
        f"metric, data and revision, protocol, backend, weights.</p><details><summary>All numbers</summary>{listed}"
        "</details>"
    )


def _published(sheet: Sheet) -> str:
    split = "hard" if "hard" in sheet["split"] else "simple"
    rows = [r for r in quoted("table2") if r["split"] == split]
    cells = [[Cell("", str(r["method"])), *(Cell("n", f"{r[c]:.2f}") for c in _QUOTED[1:])] for r in rows]
    return (
        f"<h2>Quoted, not measured here</h2><p class=quiet>Table 2 of arXiv 2605.15178, {split} split of the released "
        "set: other scenes, another estimator and another protocol than anything above. For orientation only.</p>"
        + table(["method", "RotErr (deg)", "TransErr (m)", "CamMC", "VBench overall"], cells)
    )
