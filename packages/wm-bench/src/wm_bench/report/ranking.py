"""Several methods in one place: who leads in what, and whether known orders came out as they must."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from wm_bench.comparison import rank
from wm_bench.metrics.catalogue import title_of
from wm_bench.report.parts import BAD, GOOD, OPEN, Cell, document, interval_mark, named, section, table
from wm_bench.report.tables import coverage_words, few_scenes_words, headline_names, is_open, number, with_interval
from wm_bench.report.write import write_text
from wm_bench.sheet import Sheet

_VERDICTS = {"yes": "as it must be", "no": "the wrong way round", "open": "open", "not measured": "not measured"}
_COLOURS = {"yes": GOOD, "no": BAD, "open": OPEN}
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


class Order(NamedTuple):
    """Methods from best to worst with their means, and those that have no such number."""

    placed: list[tuple[str, float]]
    absent: list[str]


def orders(sheets: Mapping[str, Sheet]) -> dict[str, Order]:
    """The order in every metric in which at least two methods can be ranked together and no alignment is open."""
    found = {}
    for metric in sorted(set().union(*(sheet["metrics"] for sheet in sheets.values()))):
        having = {m: s for m, s in sheets.items() if "mean" in s["metrics"].get(metric, {})}
        if len(having) < 2 or any(is_open(sheet, metric) for sheet in having.values()):
            continue
        try:
            placed = rank(list(having.values()), metric)
        except ValueError:
            continue  # no direction, another identity or coverage: not a ranking
        found[metric] = Order(placed, [method for method in sheets if method not in having])
    return found


def ranking_markdown(sheets: Mapping[str, Sheet], rows: list[dict[str, Any]]) -> str:
    """Gaps between methods of known order, then the order in every metric, as Markdown."""
    out = ["# Ranking", "", _coverage(sheets), "", f"| {' | '.join(_HEADS)} |", "|" + len(_HEADS) * "---|"]
    out += [f"| {' | '.join(_cells(row))} |" for row in rows]
    out += ["", _doubts(rows), "", "| number | best to worst |", "|---|---|"]
    out += [f"| {metric} | {_order_words(order)} |" for metric, order in _chief(sheets).items()]
    return "\n".join(out) + "\n"


def write_ranking(sheets: Mapping[str, Sheet], rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write ranking.json, ranking.md and ranking.html into a folder."""
    ordered = orders(sheets)
    record = {
        "gaps": rows,
        "orders": {metric: [list(pair) for pair in order.placed] for metric, order in ordered.items()},
        "not_placed": {metric: order.absent for metric, order in ordered.items() if order.absent},
    }
    return [
        write_text(folder / "ranking.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"),
        write_text(folder / "ranking.md", ranking_markdown(sheets, rows)),
        write_text(folder / "ranking.html", _page(sheets, rows)),
    ]


def _page(sheets: Mapping[str, Sheet], rows: list[dict[str, Any]]) -> str:
    heads = ["number", "must lead", "must follow", "gap", "95 % interval", "below | above 0", "p", "scenes", "order"]
    order = [
        [Cell("", named(title_of(metric), metric)), Cell("", escape(_order_words(found)))]
        for metric, found in _chief(sheets).items()
    ]
    words = (
        "Each line is a pair of methods whose order is known beforehand. The gap is turned so that more than zero is "
        "as it must be; its interval is a paired bootstrap over scenes, drawn to its own scale."
    )
    first = next(iter(sheets.values()))
    counts = {word: sum(row["verdict"] == verdict for row in rows) for verdict, word in _VERDICTS.items()}
    body = [
        "<h1>Ranking</h1>",
        f"<p class=quiet>{escape(first['split'])}, {escape(first['revision'])}: {escape(', '.join(sheets))}</p>",
        f"<div class=banner>{escape(_coverage(sheets))}</div>",
        f"<p><b>Of {len(rows)} known orders: {', '.join(f'{n} {word}' for word, n in counts.items() if n)}.</b></p>",
        section(
            "Best to worst",
            "Numbers of one identity, over the same scenes, no alignment in doubt.",
            table(["number", "order"], order),
        ),
        section("Known orders", words, table(heads, [_shown(row) for row in _measured(rows)])),
        f"<p class=quiet>{_doubts(rows)}</p>",
        section("Not measured", "", _unmeasured(rows)),
    ]
    return document("Ranking", body)


def _shown(row: dict[str, Any]) -> list[Cell]:
    gap, interval = with_interval(row["gap"], row["low"], row["high"])
    return [
        Cell("", named(title_of(row["metric"]), row["metric"])),
        Cell("k", f"{escape(row['ahead'])}<br>{number(row['value_ahead'])}"),
        Cell("k", f"{escape(row['behind'])}<br>{number(row['value_behind'])}"),
        Cell("n", escape(f"{gap} {row['unit']}".rstrip())),
        Cell("n", interval),
        Cell("", interval_mark(row["low"], row["gap"], row["high"], _COLOURS[row["verdict"]])),
        Cell("n", f"{row['p']:.3g}"),
        Cell("n", str(row["n"])),
        Cell("k", _VERDICTS[row["verdict"]]),
    ]


def _order_words(order: Order) -> str:
    words = ""
    for place, (method, value) in enumerate(order.placed):
        tied = place > 0 and value == order.placed[place - 1][1]
        words += f"{(' = ' if tied else ', ') if place else ''}{method} {number(value)}"
    return f"{words} (no number: {', '.join(order.absent)})" if order.absent else words


def _chief(sheets: Mapping[str, Sheet]) -> dict[str, Order]:
    """The orders in the numbers of the short table, in its order; the JSON file has all."""
    found = orders(sheets)
    names = dict.fromkeys(name for sheet in sheets.values() for name in headline_names(sheet))
    return {name: found[name] for name in names if name in found and not name.startswith("registered")}


def _doubts(rows: list[dict[str, Any]]) -> str:
    """What a reader should hold against the intervals: few scenes, and tests that do not agree with them."""
    measured = _measured(rows)
    apart = sum(row["verdict"] != "open" and row["p"] > 0.05 for row in measured)
    words = [few_scenes_words(measured)]
    if apart:
        words.append(
            f"In {apart} of these {len(measured)} lines the interval leaves out zero but the sign-flip test does not "
            "reach p = 0.05; they are hints until more scenes are scored."
        )
    return " ".join(filter(None, words))


def _unmeasured(rows: list[dict[str, Any]]) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["verdict"] == "not measured":
            pair = f"<code>{escape(row['metric'])}</code> {escape(row['ahead'])} over {escape(row['behind'])}"
            reasons.setdefault(row["reason"], []).append(pair)
    items = "".join(f"<li>{escape(reason)}: {', '.join(pairs)}</li>" for reason, pairs in reasons.items())
    return f"<ul class=quiet>{items}</ul>" if items else ""


def _coverage(sheets: Mapping[str, Sheet]) -> str:
    worst = min(sheets.values(), key=lambda sheet: sheet["coverage"]["scored"])
    return coverage_words(worst)


def _measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["verdict"] != "not measured"]


def _cells(row: dict[str, Any]) -> list[str]:
    start = [row["metric"], row["ahead"], row["behind"]]
    if row["verdict"] == "not measured":
        return [*start, "", "", "", "", "", "", f"not measured: {row['reason']}"]
    gap, interval = with_interval(row["gap"], row["low"], row["high"])
    return [
        *start,
        number(row["value_ahead"]),
        number(row["value_behind"]),
        f"{gap} {row['unit']}".rstrip(),
        interval,
        f"{row['p']:.3g}",
        str(row["n"]),
        _VERDICTS[row["verdict"]],
    ]
