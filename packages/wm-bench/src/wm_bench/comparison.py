"""Two score sheets side by side: paired per scene, only numbers that are the same number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_bench.sheet import Sheet, clean
from wm_bench.statistics import bootstrap_mean, paired_p_value

Array = NDArray[np.float64]


def compare(a: Sheet, b: Sheet) -> dict[str, Any]:
    """Compare two methods metric by metric on the scenes both have.

    A row: both means over the shared scenes, the mean difference b - a with its 95 % interval, the p-value of a paired
    sign-flip test, and the winner ("a", "b" or "open"), which is named only when the interval leaves out zero. Numbers
    of different identity are refused with the parts that differ. Raises ValueError when nothing can be compared.
    """
    rows, refused = [], []
    for name in a["metrics"]:
        ours, theirs = a["metrics"][name], b["metrics"].get(name)
        if theirs is None or "mean" not in ours or "mean" not in theirs:
            continue
        if ours["identity"]["id"] != theirs["identity"]["id"]:
            refused.append({"metric": name, "differs": _differences(ours["identity"], theirs["identity"])})
            continue
        row = _row(name, ours, a, b)
        if row is not None:
            rows.append(row)
    if not rows:
        reasons = sorted({part for r in refused for part in r["differs"]})
        why = f"they differ in {', '.join(reasons)}" if reasons else "they share no scored scene"
        raise ValueError(
            f"{a['method']!r} and {b['method']!r} cannot be compared: {why}; allowed: sheets of one split, revision "
            "and estimator"
        )
    headline = all(sheet["coverage"]["headline"] for sheet in (a, b))
    result: dict[str, Any] = clean(
        {
            "a": a["method"],
            "b": b["method"],
            "split": a["split"],
            "headline": headline,
            "rows": rows,
            "refused": refused,
        }
    )
    return result


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(key for key in one if key != "id" and one[key] != other.get(key))


def paired_values(name: str, a: Sheet, b: Sheet) -> tuple[list[str], Array, Array]:
    """Scenes for which both sheets have a number, and the number on each (n,)."""
    shared = [
        s
        for s in sorted(set(a["scenes"]) & set(b["scenes"]))
        if a["scenes"][s]["values"].get(name) is not None and b["scenes"][s]["values"].get(name) is not None
    ]
    left, right = (np.array([sheet["scenes"][s]["values"][name] for s in shared]) for sheet in (a, b))
    return shared, left, right


def _row(name: str, ours: dict[str, Any], a: Sheet, b: Sheet) -> dict[str, Any] | None:
    shared, left, right = paired_values(name, a, b)
    if not shared:
        return None
    interval = bootstrap_mean(right - left)
    winner = "open"
    if ours["better"] != "neither" and np.isfinite(interval.low) and (interval.low > 0 or interval.high < 0):
        winner = "b" if (interval.mean > 0) == (ours["better"] == "higher") else "a"
    return {
        "metric": name,
        "unit": ours["unit"],
        "better": ours["better"],
        "n": len(shared),
        "a": float(left.mean()),
        "b": float(right.mean()),
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p": paired_p_value(right - left),
        "winner": winner,
        "identity": ours["identity"]["id"],
    }


def rank(sheets: list[Sheet], metric: str) -> list[tuple[str, float]]:
    """Methods ordered by a metric, best first.

    Raises ValueError when an identity or the coverage differs, or the metric has no direction: such a list would not
    be a ranking.
    """
    found = [(sheet, sheet["metrics"].get(metric, {})) for sheet in sheets]
    missing = [sheet["method"] for sheet, m in found if "mean" not in m]
    if missing:
        raise ValueError(f"{metric} is missing for {', '.join(missing)}; allowed: a metric that every method has")
    if len({m["identity"]["id"] for _, m in found}) > 1:
        parts = sorted({d for _, m in found for d in _differences(found[0][1]["identity"], m["identity"])})
        raise ValueError(f"{metric} cannot be ranked: the numbers differ in {', '.join(parts)}")
    scenes = [
        frozenset(s for s, r in sheet["scenes"].items() if r["values"].get(metric) is not None) for sheet in sheets
    ]
    if len(set(scenes)) > 1:
        raise ValueError(f"{metric} cannot be ranked: the methods were scored on different scenes")
    if found[0][1]["better"] == "neither":
        raise ValueError(f"{metric} cannot be ranked: neither direction is better")
    sign = -1.0 if found[0][1]["better"] == "higher" else 1.0
    order = sorted(found, key=lambda pair: (sign * pair[1]["mean"], pair[0]["method"]))
    return [(sheet["method"], m["mean"]) for sheet, m in order]
