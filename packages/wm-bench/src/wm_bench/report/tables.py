"""A score sheet as text: the headline in the paper's column order, a CSV of everything, Markdown."""

from __future__ import annotations

import csv
import io
import math
from typing import Any, NamedTuple

from wm_bench.metrics.catalogue import POSE, metric_of
from wm_bench.sheet import Sheet

# The paper's columns first, then what only known geometry allows.
_ORDER = (
    "rot_err_deg", "trans_err_m", "cam_mc", "vbench_quality", "revisit_psnr_db", "revisit_ssim", "revisit_lpips",
    "imaging_quality", "imaging_quality_first", "imaging_quality_last",
    "drift_imaging_quality", "ref_psnr_db", "ref_ssim", "warp_gap_db", "revisit_warp_gap_db",
    "drift_ref_psnr_db", "drift_sharpness", "proxy.sharpness", "flicker_tf", "vmaf",
)  # fmt: skip
CSV_COLUMNS = (
    "method", "split", "revision", "scene", "category", "template", "metric", "value", "unit", "status", "reason",
    "protocol", "backend", "backend_version", "weights_sha256", "identity", "video_sha256",
)  # fmt: skip


class Line(NamedTuple):
    """One number ready to print; `value` and `interval` are text, `note` says what is special about it."""

    name: str
    value: str
    interval: str
    floor: str
    unit: str
    better: str
    coverage: str
    note: str
    what: str
    identity: str


def ordered_names(sheet: Sheet) -> list[str]:
    """Metric names in reading order: the paper's first, camera numbers by protocol within an estimator."""

    def place(name: str) -> tuple[int, str]:
        base = name.partition("@")[0]
        return (_ORDER.index(base) if base in _ORDER else len(_ORDER), name.partition("@")[2] or name)

    return sorted(sheet["metrics"], key=place)


def headline_names(sheet: Sheet) -> list[str]:
    """The names of the short table: no secondary camera numbers, and one line for each thing that is unavailable."""
    secondary = set(POSE) - {"rot_err_deg", "trans_err_m", "cam_mc", "registered"}
    known = (*_ORDER, "registered")
    return [n for n in ordered_names(sheet) if n.partition("@")[0] not in secondary and n.partition("@")[0] in known]


def line_of(sheet: Sheet, name: str) -> Line:
    """One metric of a sheet as text."""
    found = sheet["metrics"][name]
    metric = metric_of(name)
    better = {"higher": "more", "lower": "less", "neither": ""}[metric.better]
    coverage = f"{found.get('n', 0)}/{found.get('expected', '?')}"
    if "mean" not in found:
        return Line(name, "unavailable", "", "", metric.unit, better, coverage, found["reason"], metric.what, "")
    low, high = found["ci95"]
    mean, interval = with_interval(found["mean"], low, high)
    floor = at_precision(found["floor"]["mean"], decimals_of(low, high)) if "floor" in found else ""
    note = ", ".join(f"{flag} in {count}" for flag, count in sorted(found.get("flagged", {}).items()))
    ident = found["identity"]["id"]
    return Line(
        name, mean, interval, floor, metric.unit, better, coverage, note, metric.what, ident
    )  # fmt: skip


def is_open(sheet: Sheet, name: str) -> bool:
    """Whether every scene's alignment is in doubt, so that the number would show the doubt and not the camera."""
    found = sheet["metrics"].get(name, {})
    return bool(max(found.get("flagged", {}).values(), default=0) >= max(found.get("n", 1), 1))


def one_of_each(sheet: Sheet, names: list[str]) -> list[str]:
    """The first protocol of each camera number whose alignment is not open in every scene, and all other names."""
    first: dict[str, str] = {}
    for name in sorted(names, key=lambda name: is_open(sheet, name)):
        first.setdefault(name.partition("@")[0], name)
    return [name for name in names if name in first.values()]


def scenes_words(count: int) -> str:
    """1 scene, 2 scenes."""
    return f"{count} scene{'' if count == 1 else 's'}"


def number(value: float | None) -> str:
    """Four significant digits, never in powers of ten."""
    if value is None:
        return ""
    if value == 0 or abs(value) < 5e-5:
        return "0"
    digits = max(0, 3 - int(f"{abs(value):e}".partition("e")[2]))
    return f"{value:.{min(digits, 4)}f}"


def interval_words(low: float | None, high: float | None) -> str:
    """Both ends of an interval, or nothing when there is none."""
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def decimals_of(low: float | None, high: float | None) -> int | None:
    """Decimals at which half of an interval has two digits that count, at most 4; None without an interval."""
    if low is None or high is None or high <= low:
        return None
    return min(max(1 - math.floor(math.log10((high - low) / 2)), 0), 4)


