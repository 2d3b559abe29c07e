"""The pocket benchmark's inner part: held-out worlds, generation along a path and its opposite, scores."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from camera_control import rays
from PIL import Image
from sana_wm_core.pocket import Pocket, PocketPreset
from sana_wm_core.sampling.sampler import Conditions
from wm_bench.following import Following, opposite_path, score
from wm_bench.worlds import CATEGORIES, make_scene, render
from wm_bench.worlds.paths import sample_path

# Below FIRST_TRAIN_SEED of wm_bench.worlds.dataset, so no training clip shows these scenes.
HELD_OUT_SEED = 9_000


class Pair(NamedTuple):
    """A held-out scene with a path through it and the exact render."""

    name: str
    caption: str
    c2w: np.ndarray  # (f, 4, 4)
    intrinsics: np.ndarray  # (f, 4) px
    truth: np.ndarray  # (f, H, W, 3) uint8


def held_out_pairs(preset: PocketPreset, per_category: int) -> list[Pair]:
    """Render the benchmark's pairs: per_category scenes of each category, never trained on."""
    size = (preset.height, preset.width)
    pairs = []
    for category in CATEGORIES:
        for number in range(per_category):
            scene = make_scene(category, HELD_OUT_SEED + number)
            c2w = sample_path(scene, HELD_OUT_SEED + number, preset.frames)
            intrinsics = np.broadcast_to(np.asarray(scene.default_intrinsics(size), np.float32), (preset.frames, 4))
            truth = render(scene, c2w, intrinsics, size).rgb
            pairs.append(Pair(f"{category}-{number:02d}", scene.caption, c2w, intrinsics, truth))
    return pairs


@torch.no_grad()
def generate(world: Pocket, pair: Pair, c2w: np.ndarray, steps: int | None, seed: int = 0) -> np.ndarray:
    """Frames (f, H, W, 3) uint8 of the pair's first picture along a path."""
    preset = world.preset
    size = (preset.height, preset.width)
    stride = world.codec.spatial_stride
    grid = (size[0] // stride, size[1] // stride)
    latent_frames = (preset.frames - 1) // world.codec.temporal_stride + 1
    picture = _video(pair.truth[:1])
    text, mask = world.text_encoder.encode([pair.caption])
    nothing, nothing_mask = world.text_encoder.encode([""])
    relative = rays.relative_to_first(c2w)
    camera = {
        "camera_conditions": rays.camera_conditions(relative, pair.intrinsics, size, grid),
        "chunk_plucker": rays.chunk_plucker(relative, pair.intrinsics, size, grid),
    }
    conditions = Conditions(
        text, mask, nothing, nothing_mask, {k: torch.from_numpy(np.asarray(v))[None].float() for k, v in camera.items()}
    )
    shape = (1, world.codec.latent_channels, latent_frames, *grid)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    latents = preset.sampler(steps)(world.velocity, world.codec.encode_image(picture[:, :, 0]), noise, conditions)
    return _frames(world.codec.decode(latents))


@torch.no_grad()
def score_pair(world: Pocket, pair: Pair, steps: int | None, sheet: Path | None) -> Following:
    """Generate along the true and the opposite path, and score both against the render."""
    video = generate(world, pair, pair.c2w, steps)
    opposite = generate(world, pair, opposite_path(pair.c2w), steps)
    latents = world.codec.encode(_video(pair.truth))
    coded = _frames(world.codec.decode(latents, encoded=latents.shape[2]))
    if sheet is not None:
        sheet.mkdir(parents=True, exist_ok=True)
        every = np.linspace(0, len(video) - 1, 6).astype(int)
        rows = [np.concatenate(list(part[every]), axis=1) for part in (pair.truth, video, coded)]
        Image.fromarray(np.concatenate(rows)).save(sheet / f"{pair.name}.png")
    return score(video, opposite, pair.truth, coded)


def _video(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def _frames(video: torch.Tensor) -> np.ndarray:
    scaled = ((video[0].float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 3, 0).numpy()
