"""What the world model makes of its own training clips: the latents that the decoder must turn into pictures.

A sampled clip knows the large shapes and is vague about the rest. A decoder that has only seen true latents paints that
vagueness as blur and block edges; one that has seen sampled latents beside the true pictures learns what they stand
for. imagine_clips writes `imagined/` beside the latents, shard by shard; it skips shards that are already there,
so delete the folder when the world has changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana_wm_core.pocket import Pocket
from sana_wm_core.sampling.sampler import Conditions, Sampler
from sana_wm_core.training.data import LatentClips


class Imagined(NamedTuple):
    """Sampled latents and the pictures they stand for: a clip by its number in the split, as it was turned."""

    clip: int
    mirrored: bool
    backwards: bool
    latents: Tensor  # (c, t, y, x) float16, the first latent frame true


@torch.no_grad()
def imagine_clips(
    world: Pocket,
    folder: str | Path,
    steps: int,
    shift: float,
    every: int = 1,
    shard_clips: int = 64,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Sample every `every`-th encoded training clip of a folder from its first picture, caption and path.

    Args:
        world: The model, with the codec the folder was encoded with.
        folder: Written by encode_clips.
        steps, shift: Of the sampler, without guidance.
        report: Called with clips done and clips in all.
    """
    folder = Path(folder)
    clips = LatentClips(folder)
    chosen = list(range(0, len(clips), every))
    (folder / "imagined").mkdir(exist_ok=True)
    sampler = Sampler(steps, 1.0, shift)
    for start in range(0, len(chosen), shard_clips):
        shard = folder / "imagined" / f"{start:06d}.safetensors"
        group = chosen[start : start + shard_clips]
        if not shard.is_file():
            latents = {clips.rows[i]["id"]: _imagine(world, clips, i, sampler, seed) for i in group}
            temporary = shard.with_name(f".{shard.name}.{os.getpid()}")
            save_file(latents, temporary)
            os.replace(temporary, shard)
        report(start + len(group), len(chosen))


def load_imagined(folder: str | Path, ids: list[str]) -> list[Imagined]:
    """Everything in folder/imagined; `ids` are the clips of the split in order.

    Raises:
        ValueError: Nothing was imagined there, or a clip that is not among the ids.
    """
    shards = sorted(Path(folder).glob("imagined/*.safetensors"))
    if not shards:
        raise ValueError(f"{folder}: no imagined/*.safetensors; write them with `sana-wm data imagine {folder}`")
    place = {name: number for number, name in enumerate(ids)}
    found = []
    for shard in shards:
        for name, latents in load_file(shard).items():
            clip, _, turned = name.partition(".")
            if clip not in place:
                raise ValueError(f"{shard}: holds {name!r}, which is no clip of this split")
            found.append(Imagined(place[clip], "m" in turned, "r" in turned, latents))
    return found


def _imagine(world: Pocket, clips: LatentClips, number: int, sampler: Sampler, seed: int) -> Tensor:
    batch = clips.batch([number])
    text, mask = world.text_encoder.encode(batch.captions)
    camera = {"camera_conditions": batch.camera, "chunk_plucker": batch.plucker}
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + number))
    latents = sampler(world.velocity, batch.latents[:, :, :1], noise, Conditions(text, mask, camera=camera))
    return latents[0].half().contiguous()
