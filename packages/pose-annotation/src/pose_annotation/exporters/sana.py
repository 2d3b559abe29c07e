"""The released trainer's layout: a zip of descriptions, a camera sidecar, scales, scores and captions beside it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from camera_control.files import replacing
from camera_control.geometry import relative_to_first

from pose_annotation.exporters import AnnotatedClip
from pose_annotation.outputs import plain, read_arrays, write_arrays, write_json
from pose_annotation.types import Array

CLIPS_A_SHARD = 10_000
# Our score: the sidecar's suffix and the field it has there.
_SCORES = {
    "vmaf_motion": ("vmafmotion", "vmafmotion_score"),
    "flow": ("unimatch", "unimatch_flow_score"),
    "dover": ("dover", "dover_score"),
    "saturation": ("color", "mean_video_saturation"),
    "entities": ("vlm_entity_filter", "entity_count"),
    "vlm_quality": ("vlm_quality_filter", "quality_pass"),
}


def export(clips: list[AnnotatedClip], out: Path) -> list[Path]:
    """Shards of at most 10,000 clips; scores that were not measured are left out, and the trainer then rejects."""
    written = []
    for number, first in enumerate(range(0, len(clips), CLIPS_A_SHARD)):
        written += _shard(clips[first : first + CLIPS_A_SHARD], out / f"shard_{number:05d}")
    return written


def _shard(clips: list[AnnotatedClip], stem: Path) -> list[Path]:
    def beside(suffix: str) -> Path:
        return stem.with_name(f"{stem.name}_{suffix}")

    path = stem.with_name(f"{stem.name}.zip")
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for clip in clips:
            member = zipfile.ZipInfo(f"{clip.name}.json")  # its date is fixed, so that equal clips give equal bytes
            archive.writestr(member, json.dumps(plain(_description(clip)), sort_keys=True))
    counts = [len(clip.c2w) for clip in clips]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    camera = beside("camera.npz")
    write_arrays(
        camera, ids=np.array([clip.name for clip in clips]), ranges=np.stack([starts, counts], 1).astype(np.int64),
        pose=np.concatenate([clip.c2w for clip in clips]).astype(np.float32),
        intrinsics=np.concatenate([clip.intrinsics for clip in clips]).astype(np.float32),
    )  # fmt: skip
    written = [path, camera, beside("metric_scale_stats.json")]
    # Translations are final; the loader multiplies by this.
    write_json(written[2], {clip.name: {"median": 1.0, "metric": bool(clip.record["metric"])} for clip in clips})
    for ours, (suffix, name) in _SCORES.items():
        values = {c.name: c.record["scores"].get(ours) for c in clips}
        known = {key: {name: [v] if ours == "flow" else v} for key, v in values.items() if v is not None}
        if known:
            written.append(beside(f"{suffix}.json"))
            write_json(written[-1], known)
    written.append(beside("scene_cut.json"))
    write_json(
        written[-1],
        {
            c.name: {"num_scenes": 1, "scenes": [{"start": 0, "end": len(c.c2w)}], "threshold": 27.0}
            for c in clips
        },
    )  # fmt: skip
    captions: dict[str, dict[str, dict[str, str]]] = {}
    for clip in clips:
        source = "".join(ch if ch.isalnum() or ch in "-." else "-" for ch in clip.record["caption"]["source"])
        captions.setdefault(source, {})[clip.name] = {"prompt": clip.record["caption"]["text"]}
    for source, texts in captions.items():
        written.append(beside(f"LongSceneStaticCaption-{source}.json"))
        write_json(written[-1], texts)
    return written


def _description(clip: AnnotatedClip) -> dict[str, Any]:
    height, width = clip.size
    return {
        "prompt": clip.record["caption"]["text"], "height": height, "width": width, "fps": clip.record["fps"],
        "num_frames": len(clip.c2w), "source": clip.record["source"], "video": f"{clip.name}.mp4",
        "licence": clip.record["licence"],
    }  # fmt: skip


class Sample(NamedTuple):
    """What the trainer's loader makes of a clip: poses relative to the first, scaled; lens in latent cells."""

    c2w: Array
    intrinsics: Array


def load_sample(archive: str | Path, key: str, latent_size: tuple[int, int]) -> Sample:
    """Read one clip as the released loader does, but refuse a clip without a camera instead of inventing one.

    Raises ValueError when the clip is in no sidecar or not in the zip.
    """
    archive = Path(archive)
    stem = archive.with_suffix("")
    arrays = read_arrays(stem.with_name(f"{stem.name}_camera.npz"))
    at = np.flatnonzero(arrays["ids"] == key)
    if len(at) != 1:
        raise ValueError(f"{key!r} has no camera in {stem.name}_camera.npz; allowed: an id of the shard")
    try:
        with zipfile.ZipFile(archive) as opened:
            about = json.loads(opened.read(f"{key}.json"))
    except (KeyError, OSError, zipfile.BadZipFile):
        raise ValueError(f"{key!r} is not in {archive.name}; allowed: an id of the shard") from None
    start, count = (int(v) for v in arrays["ranges"][at[0]])
    scales = json.loads(stem.with_name(f"{stem.name}_metric_scale_stats.json").read_text())
    c2w = relative_to_first(arrays["pose"][start : start + count].astype(np.float64))
    c2w[:, :3, 3] *= scales[key]["median"]
    ratio = np.array([latent_size[1] / about["width"], latent_size[0] / about["height"]])
    return Sample(c2w, arrays["intrinsics"][start : start + count] * np.concatenate([ratio, ratio]))
