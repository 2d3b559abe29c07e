"""Our results in the files of the released evaluator. Layout, keys and rounding: benchmark specification 5.2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from wm_bench.metrics.vbench import DIMENSIONS, QUALITY, normalised, quality_score
from wm_bench.report.write import write_text
from wm_bench.sheet import Sheet

CAMERA = {"RotErr": "rot_err_deg", "TransErr_rel": "trans_err_m", "CamMC_rel": "cam_mc"}
REVISIT = {"psnr": "revisit_psnr_db", "ssim": "revisit_ssim", "lpips": "revisit_lpips"}


def write_upstream(sheet: Sheet, root: Path, protocol: str = "code-v1", estimator: str | None = None) -> list[Path]:
    """Write a sheet as METHOD/SPLIT/eval_poses.json and METHOD/eval/SPLIT/*.json under `root`, with method_info.json.

    RotErr is in degrees and says so; the other two keep upstream's names, which end in "rel", and are metres. A file
    whose numbers the sheet lacks is not written, rather than written with gaps. Camera numbers are those of one
    protocol and estimator (the first one that has numbers when none is named). Raises ValueError when the sheet lacks
    those that are asked for.
    """
    tag = _tag(sheet, protocol, estimator)
    method, split = root / sheet["method"], sheet["split"].partition("[")[0]
    own = method / "eval" / split
    files: dict[Path, Any] = {method / "method_info.json": {"model": sheet["method"], **sheet["method_info"]}}
    record: dict[str, Any] = {"method": sheet["method"], "split": split, "method_info": sheet["method_info"]}
    if tag is not None:
        files[method / split / "eval_poses.json"] = _poses(sheet, tag)
        record["camera"] = files[own / "camera_accuracy.json"] = _camera(sheet, tag)
    vbench = _vbench(sheet)
    if vbench is not None:
        files[own / "vbench_scores.json"] = vbench
        record["vbench"] = {part: vbench[f"{part}_score"] for part in ("total", "quality", "semantic")}
    revisits = _revisits(sheet)
    if revisits is not None:
        files[own / "revisit_consistency.json"] = revisits
        summary = revisits["summary"]
        record["revisit"] = {name: summary[f"overall_mean_{name}"] for name in REVISIT}
        record["revisit"] |= {"n_pairs": summary["n_total_pairs"], "per_category": summary["per_category"]}
    temporal = _temporal(sheet)
    if temporal is not None:
        files[own / "temporal_degradation.json"] = temporal
        trend = temporal["trend"]["imaging_quality"]
        record["temporal"] = {
            "imaging_quality_first": trend["first_window"],
            "imaging_quality_last": trend["last_window"],
            "imaging_quality_drop": trend["degradation"],
        }
    files[own / "summary.json"] = record
    return [write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n") for path, value in files.items()]


def _tag(sheet: Sheet, protocol: str, estimator: str | None) -> str | None:
    tags = [n.partition("@")[2] for n, m in sheet["metrics"].items() if n.startswith("rot_err_deg@") and "mean" in m]
    chosen = [t for t in tags if t.partition("/")[0] == protocol and estimator in (None, t.partition("/")[2])]
    if chosen:
        return chosen[0]
    if estimator is None:
        return None
    raise ValueError(
        f"the sheet has no camera of {protocol}/{estimator}; allowed: {', '.join(tags) or 'none'}; "
        "example: code-v1/pi3x"
    )


def _mean(values: list[float], digits: int = 4) -> float | None:
    return round(float(np.mean(values)), digits) if values else None


def _of(sheet: Sheet, name: str) -> dict[str, float]:
    return {s: r["values"][name] for s, r in sheet["scenes"].items() if r["values"].get(name) is not None}


def _by_category(sheet: Sheet, values: dict[str, float]) -> dict[str, float | None]:
    groups: dict[str, list[float]] = {}
    for scene, value in values.items():
        groups.setdefault(sheet["scenes"][scene]["category"], []).append(value)
    return {name: _mean(found) for name, found in sorted(groups.items())}


def _poses(sheet: Sheet, tag: str) -> dict[str, Any]:
    times = f"pose_times_s@{tag.partition('/')[2]}"
    columns = {theirs: _of(sheet, f"{ours}@{tag}") for theirs, ours in CAMERA.items()}
    ident = sheet["metrics"][f"rot_err_deg@{tag}"]["identity"]
    return {
        scene: {
            "RotErr": columns["RotErr"][scene],
            "RotErr_unit": "deg",
            "TransErr_rel": columns["TransErr_rel"][scene],
            "CamMC_rel": columns["CamMC_rel"][scene],
            "scene_type": sheet["scenes"][scene]["category"],
            "n_frames": len(sheet["scenes"][scene]["curves"].get(times, [])),
            "skip_first_frame": bool(ident["protocol"].get("drop_first", False)),
        }
        for scene in columns["RotErr"]
    }


def _camera(sheet: Sheet, tag: str) -> dict[str, Any]:
    names = {"rot_err_deg": "rot_err_deg", "trans_err_rel": "trans_err_m", "cam_mc_rel": "cam_mc"}
    found = {theirs: _of(sheet, f"{ours}@{tag}") for theirs, ours in names.items()}
    out: dict[str, Any] = {name: _mean(list(values.values())) for name, values in found.items()}
    by = {name: _by_category(sheet, values) for name, values in found.items()}
    categories = sorted({c for groups in by.values() for c in groups})
    per_category = {c: {name: groups.get(c) for name, groups in by.items()} for c in categories}
    ident = sheet["metrics"][f"rot_err_deg@{tag}"]["identity"]
    # Upstream does not say who measured; ours do.
    source = {"protocol": tag.partition("/")[0], "backend": ident["backend"], "version": ident["backend_version"]}
    return out | {"n_scenes": len(found["rot_err_deg"]), "per_category": per_category, "measured_by": source}


def _vbench(sheet: Sheet) -> dict[str, Any] | None:
    raw = {name: float(np.mean(list(found.values()))) for name in DIMENSIONS if (found := _of(sheet, name))}
    quality = quality_score(raw)
    if quality is None:
        return None
    parts = {name: round(normalised(name, raw[name]), 4) for name in QUALITY}
    # The released script takes both as they are, in 0 to 1, where VBench itself does not.
    semantic = [raw[name] for name in ("overall_consistency", "temporal_style") if name in raw]
    meaning = _mean(semantic)
    total = None if meaning is None else round((4 * quality + meaning) / 5, 4)
    return {
        "raw_scores": {name: round(value, 4) for name, value in raw.items()},
        "quality_score": quality,
        "semantic_score": meaning,
        "total_score": total,
        "normalized_per_dim": parts,
    }


def _revisits(sheet: Sheet) -> dict[str, Any] | None:
    found = {theirs: _of(sheet, ours) for theirs, ours in REVISIT.items()}
    if not found["psnr"]:
        return None
    pairs = {scene: int(sheet["scenes"][scene]["pairs"]) for scene in found["psnr"]}
    summary: dict[str, Any] = {}
    for name, values in found.items():
        weights = [pairs[scene] for scene in values]
        mean = float(np.average(list(values.values()), weights=weights)) if sum(weights) else None
        summary[f"overall_mean_{name}"] = None if mean is None else round(mean, 4)
    summary |= {
        "n_scenes_evaluated": len(pairs),
        "n_total_pairs": sum(pairs.values()),
        "n_lpips_pairs": sum(pairs[scene] for scene in found["lpips"]),
        "per_category": {name: _by_category(sheet, values) for name, values in found.items() if values},
    }
    per_scene = {
        scene: {**{f"mean_{n}": round(v[scene], 4) for n, v in found.items() if scene in v}, "n_pairs": pairs[scene]}
        for scene in pairs
    }
    return {"summary": summary, "per_scene": per_scene}


def _temporal(sheet: Sheet) -> dict[str, Any] | None:
    """Imaging quality of the first and last ten seconds: the two windows that are measured here."""
    found = {name: _of(sheet, f"imaging_quality_{name}") for name in ("first", "last")}
    if not found["last"]:
        return None
    first, last = (round(float(np.mean(list(values.values()))), 4) for values in found.values())
    scene = sheet["scenes"][next(iter(found["last"]))]
    number = int(((scene["frames"] - 1) / scene["fps"] + 0.1) // 10) - 1
    trend = {
        "first_window": first,
        "last_window": last,
        "degradation": round(first - last, 4),
        "per_window": [first, last],
    }
    names = ("w0_0s-10s", f"w{number}_{10 * number}s-{10 * number + 10}s")
    windows = {name: {"imaging_quality": value} for name, value in zip(names, (first, last), strict=True)}
    return {"windows": windows, "trend": {"imaging_quality": trend}}
