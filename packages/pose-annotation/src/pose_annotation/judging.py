"""Turn stored scores into verdicts and the trainer's manifest; a changed threshold needs no other work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pose_annotation.outputs import read_json, write_lines
from pose_annotation.overview import show_verdict
from pose_annotation.policy import Policy, load_policy


@dataclass(frozen=True)
class Judgement:
    """How many clips were judged and kept, and how often each reason was given."""

    clips: int
    kept: int
    reasons: dict[str, int]


def read_records(out: str | Path) -> list[dict[str, Any]]:
    """All clip records of a folder, by id. Raises ValueError when there is no such folder of records."""
    folder = Path(out) / "records"
    if not folder.is_dir() and not (Path(out) / "videos").is_dir():
        raise ValueError(f"{out} holds no records; allowed: a folder written by sana-wm annotate; example: --out clips")
    return [read_json(path) for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]


def judge_folder(out: str | Path, policy: Policy | None = None) -> Judgement:
    """Judge every clip of a folder; writes `verdicts.jsonl` and, for the kept clips, `manifest.jsonl`.

    The clips' overview pages show the verdict too. The manifest is what the trainer reads (training.md 7.3). Raises
    ValueError for a folder without records and for a source that the policy does not know.
    """
    policy, out = policy or load_policy(), Path(out)
    verdicts, rows, reasons = [], [], Counter[str]()
    records = read_records(out)
    for record in records:
        given = policy.judge(record["scores"], record["flags"], record["source"], metric=record["metric"])
        why = list(given.reasons)
        if record["status"] != "ok":
            why.insert(0, f"no camera: {record['reason']}")
        if not record["caption"]["accepted"]:
            why.append("caption speaks of the camera")
        reasons.update({_kind(reason) for reason in why})
        verdict = {"id": record["id"], "kept": not why, "reasons": why, "unknown": list(given.unknown)}
        verdicts.append(verdict)
        show_verdict(out / "overview" / f"{record['id']}.html", verdict, f"{policy.title}, row {record['source']!r}")
        if not why:
            rows.append(_manifest_row(record))
    write_lines(out / "verdicts.jsonl", verdicts)
    write_lines(out / "manifest.jsonl", rows)
    return Judgement(len(records), len(rows), dict(sorted(reasons.items())))


def _kind(reason: str) -> str:
    """A reason without its numbers, for counting."""
    words = reason.split()
    return words[0] if "outside" in words else " ".join(words[:2]).rstrip(":")


def _manifest_row(record: dict[str, Any]) -> dict[str, Any]:
    clip = record["id"]
    return {
        "id": clip, "source": record["source"], "split": record["split"],
        "video_path": f"clips/{clip}.mp4", "pose_path": f"poses/{clip}.npy",
        "intrinsics_path": f"intrinsics/{clip}.npy", "fps": record["fps"], "raw_frames": record["frames"],
        "height": record["height"], "width": record["width"], "pose_unit": "m" if record["metric"] else "scene",
        "metric_scale": 1.0, "captions": {"static": record["caption"]["text"]},
        "caption_source": record["caption"]["source"], "scores": record["scores"], "weight": 1.0,
        "licence": record["licence"], "pixels_sha256": record["pixels_sha256"],
    }  # fmt: skip
