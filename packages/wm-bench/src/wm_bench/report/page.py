"""Report pages: one HTML file each, with pictures inside, no scripts and nothing loaded from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm_bench.quoted import quoted
from wm_bench.report.clips import ClipStrip
from wm_bench.report.plots import bars_svg, curves_svg, differences_svg, paths_svg
from wm_bench.report.tables import (
    coverage_words,
    few_scenes_words,
    headline_names,
    interval_words,
    line_of,
    number,
    ordered_names,
)
from wm_bench.sheet import Sheet

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22252b;background:#fff;max-width:1080px;margin:0 auto;padding:28px 22px}
h1{font-size:27px;line-height:1.2;margin:0 0 4px}h2{font-size:18px;margin:38px 0 10px}
p{margin:6px 0}.quiet{color:#565b64;font-size:13.5px}
.banner{border-left:4px solid #c2541b;background:#fbf3ee;padding:9px 13px;margin:16px 0}
.banner.full{border-color:#3f7d4e;background:#eff6f0}
table{border-collapse:collapse;font-size:13.5px;width:100%}th{text-align:left;color:#565b64;font-weight:600}
th,td{padding:4px 10px 4px 0;border-bottom:1px solid #e6e8ec;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.m{font-family:ui-monospace,monospace}
.wide{overflow-x:auto}svg{max-width:100%;height:auto}.strip{margin:14px 0 20px}.strip img{width:100%;display:block}
code{font-family:ui-monospace,monospace;font-size:13px}details{margin:8px 0}summary{cursor:pointer}
"""
_QUOTED = ("method", "rot_err_deg", "trans_err_m", "cam_mc", "overall")
_GAP_PX = 3
BETTER = "Only numbers of one identity, over the same scenes."


def score_page(sheet: Sheet, strips: Sequence[ClipStrip]) -> str:
    """The report of one method on one split."""
    c = sheet["coverage"]
    names = headline_names(sheet)
    bars = [n for n in names if "mean" in sheet["metrics"][n] and not n.startswith("registered")]
    body = [
        f"<h1>{escape(sheet['method'])}</h1>",
        f"<p class=quiet>{escape(sheet['split'])}, {escape(sheet['revision'])}, {c['scored']} scenes</p>",
        f"<div class='banner{' full' if c['headline'] else ''}'>{escape(coverage_words(sheet))}</div>",
        _numbers(sheet, names),
        _missing(sheet, names),
        _findings(sheet),
        section(
            "Over time",
            "Mean over scenes; the band holds eight scenes of ten. A protocol whose alignment is open in every scene "
            "is left out.",
            curves_svg(sheet),
        ),
        section(
            "Paths from above",
            "Metres; the path that was asked for is solid, the estimated one dashed; dots are the start.",
            paths_svg(sheet),
        ),
        section("By category", "Bars are means of a category's scenes, the line is the mean.", bars_svg(sheet, bars)),
        _clips(strips),
        _scenes(sheet, bars[:8]),
        _all(sheet),
        _published(sheet),
    ]
    return document(f"{sheet['method']} on {sheet['split']}", body)


def compare_page(comparison: dict[str, Any]) -> str:
    """The report of two methods, paired by scene."""
    a, b = escape(comparison["a"]), escape(comparison["b"])
    rows = [
        [
            ("m", escape(r["metric"])), ("n", number(r["a"])), ("n", number(r["b"])), ("n", number(r["difference"])),
            ("n", interval_words(r["low"], r["high"])), ("n", f"{r['p']:.3g}"), ("n", str(r["n"])),
            ("", {"a": a, "b": b, "open": "open"}[r["winner"]]),
        ]
        for r in comparison["rows"]
    ]  # fmt: skip
    heads = ["metric", a, b, "b - a", "95 % interval", "p", "scenes", "better"]
    refused = "".join(
        f"<li><code>{escape(r['metric'])}</code>: differs in {escape(', '.join(r['differs']))}</li>"
        for r in comparison["refused"]
    )
    words = "Both methods cover the whole split." if comparison["headline"] else "Partial coverage: no headline."
    body = [
        f"<h1>{a} and {b}</h1>",
        f"<p class=quiet>{escape(comparison['split'])}; only scenes that both have, paired.</p>",
        f"<div class='banner{' full' if comparison['headline'] else ''}'>{words}</div>",
        table(heads, rows),
        "<p class=quiet>Better is named only when the interval leaves out zero and the number has a direction. "
        f"{few_scenes_words(comparison['rows'])}</p>",
        f"<h2>Not compared</h2><ul>{refused}</ul>" if refused else "",
        section("Differences", "", differences_svg(comparison["rows"])),
    ]
    return document(f"{comparison['a']} and {comparison['b']}", body)


