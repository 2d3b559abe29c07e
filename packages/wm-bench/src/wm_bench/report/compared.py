"""Two methods side by side as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from wm_bench.metrics.catalogue import title_of
from wm_bench.report.parts import FIRST, OPEN, SECOND, Cell, document, interval_mark, named, table
from wm_bench.report.tables import few_scenes_words, number, with_interval
from wm_bench.report.write import write_text


def compare_table(comparison: dict[str, Any]) -> str:
    """The comparison as a Markdown table, with what was refused below."""
    a, b = comparison["a"], comparison["b"]
    out = [f"| number | {a} | {b} | difference | 95 % interval | p | scenes | better |", "|" + 8 * "---|"]
    for r in comparison["rows"]:
        difference, interval = with_interval(r["difference"], r["low"], r["high"])
        better = {"a": a, "b": b, "open": "open"}[r["winner"]]
        cells = [r["metric"], number(r["a"]), number(r["b"]), difference, interval, f"{r['p']:.3g}"]
        out.append(f"| {' | '.join([*cells, str(r['n']), better])} |")
    out += ["", *(f"not compared: {r['metric']} differs in {', '.join(r['differs'])}" for r in comparison["refused"])]
    words = few_scenes_words(comparison["rows"])
    if words:
        out.append(words)
    if not comparison["headline"]:
        out.append("Partial coverage: nothing here is a headline number.")
    return "\n".join(out).rstrip() + "\n"


def write_comparison(comparison: dict[str, Any], folder: Path) -> list[Path]:
    """Write compare.json, compare.md and compare.html into a folder."""
    return [
        write_text(folder / "compare.json", json.dumps(comparison, indent=1, sort_keys=True, allow_nan=False) + "\n"),
        write_text(folder / "compare.md", compare_table(comparison)),
        write_text(folder / "compare.html", compare_page(comparison)),
    ]


def compare_page(comparison: dict[str, Any]) -> str:
    """The report of two methods, paired by scene."""
    a, b = escape(comparison["a"]), escape(comparison["b"])
    colours, leaders = {"a": FIRST, "b": SECOND, "open": OPEN}, {"a": a, "b": b, "open": "open"}
    rows = [
        [
            Cell("", named(title_of(r["metric"]), r["metric"])), Cell("n", number(r["a"])), Cell("n", number(r["b"])),
            *(Cell("n", words) for words in with_interval(r["difference"], r["low"], r["high"])),
            Cell("", interval_mark(r["low"], r["difference"], r["high"], colours[r["winner"]])),
            Cell("n", f"{r['p']:.3g}"), Cell("n", str(r["n"])), Cell("", leaders[r["winner"]]),
        ]
        for r in comparison["rows"]
    ]  # fmt: skip
    heads = ["number", a, b, f"{b} less {a}", "95 % interval", "below | above 0", "p", "scenes", "better"]
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
        "<p class=quiet>Better is named only when the interval leaves out zero and the number has a direction. Each "
        f"interval is drawn to its own scale. {few_scenes_words(comparison['rows'])}</p>",
        f"<h2>Not compared</h2><ul>{refused}</ul>" if refused else "",
    ]
    return document(f"{comparison['a']} and {comparison['b']}", body)
