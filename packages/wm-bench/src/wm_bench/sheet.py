"""The score sheet: one JSON value that holds every number with its identity, interval and coverage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from camera_control.files import replacing

from wm_bench.cache import content_key
from wm_bench.metrics.catalogue import metric_of
from wm_bench.splits.model import BenchScene, Split
from wm_bench.statistics import bootstrap_mean
from wm_bench.submission import Submission

SCHEMA = 1
Sheet = dict[str, Any]


@dataclass
class ClipResult:
    """Everything known about one scored video; a name is in `values` or, with its reason, in `reasons`."""

    values: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)
    windows: dict[str, list[float]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, list[str]] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    floor_reasons: dict[str, str] = field(default_factory=dict)
    pairs: int = 0
    size: tuple[int, int] = (0, 0)
    fps: float = 0.0
    frames: int = 0
    sha256: str = ""


def identity(
    name: str, split: Split, rules: dict[str, Any], backend: str, version: str, weights_sha256: str
) -> dict[str, Any]:
    """What a number is: two numbers may stand in one ranking only when all of this is equal."""
    parts = {
        "metric": name,
        "dataset": split.name,
        "revision": split.revision,
        "protocol": rules,
        "backend": backend,
        "backend_version": version,
        "weights_sha256": weights_sha256,
    }
    return {**parts, "id": content_key(parts)[:12]}


def build_sheet(
    split: Split,
    submission: Submission,
    results: dict[str, ClipResult],
    identities: dict[str, dict[str, Any]],
    unavailable: dict[str, str],
) -> Sheet:
    """Put results on a sheet: summaries per metric, category and template; nothing is left out silently."""
    scenes = {scene.id: scene for scene in split.scenes}
    metrics = {name: _summary(name, ident, results, scenes, split) for name, ident in identities.items()}
    for name, reason in unavailable.items():
        metrics.setdefault(name, {"status": "unavailable", "n": 0, "expected": split.complete})
        if metrics[name]["n"] == 0:
            metrics[name] |= {"status": "unavailable", "reason": reason}
    return clean(
        {
            "schema": SCHEMA,
            "kind": "wm-bench score",
            "method": submission.method,
            "method_info": submission.info,
            "split": split.name,
            "source": split.source,
            "revision": split.revision,
            "coverage": {
                "scored": len(results),
                "in_split": len(split.scenes),
                "headline_needs": split.complete,
                "headline": len(results) == split.complete == len(split.scenes),
                "missing": sorted(set(scenes) - set(results)),
            },
            "findings": [f._asdict() for f in submission.findings],
            "metrics": metrics,
            "scenes": {scene_id: _record(scenes[scene_id], result) for scene_id, result in sorted(results.items())},
        }
    )


def _summary(
    name: str, ident: dict[str, Any], results: dict[str, ClipResult], scenes: dict[str, BenchScene], split: Split
) -> dict[str, Any]:
    metric = metric_of(name)
    ids = [s for s in sorted(results) if name in results[s].values and np.isfinite(results[s].values[name])]
    values = np.array([results[s].values[name] for s in ids])
    # Upstream's overall revisit value is a mean over pairs, its categories are means over scenes.
    weights = np.array([float(results[s].pairs) for s in ids]) if metric.over == "pairs" else None
    out: dict[str, Any] = {
        "unit": metric.unit,
        "better": metric.better,
        "what": metric.what,
        "identity": ident,
        "n": len(ids),
        "expected": split.complete,
    }
    if not ids:
        reasons = sorted({results[s].reasons[name] for s in results if name in results[s].reasons})
        return out | {"status": "unavailable", "reason": "; ".join(reasons[:3]) or "no video was scored"}
    interval = bootstrap_mean(values, weights)
    out |= {
        "status": "ok" if len(ids) == split.complete else "partial",
        "mean": interval.mean,
        "ci95": [interval.low, interval.high],
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
        "per_category": _grouped(ids, values, lambda s: scenes[s].category),
        "per_template": _grouped(ids, values, lambda s: scenes[s].template),
    }
    floors = [results[s].floors[name] for s in ids if name in results[s].floors]
    if floors:
        out["floor"] = {"mean": float(np.mean(floors)), "n": len(floors)}
    flagged = _flagged(name, ids, results)
    if flagged:
        out["flagged"] = flagged
    return out


def _flagged(name: str, ids: list[str], results: dict[str, ClipResult]) -> dict[str, int]:
    tag = name.partition("@")[2]
    counts: dict[str, int] = {}
    for scene_id in ids:
        for flag in results[scene_id].flags.get(tag, ()):
            counts[flag] = counts.get(flag, 0) + 1
    return counts


def _grouped(ids: list[str], values: np.ndarray, group: Callable[[str], str]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = {}
    for scene_id, value in zip(ids, values.tolist(), strict=True):
        groups.setdefault(group(scene_id), []).append(value)
    return {name: {"mean": float(np.mean(v)), "n": len(v)} for name, v in sorted(groups.items())}


def _record(scene: BenchScene, result: ClipResult) -> dict[str, Any]:
    return {"category": scene.category, "template": scene.template, **asdict(result)}


def clean(value: Any) -> Any:
    """Plain values for JSON, which has no NaN: a number that is not finite becomes None."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def write_sheet(sheet: Sheet, path: Path) -> Path:
    """Write a sheet as JSON with sorted keys: equal sheets are equal files."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(sheet, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_sheet(path: Path) -> Sheet:
    """Read a sheet, from its file or the folder it lies in. Raises ValueError for anything else."""
    file = path / "score.json" if path.is_dir() else path
    try:
        sheet = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no score sheet at {file}; allowed: a folder or file of `bench score`") from None
    except ValueError:
        sheet = None
    if not isinstance(sheet, dict) or sheet.get("kind") != "wm-bench score" or sheet.get("schema") != SCHEMA:
        raise ValueError(f"{file} is no score sheet of schema {SCHEMA}; allowed: a file of `bench score`")
    return sheet
