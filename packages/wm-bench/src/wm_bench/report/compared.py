"""Two methods side by side as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wm_bench.report.page import compare_page
from wm_bench.report.tables import few_scenes_words, interval_words, number
from wm_bench.report.write import write_text


def compare_table(comparison: dict[str, Any]) -> str:
    """The comparison as a Markdown table, with what was refused below."""
    a, b = comparison["a"], comparison["b"]
    out = [f"| number | {a} | {b} | difference | 95 % interval | p | scenes | better |", "|" + 8 * "---|"]
    for r in comparison["rows"]:
        interval = interval_words(r["low"], r["high"])
        better = {"a": a, "b": b, "open": "open"}[r["winner"]]
        cells = [r["metric"], number(r["a"]), number(r["b"]), number(r["difference"]), interval, f"{r['p']:.3g}"]
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
