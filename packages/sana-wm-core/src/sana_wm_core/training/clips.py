"""Clips to train on, whatever folder they lie in: one form for encoded folders, manifests and upstream's zips.

`open_clips` looks at a path and returns a ClipSet. Loading a clip checks it; a clip that cannot be used raises
BadClip with its name and the reason, and is never replaced by another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from camera_control import rays
from torch import Tensor

from sana_wm_core.training.draws import choice

STRIDE = 8


class BadClip(ValueError):
    """A clip that cannot be used; the message names it."""


class Entry(NamedTuple):
    """What is known of a clip without opening it."""

    id: str
    frames: int  # latent frames
    source: str = ""
    split: str = "train"
    repeat: int = 1
    captions: Mapping[str, str] = {}
    scores: Mapping[str, float] = {}


class Sample(NamedTuple):
    """A clip as the world model takes it, without a batch axis."""

    id: str
    latents: Tensor  # (c, t, y, x) normalised, float32
    camera: Tensor  # (t, 20)
    plucker: Tensor  # (48, t, y, x)
    text: Tensor | None = None  # (l, c) stored features
    null_text: Tensor | None = None  # the same of the empty caption


class ClipSet(Protocol):
    """A set of clips."""

    entries: list[Entry]

    def load(self, number: int) -> Sample:
        """Open and check a clip; BadClip if it cannot be used."""
        ...


def open_clips(path: str | Path) -> ClipSet:
    """The clips at a path: a manifest (.jsonl), a folder with one, an encoded folder, or upstream's zip folder.

    Raises:
        ValueError: Nothing of the kind there.
    """
    from sana_wm_core.training.manifest import ManifestClips
    from sana_wm_core.training.zip_layout import ZipClips

    place = Path(path)
    if place.is_file() and place.suffix == ".jsonl":
        return ManifestClips(place)
    for name in ("latents.jsonl", "train.jsonl"):
        if (place / name).is_file():
            return ManifestClips(place / name)
    if sorted(place.glob("*_camera.npz")):
        return ZipClips(place)
    raise ValueError(
        f"{path}: no clips to train on; give a folder with latents.jsonl (from `sana-wm data encode`), a .jsonl "
        "manifest, or a folder of <name>.zip with <name>_camera.npz"
    )


def passes(entry: Entry, filters: Mapping[str, tuple[float, float]]) -> bool:
    """Whether a clip's scores lie within all bounds, inclusive; a missing score does not."""
    return all(low <= entry.scores.get(name, float("nan")) <= high for name, (low, high) in filters.items())


def choose_caption(entry: Entry, weights: Mapping[str, float], generator: torch.Generator) -> str:
    """A caption of the clip, its type drawn by weight; without weights all types alike, without captions empty."""
    kinds = sorted(kind for kind in entry.captions if not weights or weights.get(kind, 0) > 0)
    if not kinds:
        return ""
    chances = torch.tensor([weights.get(kind, 1.0) if weights else 1.0 for kind in kinds], dtype=torch.float64)
    return entry.captions[kinds[choice(chances, generator)]]


def make_sample(
    name: str,
    latents: Tensor,
    c2w: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    text: Tensor | None = None,
    null_text: Tensor | None = None,
) -> Sample:
    """Check a clip's parts and put them together.

    Args:
        name: Named in every error.
        latents: (c, t, y, x).
        c2w: (f, 4, 4) camera-to-world, f = 8 (t - 1) + 1.
        intrinsics: (f, 4) in pixels of a picture of `size`.
        size: Height and width of that picture.

    Raises:
        BadClip: Shapes that do not fit, numbers that are not finite, poses that are not rigid.
    """
    if latents.ndim != 4:
        raise BadClip(f"{name}: latents have shape {tuple(latents.shape)}, expected (c, t, y, x)")
    if not torch.isfinite(latents).all():
        raise BadClip(f"{name}: {int((~torch.isfinite(latents)).sum())} latent values are NaN or infinite")
    frames = STRIDE * (latents.shape[1] - 1) + 1
    for what, array, shape in (("poses", c2w, (frames, 4, 4)), ("intrinsics", intrinsics, (frames, 4))):
        if array.shape != shape:
            raise BadClip(f"{name}: {what} have shape {array.shape}; {latents.shape[1]} latent frames need {shape}")
        if not np.isfinite(array).all():
            raise BadClip(f"{name}: {what} hold NaN or infinite values")
    turn = c2w[:, :3, :3].astype(np.float64)
    off = np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    if off.max() > 1e-2 or np.linalg.det(turn).min() < 0:
        worst = int(off.argmax())
        raise BadClip(f"{name}: pose {worst} is not a rotation (off by {off[worst]:.2g})")
    if intrinsics[:, :2].min() <= 0:
        raise BadClip(f"{name}: focal lengths must be above 0, found {intrinsics[:, :2].min():g}")
    pose = (c2w.astype(np.float32), intrinsics.astype(np.float32), size, (latents.shape[2], latents.shape[3]))
    return Sample(
        name,
        latents.float(),
        torch.from_numpy(np.ascontiguousarray(rays.camera_conditions(*pose))).float(),
        torch.from_numpy(np.ascontiguousarray(rays.chunk_plucker(*pose))).float(),
        text,
        null_text,
    )


def no_camera(sample: Sample) -> Sample:
    """The clip as if nothing were known of its camera: standing still, focal lengths the size of the grid."""
    _, frames, rows, columns = sample.latents.shape
    raw = STRIDE * (frames - 1) + 1
    c2w = np.broadcast_to(np.eye(4, dtype=np.float32), (raw, 4, 4))
    intrinsics = np.broadcast_to(np.float32([columns, rows, columns / 2, rows / 2]), (raw, 4))
    pose = (c2w, intrinsics, (rows, columns), (rows, columns))
    camera, plucker = rays.camera_conditions(*pose), rays.chunk_plucker(*pose)
    return sample._replace(
        camera=torch.from_numpy(np.ascontiguousarray(camera)).float(),
        plucker=torch.from_numpy(np.ascontiguousarray(plucker)).float(),
    )


def problems(clips: ClipSet, filters: Mapping[str, tuple[float, float]] | None = None) -> list[str]:
    """Everything that is wrong with a set of clips, one line each; every clip is opened."""
    found, seen = [], set()
    for number, entry in enumerate(clips.entries):
        if entry.id in seen:
            found.append(f"{entry.id}: the id is used twice")
        seen.add(entry.id)
        try:
            sample = clips.load(number)
        except BadClip as error:
            found.append(str(error))
            continue
        if sample.latents.shape[1] != entry.frames:
            found.append(f"{entry.id}: {sample.latents.shape[1]} latent frames, the index says {entry.frames}")
    if filters and clips.entries and not any(passes(entry, filters) for entry in clips.entries):
        missing = sorted(name for name in filters if not any(name in e.scores for e in clips.entries))
        why = f"no clip has the score {missing[0]}" if missing else "no clip lies within all bounds"
        found.append(f"filters reject every clip: {why}")
    return found
