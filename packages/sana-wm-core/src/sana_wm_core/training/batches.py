"""From clip numbers to what a forward pass takes: draws, text, camera, noise, and this rank's frames of it all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sana_wm_core.training.clips import BadClip, ClipSet, Entry, Sample, choose_caption, no_camera
from sana_wm_core.training.draws import stream
from sana_wm_core.training.losses import NoisyClip
from sana_wm_core.training.objective import draw_clip, noisy_clip, sigma_of
from sana_wm_core.training.parallel.shard import Shard
from sana_wm_core.training.stages import Stage


class Batch(NamedTuple):
    """One forward pass of one rank."""

    ids: list[str]
    clip: NoisyClip  # this rank's frames
    sigma_bt: Tensor
    clean: Tensor
    counted: Tensor  # (b,) frames that carry loss, over all ranks of the clip
    conditions: dict[str, Any]  # keyword arguments of the transformer
    starts: list[int]  # chunks of the whole clip
    behind_clean: bool = False  # every chunk sees the clean data of earlier ones, see training.clean_past


class TextSource:
    """Captions to features: stored with the clips, or made by a frozen encoder."""

    def __init__(self, encoder: nn.Module | None) -> None:
        self.encoder = encoder

    @torch.no_grad()
    def __call__(
        self, samples: Sequence[Sample], captions: Sequence[str], drop: Sequence[bool]
    ) -> tuple[Tensor, Tensor]:
        """Features (b, 1, l, c) and mask (b, l); dropped captions are empty ones."""
        if self.encoder is not None:
            return self.encoder.encode(["" if d else c for d, c in zip(drop, captions, strict=True)])
        rows = []
        for sample, dropped in zip(samples, drop, strict=True):
            row = sample.null_text if dropped else sample.text
            if row is None:
                what = "text_null.safetensors" if dropped else "text_embed_path"
                raise BadClip(
                    f"{sample.id}: no stored text features ({what}); or set text.kind=pocket for a pocket world"
                )
            rows.append(row.float())
        longest = max(len(row) for row in rows)
        padded = torch.stack([nn.functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        mask = torch.stack([(torch.arange(longest) < len(row)).long() for row in rows])
        return padded[:, None], mask


class Batches:
    """Makes batches of a stage.

    Args:
        stage: The stage.
        clips: Where clips come from.
        text: Captions to features.
        group: Ranks that share every clip, None for one.
        device: Where batches go.
        log: File that bad clips are written to when they are skipped.
    """

    def __init__(
        self, stage: Stage, clips: ClipSet, text: TextSource, group: Any, device: torch.device, log: Path | None
    ) -> None:
        self.stage, self.clips, self.text, self.group, self.device, self.log = stage, clips, text, group, device, log

    def __call__(self, numbers: Sequence[int], step: int, draws: int | None = None) -> Batch:
        """The batch of these clips in a step; noise is drawn for `draws`, by default the step."""
        law, seed = self.stage.objective, self.stage.train.seed
        at = step if draws is None else draws
        samples, present = [], []
        for number in numbers:
            sample, good = self._open(number)
            samples.append(sample)
            present.append(good)
        entries = [self.clips.entries[number] for number in numbers]
        shapes = {tuple(sample.latents.shape) for sample in samples}
        if len(shapes) > 1:
            raise BadClip(f"{entries[0].id} and others have different sizes {sorted(shapes)}; set train.micro_batch=1")
        (shape,) = shapes
        drawn = [draw_clip(law, shape, seed, at, entry.id) for entry in entries]
        captions = [
            choose_caption(entry, self.stage.data.captions, stream(seed, at, entry.id, "caption")) for entry in entries
        ]
        features, mask = self.text(samples, captions, [d.drop_text for d in drawn])
        # Without any camera the branches stay off; a share without one sees a camera that stands still.
        if 0 < law.camera_drop < 1:
            samples = [no_camera(s) if d.drop_camera else s for s, d in zip(samples, drawn, strict=True)]
        sigma = torch.stack([sigma_of(d.index_t, law.shift) for d in drawn])
        weight = torch.tensor(present, dtype=torch.float32)[:, None].expand(-1, shape[1]).clone()
        weight[[d.given for d in drawn], 0] = 0
        if not law.count_clean:
            weight[sigma == 0] = 0
        counted = weight.sum(1)
        clean = torch.stack([s.latents for s in samples])
        noise = torch.stack([d.noise for d in drawn])
        camera, plucker = (torch.stack([getattr(s, part) for s in samples]) for part in ("camera", "plucker"))
        starts = law.starts(shape[1])
        more: dict[str, Any] = {"chunk_index": starts if law.chunk_frames else None}
        if self.group is not None:
            shard = Shard(shape[1], self.group)
            clean, noise, plucker = (shard.cut(x, 2) for x in (clean, noise, plucker))
            sigma, weight = (shard.cut(x, 1) for x in (sigma, weight))
            camera = shard.cut(camera, 1, repeat_last=True)
            more["shard"] = shard
        wide = torch.float64 if self.stage.precision.compute == "fp64" else torch.float32
        clean, noise, weight, sigma = (x.to(self.device) for x in (clean.to(wide), noise.to(wide), weight, sigma))
        conditions: dict[str, Any] = {
            "encoder_hidden_states": features.to(self.device, wide),
            "encoder_attention_mask": mask.to(self.device),
            "camera_conditions": None if law.camera_drop == 1 else camera.to(self.device),
            "chunk_plucker": None if law.camera_drop == 1 else plucker.to(self.device, wide),
            **more,
        }
        return Batch(
            [e.id for e in entries],
            noisy_clip(clean, sigma, noise, weight),
            sigma,
            clean,
            counted.to(self.device),
            conditions,
            starts,
            law.behind_clean(seed, at),
        )

    def _open(self, number: int) -> tuple[Sample, bool]:
        """A clip; one that cannot be used ends the run, or counts as nothing and is written down."""
        entry = self.clips.entries[number]
        try:
            sample = self.clips.load(number)
            c, rows, columns = self.stage.model.in_channels, self.stage.data.rows, self.stage.data.columns
            want = (c, entry.frames, rows, columns)
            if tuple(sample.latents.shape) != want:
                raise BadClip(f"{entry.id}: latents have shape {tuple(sample.latents.shape)}, the stage wants {want}")
            return sample, True
        except BadClip as error:
            if self.stage.data.bad == "fail":
                raise
            if self.log is not None:
                with open(self.log, "a") as file:
                    file.write(json.dumps({"id": entry.id, "why": str(error)}) + "\n")
            return self._nothing(entry), False

    def _nothing(self, entry: Entry) -> Sample:
        """A clip of zeros, so that every rank makes the same calls; it carries no loss."""
        s = self.stage
        zeros = torch.zeros(s.model.in_channels, entry.frames, s.data.rows, s.data.columns)
        text = torch.zeros(1, s.model.caption_channels)
        empty = Sample(entry.id, zeros, zeros[:0], zeros[:0], text, text)
        return no_camera(empty)
