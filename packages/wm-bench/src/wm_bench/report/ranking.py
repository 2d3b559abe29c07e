"""Several methods in one place: who leads in what, and whether known orders came out as they must."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from wm_bench.comparison import rank
from wm_bench.report.page import BETTER, document, section, table
from wm_bench.report.plots import differences_svg
from wm_bench.report.tables import coverage_words, few_scenes_words, interval_words, number
from wm_bench.report.write import write_text
from wm_bench.sheet import Sheet

_VERDICTS = {"yes": "as it must be", "no": "the wrong way round", "open": "open", "not measured": "not measured"}
_HEADS = [
    "number",
    "must lead",
    "must follow",
    "its mean",
    "their mean",
    "gap",
    "95 % interval",
    "p",
    "scenes",
    "order",
]


def orders(sheets: Mapping[str, Sheet]) -> dict[str, list[tuple[str, float]]]:
    """Methods from best to worst by every metric in which they can be ranked together."""
    shared = sorted(set.intersection(*(set(sheet["metrics"]) for sheet in sheets.values())))
    found = {}
    for metric in shared:
        try:
            found[metric] = rank(list(sheets.values()), metric)
        except ValueError:
            continue  # no direction, another identity or coverage: not a ranking
    return found


def ranking_markdown(sheets: Mapping[str, Sheet], rows: list[dict[str, Any]]) -> str:
    """Gaps between methods of known order, then the order in every metric, as Markdown."""
    out = ["# Ranking", "", _coverage(sheets), "", f"| {' | '.join(_HEADS)} |", "|" + len(_HEADS) * "---|"]
    out += [f"| {' | '.join(_cells(row))} |" for row in rows]
    out += ["", few_scenes_words(_measured(rows)), "", "| number | best to worst |", "|---|---|"]
    for metric, order in orders(sheets).items():
        out.append(f"| {metric} | {' > '.join(f'{method} {number(value)}' for method, value in order)} |")
    return "\n".join(out) + "\n"


def write_ranking(sheets: Mapping[str, Sheet], rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write ranking.json, ranking.md and ranking.html into a folder."""
    listed = {metric: [list(pair) for pair in order] for metric, order in orders(sheets).items()}
    record = {"gaps": rows, "orders": listed}
    return [
        write_text(folder / "ranking.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"),
        write_text(folder / "ranking.md", ranking_markdown(sheets, rows)),
        write_text(folder / "ranking.html", _page(sheets, rows)),
    ]


def _page(sheets: Mapping[str, Sheet], rows: list[dict[str, Any]]) -> str:
    kinds = ["m", "", "", *["n"] * 6, ""]
    cells = [list(zip(kinds, map(escape, _cells(row)), strict=True)) for row in rows]
    drawn = [
        {
            "metric": f"{row['metric']}: {row['ahead']} over {row['behind']}",
            "difference": row["gap"],
            "low": row["low"],
            "high": row["high"],
            "winner": {"yes": "b", "no": "a", "open": "open"}[row["verdict"]],
        }
        for row in _measured(rows)
    ]
    order = [
        [("m", escape(metric)), ("", " &gt; ".join(f"{escape(m)} {number(v)}" for m, v in found))]
        for metric, found in orders(sheets).items()
    ]
    words = (
        "Each line is a pair of methods whose order is known beforehand. The gap is turned so that more than zero is "
        "as it must be; its interval is a paired bootstrap over scenes."
    )
    first = next(iter(sheets.values()))
    body = [
        "<h1>Ranking</h1>",
        f"<p class=quiet>{escape(first['split'])}, {escape(first['revision'])}: {escape(', '.join(sheets))}</p>",
        f"<div class=banner>{escape(_coverage(sheets))}</div>",
        section("Known orders", words, table(_HEADS, cells)),
        f"<p class=quiet>{few_scenes_words(_measured(rows))}</p>",
        section(
            "Gaps", "", differences_svg(drawn, "gap, each line scaled to its own interval; right of 0 as it must be")
        ),
        section("Best to worst", BETTER, table(["number", "order"], order)),
    ]
    return document("Ranking", body)


def _coverage(sheets: Mapping[str, Sheet]) -> str:
    worst = min(sheets.values(), key=lambda sheet: sheet["coverage"]["scored"])
    return coverage_words(worst)


def _measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["verdict"] != "not measured"]


def _cells(row: dict[str, Any]) -> list[str]:
    start = [row["metric"], row["ahead"], row["behind"]]
    if row["verdict"] == "not measured":
        return [*start, "", "", "", "", "", "", f"not measured: {row['reason']}"]
    return [
        *start,
        number(row["value_ahead"]),
        number(row["value_behind"]),
        f"{number(row['gap'])} {row['unit']}".rstrip(),
        interval_words(row["low"], row["high"]),
        f"{row['p']:.3g}",
        str(row["n"]),
        _VERDICTS[row["verdict"]],
    ]
