"""Result files of the released evaluator as a score sheet, checked on the way.

Imported numbers have identities of their own: they can be compared with other imported ones, never with numbers
measured here. Layout: benchmark specification 5.2.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_bench.metrics.vbench import DIMENSIONS, QUALITY, quality_score
from wm_bench.sheet import ClipResult, Sheet, build_sheet, identity
from wm_bench.splits.model import CATEGORIES, BenchScene, Split
from wm_bench.submission import Finding, Submission
from wm_bench.upstream import CAMERA, REVISIT

VERSION = "imported-1"
_TAG = "code-v1/imported"
_PER_CATEGORY = 20
_ROUNDING = 2e-3


def read_upstream(root: Path, method: str, split: str) -> Sheet:
    """Read what lies under ROOT for a method and a split: poses, revisits, VBench dimensions, windows.

    Values per scene become numbers with intervals and coverage; what upstream keeps only for the whole set stands under
    "whole_set". Angles without a unit, numbers that are not finite, unknown scenes and totals that contradict their own
    parts are findings. Raises ValueError when there is nothing to read.
    """
    folder, own = root / method / split, root / method / "eval" / split
    findings: list[Finding] = []
    results = {f"{c}_{n:03d}": ClipResult({}) for c in CATEGORIES for n in range(1, _PER_CATEGORY + 1)}
    skipped = _poses(_json(folder / "eval_poses.json", findings), results, findings)
    _revisits(_json(own / "revisit_consistency.json", findings), results, findings)
    for name in DIMENSIONS:
        _dimension(name, _json(own / f"eval_{name}_eval_results.json", findings), results, findings)
    whole = _whole_set(own, findings)
    known = {scene: result for scene, result in results.items() if result.values}
    if not known and not whole:
        raise ValueError(
            f"no result files of {method!r} on {split!r} in {root}; allowed: {method}/{split}/eval_poses.json and "
            f"{method}/eval/{split}/*.json"
        )
    bare = _bare_split(split)
    rules = {"version": VERSION, "evaluator": "released", "skip_first_frame": skipped}
    names = [f"{ours}@{_TAG}" for ours in CAMERA.values()] + [*REVISIT.values(), *DIMENSIONS, "vbench_quality"]
    present = [name for name in names if any(name in result.values for result in known.values())]
    identities = {name: identity(name, bare, rules, "released-evaluator", "unknown", "unknown") for name in present}
    info = _json(root / method / "method_info.json", findings) or {}
    findings += [Finding("error", scene, "missing", "no result") for scene in results if scene not in known]
    return build_sheet(bare, Submission(root, method, info, {}, findings), known, identities, {}) | {"whole_set": whole}


def _json(path: Path, findings: list[Finding]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict):
        return found
    findings.append(Finding("error", "", "unreadable", f"{path.name} is not a JSON object"))
    return None


def _number(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _poses(found: dict[str, Any] | None, results: dict[str, ClipResult], findings: list[Finding]) -> str:
    """Camera numbers; returns whether first frames were left out: "yes", "no" or "mixed"."""
    skipped = set()
    for scene, row in (found or {}).items():
        if scene not in results or not isinstance(row, dict):
            findings.append(Finding("warning", scene, "unknown-scene", "no scene of the released benchmark"))
            continue
        numbers = {theirs: _number(row.get(theirs)) for theirs in CAMERA}
        if row.get("RotErr_unit") != "deg":
            # Upstream once guessed radians below 3.15, where good methods live in degrees.
            findings.append(Finding("error", scene, "no-unit", "RotErr has no unit; allowed: RotErr_unit deg"))
        elif any(value is None or value < 0 for value in numbers.values()):
            findings.append(
                Finding("error", scene, "not-a-number", "camera errors are missing, negative or not finite")
            )
        else:
            skipped.add(bool(row.get("skip_first_frame")))
            results[scene].values |= {
                f"{ours}@{_TAG}": float(numbers[theirs] or 0.0) for theirs, ours in CAMERA.items()
            }
            results[scene].frames = int(_number(row.get("n_frames")) or 0)
    return "mixed" if len(skipped) > 1 else "yes" if True in skipped else "no"


def _revisits(found: dict[str, Any] | None, results: dict[str, ClipResult], findings: list[Finding]) -> None:
    rows = (found or {}).get("per_scene", {})
    for scene, row in rows.items() if isinstance(rows, dict) else ():
        if scene not in results or not isinstance(row, dict):
            findings.append(Finding("warning", scene, "unknown-scene", "no scene of the released benchmark"))
            continue
        for theirs, ours in REVISIT.items():
            value = _number(row.get(f"mean_{theirs}"))
            if value is not None:
                results[scene].values[ours] = value
        results[scene].pairs = int(_number(row.get("n_pairs")) or 0)


def _dimension(
    name: str, found: dict[str, Any] | None, results: dict[str, ClipResult], findings: list[Finding]
) -> None:
    """VBench's raw file: {dimension: [value, [{video_path, video_results}, ...]]}."""
    if found is None:
        return
    try:
        rows = [(Path(row["video_path"]).stem, row["video_results"]) for row in found[name][1]]
    except (KeyError, IndexError, TypeError):
        findings.append(Finding("error", "", "unreadable", f"the results of {name} are not laid out as VBench does"))
        return
    # One video's imaging quality is in 0 to 100; VBench divides only the mean.
    over = 100.0 if name == "imaging_quality" else 1.0
    for stem, result in rows:
        scene, value = stem.removesuffix("_generated"), _number(float(result) if isinstance(result, bool) else result)
        if scene in results and value is not None:
            results[scene].values[name] = value / over
    for clip in results.values():
        quality = quality_score(clip.values) if all(part in clip.values for part in QUALITY) else None
        if quality is not None:
            clip.values["vbench_quality"] = 100.0 * quality


