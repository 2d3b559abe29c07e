"""Does the benchmark order methods whose order is known? Gaps between neighbours, paired by scene, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from wm_bench.comparison import paired_values
from wm_bench.sheet import Sheet, clean
from wm_bench.statistics import bootstrap_mean, paired_p_value


class Rung(NamedTuple):
    """`ahead` must beat `behind` in a metric, whatever protocol and estimator measured it."""

    metric: str
    ahead: str
    behind: str


def ladder(model: str) -> list[Rung]:
    """What must hold for any world model that follows its camera at all, beside `bench run`'s baselines.

    The exact render is nearest to itself; a picture that never moves shows the truth less than the model does, and so
    does the model on other scenes' paths; only in flicker and in memory of places a still cannot be beaten.
    """
    shuffled = f"{model}-shuffled"
    rungs = []
    for metric in ("ref_psnr_db", "ref_ssim"):
        rungs += [Rung(metric, "render", model), Rung(metric, model, shuffled)]
    rungs.append(Rung("ref_psnr_db", model, "still"))
    rungs += [Rung("warp_gap_db", "render", model), Rung("warp_gap_db", model, "still")]
    for metric in ("rot_err_deg", "cam_mc"):
        rungs += [Rung(metric, "render", model), Rung(metric, model, shuffled)]
    return [*rungs, Rung("flicker_tf", "still", model), Rung("revisit_psnr_db", "still", model)]


def climb(sheets: Mapping[str, Sheet], rungs: list[Rung]) -> list[dict[str, Any]]:
    """Measure every rung: a row per rung, and per protocol and estimator where there are several.

    A row has the gap, turned so that more than zero is as it must be, its 95 % paired bootstrap interval, the p-value
    of the paired sign-flip test, the scenes, and a verdict: "yes" when the interval lies above zero, "no" when it lies
    below, "open" when it holds zero or there is none, "not measured" with the reason. Numbers whose alignment is
    flagged as open (a straight path under paper-sim3) say nothing about an order and are refused.
    """
    rows: list[dict[str, Any]] = []
    for rung in rungs:
        if rung.ahead not in sheets or rung.behind not in sheets:
            continue
        ahead, behind = sheets[rung.ahead], sheets[rung.behind]
        names = [n for n in ahead["metrics"] if n.partition("@")[0] == rung.metric and n in behind["metrics"]]
        rows += [_row(rung, name, ahead, behind) for name in names]
    plain: list[dict[str, Any]] = clean(rows)
    return plain


def _row(rung: Rung, name: str, ahead: Sheet, behind: Sheet) -> dict[str, Any]:
    row: dict[str, Any] = {"metric": name, "ahead": rung.ahead, "behind": rung.behind}
    lacking = {
        method: sheet["metrics"][name].get("reason", "")
        for method, sheet in ((rung.ahead, ahead), (rung.behind, behind))
        if "mean" not in sheet["metrics"][name]
    }
    if lacking:
        reason = "; ".join(f"{method}: {why}" for method, why in lacking.items())
        return row | {"verdict": "not measured", "reason": reason}
    if ahead["metrics"][name]["identity"]["id"] != behind["metrics"][name]["identity"]["id"]:
        return row | {"verdict": "not measured", "reason": "the numbers have different identities"}
    flags = {**ahead["metrics"][name].get("flagged", {}), **behind["metrics"][name].get("flagged", {})}
    if flags:
        reason = ", ".join(f"{flag} in {count} scenes" for flag, count in sorted(flags.items()))
        return row | {"verdict": "not measured", "reason": f"the alignment is open: {reason}"}
    _, better, worse = paired_values(name, ahead, behind)
    if not len(better):
        return row | {"verdict": "not measured", "reason": "no scene has the number for both"}
    sign = -1.0 if ahead["metrics"][name]["better"] == "lower" else 1.0
    gap = bootstrap_mean(sign * (better - worse))
    verdict = "open"
    if np.isfinite(gap.low) and (gap.low > 0 or gap.high < 0):
        verdict = "yes" if gap.low > 0 else "no"
    return row | {
        "unit": ahead["metrics"][name]["unit"],
        "value_ahead": float(better.mean()),
        "value_behind": float(worse.mean()),
        "gap": gap.mean,
        "low": gap.low,
        "high": gap.high,
        "p": paired_p_value(better - worse),
        "n": len(better),
        "verdict": verdict,
    }
