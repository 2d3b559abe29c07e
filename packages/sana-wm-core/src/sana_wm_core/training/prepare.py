"""Annotated videos to what a stage trains on: latents, text features and a manifest, made once.

A folder of annotated clips has manifest.jsonl with video_path, pose_path, intrinsics_path and captions a line, as
`sana-wm annotate` writes it. Into another folder go, for every clip, its latents, its text features and its poses cut
to whole latent frames, and train.jsonl (manifest.py). Clips already there are kept, so it can be stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from camera_control.geometry import crop_intrinsics
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from sana_wm_core.images import fit
from sana_wm_core.training.encode import read_frames, read_manifest

INDEX = "train.jsonl"


class AnnotatedClip(NamedTuple):
    """An annotated video cut to whole latent frames.

    Attributes:
        frames: (f, H, W, 3) uint8, f = 1 + stride k.
        c2w: (f, 4, 4).
        intrinsics: (f, 4) or (f, 3, 3) in pixels of these frames.
    """

    frames: np.ndarray
    c2w: np.ndarray
    intrinsics: np.ndarray

    def video(self, size: tuple[int, int]) -> Tensor:
        """Scaled and cropped to (height, width): (1, 3, f, height, width) in [-1, 1]."""
        return torch.cat([fit(Image.fromarray(frame), *size).tensor() for frame in self.frames]).transpose(0, 1)[None]


def open_clip(folder: Path, row: dict[str, Any], stride: int, max_frames: int = 0) -> AnnotatedClip:
    """Read the clip of a manifest's row.

    Args:
        folder: Annotated clips.
        row: A line of manifest.jsonl.
        stride: Raw frames of a latent frame.
        max_frames: The rest is cut off; 0 = no limit.

    Raises:
        ValueError: Too short, or other counts of frames and poses; the clip is named.
    """
    frames = read_frames(folder / row["video_path"])
    c2w, lens = (np.load(folder / row[key], allow_pickle=False) for key in ("pose_path", "intrinsics_path"))
    if not len(frames) == len(c2w) == len(lens):
        raise ValueError(
            f"{row['id']}: {len(frames)} frames, {len(c2w)} poses, {len(lens)} intrinsics; they must agree"
        )
    longest = min(len(frames), max_frames or len(frames))
    count = (longest - 1) // stride * stride + 1
    if count < 1 + stride:
        raise ValueError(f"{row['id']}: {longest} frames are too few; at least {1 + stride} are needed")
    return AnnotatedClip(frames[:count], c2w[:count], lens[:count])


def caption_of(row: dict[str, Any]) -> str:
    """The first caption of a manifest's row; empty without one."""
    return str(next(iter((row.get("captions") or {}).values()), ""))


def prepare_clips(
    folder: str | Path,
    out: str | Path,
    codec: Any,
    text: Any,
    size: tuple[int, int],
    max_frames: int = 0,
    validate: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Encode the clips of a folder and write a manifest.

    Args:
        folder: Annotated clips.
        out: Where to write.
        codec: encode(video (1, 3, f, H, W) in [-1, 1]) to latents, with temporal_stride and spatial_stride.
        text: encode(captions) to features (b, 1, l, c) and mask (b, l).
        size: Height and width to crop to, multiples of the codec's spatial stride.
        max_frames: Longest clip, raw frames; the rest is cut off. 0 = no limit.
        validate: How many clips at the end of the list are held out; 0 keeps the manifest's own splits.

    Returns:
        The manifest's path.

    Raises:
        ValueError: A size the codec cannot take, a clip too short or with other counts of frames and poses, named.
    """
    folder, out, stride = Path(folder), Path(out), int(codec.spatial_stride)
    if size[0] % stride or size[1] % stride:
        raise ValueError(
            f"size {size[0]}x{size[1]} must be multiples of {stride}, for example {22 * stride}x{40 * stride}"
        )
    rows = read_manifest(folder)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "text_null.safetensors").is_file():
        _save(out / "text_null.safetensors", {"text": _features(text, "")})
    entries = []
    for number, row in enumerate(rows):
        name = str(row["id"])
        part = out / f"{name}.json"
        if not part.is_file():
            _write_clip(folder, out, row, codec, text, size, max_frames)
        entry = json.loads(part.read_text())
        if validate:
            entry["split"] = "val" if number >= len(rows) - validate else "train"
        entries.append(json.dumps(entry))
        report(number + 1, len(rows))
    return _text(out / INDEX, "\n".join(entries) + "\n")


def _write_clip(
    folder: Path, out: Path, row: dict[str, Any], codec: Any, text: Any, size: tuple[int, int], max_frames: int
) -> None:
    name = str(row["id"])
    clip = open_clip(folder, row, int(codec.temporal_stride), max_frames)
    with torch.no_grad():
        latents = codec.encode(clip.video(size))[0].float().cpu()
    captions = row.get("captions") or {}
    entry = {key: row[key] for key in ("source", "split", "fps", "metric_scale", "scores", "licence") if key in row}
    _save(out / f"{name}.safetensors", {"z": latents.half()})
    _save(out / f"{name}_text.safetensors", {"text": _features(text, caption_of(row))})
    lens = crop_intrinsics(clip.intrinsics, clip.frames.shape[1:3], size)
    for suffix, array in (("pose", clip.c2w), ("k", lens)):
        temporary = out / f".{name}_{suffix}.{os.getpid()}.npy"
        np.save(temporary, np.asarray(array, dtype=np.float32))
        os.replace(temporary, out / f"{name}_{suffix}.npy")
    # Written last: a clip with this file is whole.
    _text(
        out / f"{name}.json",
        json.dumps(
            {
                "id": name, **entry, "latent_path": f"{name}.safetensors", "latent_shape": list(latents.shape),
                "sha256": hashlib.sha256((out / f"{name}.safetensors").read_bytes()).hexdigest(),
                "text_embed_path": f"{name}_text.safetensors", "pose_path": f"{name}_pose.npy",
                "intrinsics_path": f"{name}_k.npy", "height": size[0], "width": size[1], "raw_frames": len(clip.frames),
                "captions": captions,
            }
        ),
    )  # fmt: skip


def _features(text: Any, caption: str) -> Tensor:
    features, mask = text.encode([caption])
    return features[0, 0][mask[0].bool()].half().cpu().contiguous()


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)
    os.replace(temporary, path)


def _text(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)
    return path