def document(title: str, body: list[str]) -> str:
    """A whole page: nothing in it is loaded from anywhere."""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>" + "\n".join(filter(None, body))
    ) + "</body></html>\n"


def section(title: str, words: str, content: str) -> str:
    """A heading, a line of explanation and the content; nothing when there is no content."""
    if not content:
        return ""
    return f"<h2>{title}</h2>" + (f"<p class=quiet>{words}</p>" if words else "") + f"<div class=wide>{content}</div>"


def table(heads: list[str], rows: list[list[tuple[str, str]]]) -> str:
    """A table; a cell is its class ("n" number, "m" monospace, "" plain) and its HTML."""
    head = "".join(f"<th>{h}</th>" for h in heads)
    lines = "".join(
        "<tr>"
        + "".join(f"<td class={kind}>{text}</td>" if kind else f"<td>{text}</td>" for kind, text in row)
        + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def _numbers(sheet: Sheet, names: list[str]) -> str:
    lines = [line_of(sheet, name) for name in names]
    rows = [
        [
            ("m", escape(x.name)), ("n", x.value), ("n", x.interval), ("n", x.floor), ("", x.unit), ("", x.better),
            ("n", x.coverage), ("", escape(x.what) + (f"; flagged: {escape(x.note)}" if x.note else "")),
        ]
        for x in lines
        if x.value != "unavailable"
    ]  # fmt: skip
    heads = ["number", "mean", "95 % interval", "floor", "unit", "better is", "scenes", "what it is"]
    note = (
        "<p class=quiet>Camera numbers are named number@protocol/estimator. The floor is what the same estimator makes "
        "of the exact render at the same size: an error near it is the estimator's, not the model's.</p>"
    )
    return "<h2>Numbers</h2>" + table(heads, rows) + note


def _missing(sheet: Sheet, names: list[str]) -> str:
    lines = [line_of(sheet, name) for name in names]
    items = "".join(
        f"<li><code>{escape(x.name)}</code>: {escape(x.note)}</li>" for x in lines if x.value == "unavailable"
    )
    return f"<h2>Not measured</h2><ul class=quiet>{items}</ul>" if items else ""


def _findings(sheet: Sheet) -> str:
    if not sheet["findings"]:
        return ""
    rows = [
        [("", f["level"]), ("m", f["scene"]), ("", f["code"]), ("", escape(f["message"]))] for f in sheet["findings"]
    ]
    return "<h2>Findings</h2>" + table(["level", "scene", "code", "what is wrong"], rows)


def _clips(strips: Sequence[ClipStrip]) -> str:
    if not strips:
        return ""
    parts = []
    for strip in strips:
        rows = [strip.frames] if strip.truth is None else [strip.frames, strip.truth]
        times = ", ".join(f"{t:g}" for t in strip.times_s)
        below = "" if strip.truth is None else "; below: the exact render"
        parts.append(
            f"<div class=strip><p><b>{escape(strip.scene)}</b> <span class=quiet>{escape(strip.words)}; at {times} s"
            f"{below}</span></p><img alt='frames of {escape(strip.scene)}' src='{_picture(rows)}'></div>"
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
        cells = [("m", escape(scene_id)), ("", escape(scene["template"]))]
        rows.append([*cells, *(("n", number(scene["values"].get(name))) for name in names)])
    return "<h2>Scenes</h2>" + table(["scene", "camera plan", *map(escape, names)], rows) if rows else ""


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
                ("m", escape(name)), ("n", number(found.get("mean"))), ("m", ident["id"]),
                ("", escape(f"{ident['backend']} {ident['backend_version']}")), ("m", weights[:12]),
                ("", escape(", ".join(f"{k}={v}" for k, v in ident["protocol"].items()))),
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
    cells = [[("", str(r["method"])), *(("n", f"{r[c]:g}") for c in _QUOTED[1:])] for r in rows]
    return (
        f"<h2>Quoted, not measured here</h2><p class=quiet>Table 2 of arXiv 2605.15178, {split} split of the released "
        "set: other scenes, another estimator and another protocol than anything above. For orientation only.</p>"
        + table(["method", "RotErr (deg)", "TransErr (m)", "CamMC", "VBench overall"], cells)
    )