def _whole_set(own: Path, findings: list[Finding]) -> dict[str, Any]:
    """What exists only for all scenes together, held against its own parts."""
    out: dict[str, Any] = {}
    vbench = _json(own / "vbench_scores.json", findings)
    if vbench is not None:
        raw = {k: v for k, v in dict(vbench.get("raw_scores") or {}).items() if _number(v) is not None}
        told, ours = _number(vbench.get("quality_score")), quality_score(raw)
        out["vbench"] = {"raw_scores": raw, "quality_score": told, "overall": None if told is None else 100.0 * told}
        if told is not None and ours is not None and abs(told - ours) > _ROUNDING:
            message = f"quality_score is {told:g}, its own dimensions give {ours:g}"
            findings.append(Finding("error", "", "contradiction", message))
        if told is not None and ours is None:
            missing = ", ".join(name for name in QUALITY if name not in raw)
            findings.append(Finding("warning", "", "partial", f"quality_score lacks {missing}: no VBench Overall"))
            out["vbench"]["overall"] = None
    temporal = _json(own / "temporal_degradation.json", findings)
    if temporal is not None:
        out["temporal"] = {}
        for name, trend in dict(temporal.get("trend") or {}).items():
            first, last, drop = (_number(trend.get(k)) for k in ("first_window", "last_window", "degradation"))
            if first is None or last is None or drop is None:
                findings.append(Finding("error", "", "not-a-number", f"the trend of {name} is incomplete"))
                continue
            out["temporal"][name] = {"first": first, "last": last, "degradation": drop}
            windows = dict(temporal.get("windows") or {})
            ends = max(windows, key=_window_number, default="")
            if abs(first - last - drop) > _ROUNDING:
                findings.append(Finding("error", "", "contradiction", f"{name}: {first:g} - {last:g} is not {drop:g}"))
            elif ends and abs(float(windows[ends].get(name, last)) - last) > _ROUNDING:
                message = f"{name}: the last window is {ends}, but its value is not the one used"
                findings.append(Finding("error", "", "window-order", message))
    return out


def _window_number(name: str) -> int:
    digits = name.partition("_")[0].removeprefix("w")
    return int(digits) if digits.isdecimal() else -1


def _bare_split(name: str) -> Split:
    """The released split as far as result files know it: ids and categories."""
    scenes = [
        BenchScene(
            f"{c}_{n:03d}", c, "unknown", "", np.tile(np.eye(4), (2, 1, 1)), np.ones((2, 4)), (720, 1280), 16.0, ()
        )
        for c in CATEGORIES
        for n in range(1, _PER_CATEGORY + 1)
    ]

    def no_picture(scene: BenchScene, size: tuple[int, int]) -> NDArray[np.uint8]:
        raise ValueError(f"{scene.id} has no picture: only its results were imported")

    return Split(name, "sana", "as-imported", scenes, no_picture, None, len(scenes))