def at_precision(value: float, decimals: int | None) -> str:
    """A value at so many decimals; at four digits that count where those would leave nothing of it, or without any."""
    if decimals is None or (value and not float(f"{value:.{decimals}f}")):
        return number(value)
    return f"{value:.{decimals}f}"


def with_interval(mean: float, low: float | None, high: float | None) -> tuple[str, str]:
    """A mean and its interval as text, to the decimals that the interval's width allows."""
    decimals = decimals_of(low, high)
    if decimals is None:
        return number(mean), interval_words(low, high)
    assert low is not None and high is not None
    return at_precision(mean, decimals), f"{at_precision(low, decimals)} to {at_precision(high, decimals)}"


def few_scenes_words(rows: list[dict[str, Any]]) -> str:
    """A warning where so few scenes are shared that the paired test cannot reach 5 %, or nothing."""
    least = min((row["n"] for row in rows), default=6)
    if least >= 6:
        return ""
    return (
        f"Only {scenes_words(least)} {'is' if least == 1 else 'are'} shared: the paired test cannot go below "
        f"p = {2.0 ** (1 - least):g}, and intervals of so few are too narrow; take the named leader as a hint."
    )


def coverage_words(sheet: Sheet) -> str:
    """Whether the sheet carries headline numbers, in one sentence."""
    c = sheet["coverage"]
    if c["headline"]:
        return f"Full coverage: {c['scored']} of {c['headline_needs']} scenes; these are headline numbers."
    return (
        f"Partial coverage: {c['scored']} of {c['in_split']} scenes of this run were scored and a headline needs "
        f"{c['headline_needs']}; nothing here is a headline number."
    )


def score_markdown(sheet: Sheet) -> str:
    """The sheet as Markdown: coverage, the short table, what is unavailable, findings and identities."""
    lines = [line_of(sheet, name) for name in headline_names(sheet)]
    out = [f"# {sheet['method']} on {sheet['split']}", "", coverage_words(sheet), ""]
    out += [
        "| metric | mean | 95 % interval | floor | unit | better | scenes | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    out += [
        f"| {x.name} | {x.value} | {x.interval} | {x.floor} | {x.unit} | {x.better} | {x.coverage} | {x.note} |"
        for x in lines
        if x.value != "unavailable"
    ]
    missing = [x for x in lines if x.value == "unavailable"]
    if missing:
        out += ["", "Not measured:", "", *(f"- {x.name}: {x.note}" for x in missing)]
    if sheet["findings"]:
        out += ["", "Findings:", ""]
        out += [f"- {f['level']} {f['code']} {f['scene']}: {f['message']}" for f in sheet["findings"]]
    out += ["", "Identities (numbers with different ones are never ranked together):", ""]
    out += [f"- {name}: {_identity_words(sheet['metrics'][name]['identity'])}" for name in headline_names(sheet)
            if "identity" in sheet["metrics"][name] and "mean" in sheet["metrics"][name]]  # fmt: skip
    return "\n".join(out) + "\n"


def _identity_words(ident: dict[str, Any]) -> str:
    weights = ident["weights_sha256"]
    short = weights if weights == "none" else weights[:12]
    return (
        f"{ident['id']} = {ident['dataset']} {ident['revision']}, {ident['backend']} {ident['backend_version']}, "
        f"weights {short}"
    )


def score_csv(sheet: Sheet) -> str:
    """Every number of every scene, one line each, with its identity; missing ones with their reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    start = [sheet["method"], sheet["split"], sheet["revision"]]
    for scene_id, scene in sheet["scenes"].items():
        for name in ordered_names(sheet):
            value = scene["values"].get(name)
            found = sheet["metrics"][name]
            ident = found.get("identity", {})
            reason = scene["reasons"].get(name) or found.get("reason", "")
            protocol = name.partition("@")[2].partition("/")[0] if "/" in name else ""
            status = ["ok", ""] if value is not None else ["unavailable", reason]
            writer.writerow(
                [
                    *start, scene_id, scene["category"], scene["template"], name, "" if value is None else repr(value),
                    metric_of(name).unit, *status, protocol, ident.get("backend", ""), ident.get("backend_version", ""),
                    ident.get("weights_sha256", ""), ident.get("id", ""), scene["sha256"],
                ]
            )  # fmt: skip
    for scene_id in sheet["coverage"]["missing"]:
        reasons = "; ".join(f["message"] for f in sheet["findings"] if f["scene"] == scene_id)
        blank = [""] * (len(CSV_COLUMNS) - len(start) - 8)
        writer.writerow([*start, scene_id, "", "", "", "", "", "not scored", reasons, *blank])
    return text.getvalue()
