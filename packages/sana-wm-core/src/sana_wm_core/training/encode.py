"""Turn a folder of posed clips into latents: the pre-encoded data that training reads.

A folder of clips has `manifest.jsonl` (training.md 7.3), videos and camera files. encode_clips adds `latents/` with one
safetensors shard per some clips and `latents.jsonl`; it skips shards that are already there, so it can be stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sana_wm_core.training.codec import to_video


def read_manifest(folder: str | Path) -> list[dict]:
    """Rows of manifest.jsonl.

    Raises:
        ValueError: The file is missing, lists nothing, or a line is not JSON; the line is named.
    """
    path = Path(folder) / "manifest.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder}: no manifest.jsonl; write one with `sana-wm data synth --out {folder}`")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is not JSON ({error.msg})") from error
    if not rows:
        kept = f"; no annotated clip was kept, {_why_none(path)}" if _judged(path) else ""
        raise ValueError(f"{path}: no clips in it{kept}")
    return rows


def _judged(manifest: Path) -> bool:
    return (manifest.parent / "verdicts.jsonl").is_file()


def _why_none(manifest: Path) -> str:
    """What the verdict on the first clip says, and what can be done."""
    verdicts = [json.loads(line) for line in (manifest.parent / "verdicts.jsonl").read_text().splitlines()]
    first = next(
        (f"for example {row['id']}: {', '.join(row['reasons'])}" for row in verdicts if row.get("reasons")), ""
    )
    return (
        f"{first or 'there was none'}; with videos of your own try `sana-wm data prepare --own`; a lens that "
        "cannot be told from the video is given with `sana-wm annotate clip VIDEO --intrinsics FX,FY,CX,CY`"
    )


def read_frames(path: str | Path) -> np.ndarray:
    """All frames of a video, or of an .npz with the array `rgb`; uint8 (f, H, W, 3)."""
    if Path(path).suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["rgb"]
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def mirror(frames: np.ndarray, c2w: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same clip in a looking glass: pictures flipped left to right, poses and principal points to match."""
    flip = np.diag([-1.0, 1.0, 1.0, 1.0]).astype(c2w.dtype)
    intrinsics = intrinsics.copy()
    intrinsics[:, 2] = frames.shape[2] - intrinsics[:, 2]
    return frames[:, :, ::-1], flip @ c2w @ flip, intrinsics


@torch.no_grad()
def encode_clips(
    folder: str | Path,
    codec: nn.Module,
    augment: bool = True,
    shard_clips: int = 64,
    device: str = "cpu",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Encode every clip of a folder; training clips also mirrored, backwards, and both, when augment is set.

    Args:
        codec: Anything with encode(video (b, 3, f, H, W) in [-1, 1]) -> latents.
        report: Called with clips done and clips in all.
    """
    folder = Path(folder)
    rows = read_manifest(folder)
    (folder / "latents").mkdir(exist_ok=True)
    index: list[str] = []
    for start in range(0, len(rows), shard_clips):
        group = rows[start : start + shard_clips]
        shard = f"latents/{start:06d}.safetensors"
        tensors: dict[str, Tensor] = {}
        todo = not (folder / shard).is_file()
        for row in group:
            plans = [("", False, False)]
            if augment and row["split"] == "train":
                plans += [(".m", True, False), (".r", False, True), (".mr", True, True)]
            for suffix, _, _ in plans:
                caption = next(iter(row["captions"].values()), "")
                entry = {"id": row["id"] + suffix, "shard": shard, "split": row["split"], "caption": caption}
                index.append(json.dumps(entry))
            if todo:
                _encode_row(folder, row, plans, codec, device, tensors)
        if todo:
            temporary = folder / "latents" / f".{start:06d}.{os.getpid()}"
            size = {"height": str(group[0]["height"]), "width": str(group[0]["width"])}
            save_file(tensors, temporary, metadata=size)
            os.replace(temporary, folder / shard)
        report(min(start + shard_clips, len(rows)), len(rows))
    temporary = folder / f".latents.{os.getpid()}"
    temporary.write_text("\n".join(index) + "\n")
    os.replace(temporary, folder / "latents.jsonl")


def _encode_row(
    folder: Path,
    row: dict,
    plans: list[tuple[str, bool, bool]],
    codec: nn.Module,
    device: str,
    tensors: dict[str, Tensor],
) -> None:
    frames = read_frames(folder / row["video_path"])
    c2w = np.load(folder / row["pose_path"], allow_pickle=False).astype(np.float32)
    intrinsics = np.load(folder / row["intrinsics_path"], allow_pickle=False).astype(np.float32)
    if len(frames) != len(c2w):
        raise ValueError(f"{row['id']}: {len(frames)} frames but {len(c2w)} poses")
    variants = []
    for _, flipped, backwards in plans:
        part = mirror(frames, c2w, intrinsics) if flipped else (frames, c2w, intrinsics)
        variants.append(tuple(a[::-1] for a in part) if backwards else part)
    video = to_video(np.stack([v[0] for v in variants])).to(device)
    half = torch.bfloat16
    with torch.autocast(torch.device(device).type, half):
        latents = codec.encode(video)
        stills = None
        if getattr(codec, "latents_stand_alone", False):
            pictures = video[:, :, :: codec.temporal_stride]
            stills = codec.encode_image(pictures.transpose(1, 2).flatten(0, 1)).squeeze(2)
            stills = stills.unflatten(0, (len(variants), -1)).transpose(1, 2)
    for i, ((suffix, _, _), (_, poses, k), z) in enumerate(zip(plans, variants, latents, strict=True)):
        name = row["id"] + suffix
        if stills is not None:
            tensors[f"{name}.stills"] = stills[i].to("cpu", torch.float16).contiguous()
        tensors[f"{name}.latents"] = z.to("cpu", torch.float16).contiguous()
        tensors[f"{name}.c2w"] = torch.from_numpy(np.ascontiguousarray(poses))
        tensors[f"{name}.intrinsics"] = torch.from_numpy(np.ascontiguousarray(k))
