"""What every report page is made of: one HTML file, pictures inside, no scripts, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22252b;background:#fff;max-width:1080px;margin:0 auto;padding:28px 22px}
h1{font-size:27px;line-height:1.2;margin:0 0 4px}h2{font-size:18px;margin:38px 0 10px}
p{margin:6px 0}.quiet{color:#565b64;font-size:13.5px}ul{margin:6px 0;padding-left:20px}
.banner{border-left:4px solid #c2541b;background:#fbf3ee;padding:9px 13px;margin:16px 0}
.banner.full{border-color:#3f7d4e;background:#eff6f0}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}
.tiles div{flex:1 1 150px;border:1px solid #e6e8ec;border-radius:6px;padding:10px 13px;font-size:13px;line-height:1.4}
.tiles b{display:block;font-size:23px;line-height:1.35;font-variant-numeric:tabular-nums;white-space:nowrap}
.tiles b small{font-size:14px;font-weight:400}
table{border-collapse:collapse;font-size:13.5px;width:100%}th{text-align:left;color:#565b64;font-weight:600}
th,td{padding:5px 14px 5px 0;border-bottom:1px solid #e6e8ec;vertical-align:top}th{vertical-align:bottom}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}td.m{font-family:ui-monospace,monospace}
code{font-family:ui-monospace,monospace;font-size:12.5px}td code{color:#565b64}td code,td.k{white-space:nowrap}
.wide{overflow-x:auto}.grid{display:flex;flex-wrap:wrap;gap:10px 18px}svg{max-width:100%;height:auto}
svg.mark{width:110px;height:16px;display:block}
.strip{margin:14px 0 20px}.strip img{width:100%;min-width:640px;display:block}
details{margin:8px 0}summary{cursor:pointer}
@media(max-width:700px){body{padding:18px 14px}table{width:max-content;min-width:100%}td{max-width:230px}
.grid{justify-content:center}}
"""
GOOD, BAD, OPEN, FIRST, SECOND = "#3f7d4e", "#c2541b", "#8a8f98", "#3b6ea5", "#c2541b"
"""Colours of marks: as it must be, the wrong way round, undecided, and one for each of two methods."""


class Cell(NamedTuple):
    """A cell's class ("n" number, "m" monospace, "k" kept on one line, "" plain) and its HTML."""

    kind: str
    html: str


def document(title: str, body: Sequence[str]) -> str:
    """A whole page: nothing in it is loaded from anywhere."""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>" + "\n".join(filter(None, body))
    ) + "</body></html>\n"


def section(title: str, words: str, content: str) -> str:
    """A heading, a line of explanation and the content; nothing when there is no content."""
    if not content:
        return ""
    return f"<h2>{title}</h2>" + (f"<p class=quiet>{words}</p>" if words else "") + content


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table that scrolls by itself where the screen is narrow; a heading stands over its column as the cells do."""
    kinds = [cell.kind for cell in rows[0]] if rows else [""] * len(heads)
    head = "".join(f"<th{' class=n' if kind == 'n' else ''}>{h}</th>" for kind, h in zip(kinds, heads, strict=True))
    lines = "".join(
        "<tr>"
        + "".join(f"<td class={cell.kind}>{cell.html}</td>" if cell.kind else f"<td>{cell.html}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def grid(pictures: Sequence[str]) -> str:
    """Pictures side by side, as many as fit."""
    return f"<div class=grid>{''.join(pictures)}</div>" if pictures else ""


def named(title: str, name: str) -> str:
    """A name for people above the name in the files."""
    return escape(title) if title == name else f"{escape(title)}<br><code>{escape(name)}</code>"


def interval_mark(low: float | None, mean: float, high: float | None, colour: str) -> str:
    """An interval as a line with its mean as a dot and zero as a stroke, scaled to its own larger end."""
    if low is None or high is None:
        return ""
    reach = max(abs(low), abs(high), 1e-12)
    a, m, b = (55 + 48 * value / reach for value in (low, mean, high))
    return (
        "<svg class=mark viewBox='0 0 110 16' role=img><path d='M55 1v14' stroke='#8a8f98'/>"
        f"<path d='M{a:.1f} 8H{b:.1f}' stroke='{colour}' stroke-width='2.4'/>"
        f"<circle cx='{m:.1f}' cy='8' r='3.6' fill='{colour}'/></svg>"
    )
