"""The objective of every stage: which frames get how much noise, which of them count, and the loss.

Noise levels are indices 0..999 per latent frame; the level of index i is i / 1000 after the flow shift, so index 0 is
exactly clean. Reference: training 2; SANA-WM (arXiv 2605.15178), Training.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sana_wm_core.sampling.chunks import bounds, training_chunks
from sana_wm_core.training.diffusion_forcing import LEVELS, MODES, draw_chunk_levels, draw_index, draw_mode
from sana_wm_core.training.draws import coin, stream
from sana_wm_core.training.losses import NoisyClip, shift_sigma


class Objective(BaseModel):
    """The law of the noise, of what is given, and of what is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shift: float = Field(9.95, ge=0.1, le=100, description="Flow shift of the training noise levels.")
    logit_mean: float = Field(0.0, description="Mean of the logit-normal.")
    logit_std: float = Field(1.0, gt=0, description="Spread of the logit-normal.")
    first_frame_given: float = Field(0.9, ge=0, le=1, description="Share of clips whose first frame is clean.")
    text_drop: float = Field(0.1, ge=0, le=1, description="Share of clips with the empty caption.")
    camera_drop: float = Field(0.0, ge=0, le=1, description="Share of clips that see no camera at all.")
    chunk_frames: int = Field(0, ge=0, description="Latent frames of a chunk; 0 = one level for the whole clip.")
    chunk_rule: Literal["uniform", "first_frame", "first_plus_one"] = Field(
        "first_plus_one", description="How a clip is cut into chunks."
    )
    mixture: dict[str, float] = Field(
        default_factory=lambda: dict(zip(MODES, (0.1, 0.4, 0.4, 0.1), strict=True)),
        description="Weights of the chunk modes.",
    )
    clean_past: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of steps in which, instead of the mixture, every chunk has a level of its own and sees the "
        "clean data of the chunks before it, as in a session.",
    )
    count_clean: bool = Field(True, description="Whether frames at level 0 carry loss, except a given first frame.")
    prediction: Literal["velocity", "wiener"] = Field("velocity", description="What the transformer's output means.")

    @model_validator(mode="after")
    def _check_mixture(self) -> Objective:
        unknown = sorted(set(self.mixture) - set(MODES))
        if unknown or min(self.mixture.values(), default=0) < 0 or sum(self.mixture.values()) <= 0:
            raise ValueError(f"mixture={self.mixture} must give weights to some of {', '.join(MODES)}, all at least 0")
        return self

    def starts(self, frames: int) -> list[int]:
        """First latent frames of the chunks of a clip of this true length; [0] for whole-clip training."""
        return training_chunks(frames, self.chunk_frames, self.chunk_rule) if self.chunk_frames else [0]

    def behind_clean(self, seed: int, step: int) -> bool:
        """Whether the clips of a step see the clean data of earlier chunks; the same for all clips and ranks."""
        return self.chunk_frames > 0 and coin(self.clean_past, stream(seed, step, "", "clean past"))


class ClipDraw(NamedTuple):
    """Everything random about one clip in one step."""

    index_t: Tensor  # (t,) int64 in 0..999, 0 on a given first frame
    noise: Tensor  # (c, t, y, x) standard normal
    given: bool
    drop_text: bool
    drop_camera: bool
    mode: str


def draw_clip(law: Objective, shape: tuple[int, int, int, int], seed: int, step: int, sample: str) -> ClipDraw:
    """Draw levels, noise and coins of one clip of latents (c, t, y, x); a function of its arguments alone."""
    frames = shape[1]
    starts = law.starts(frames)
    levels = stream(seed, step, sample, "levels")
    mode = "whole_clip"
    index = torch.empty(frames, dtype=torch.int64)
    if law.behind_clean(seed, step):
        mode = "clean_past"
        for a, b in bounds(starts, frames):
            index[a:b] = draw_index(law.logit_mean, law.logit_std, levels)
    elif law.chunk_frames:
        chosen = draw_mode(law.mixture, stream(seed, step, sample, "mode"))
        mode = chosen
        for (a, b), level in zip(
            bounds(starts, frames),
            draw_chunk_levels(len(starts), chosen, law.logit_mean, law.logit_std, levels),
            strict=True,
        ):
            index[a:b] = level
    else:
        index[:] = draw_index(law.logit_mean, law.logit_std, levels)
    given = coin(law.first_frame_given, stream(seed, step, sample, "first frame"))
    if given:
        index[0] = 0
    return ClipDraw(
        index,
        torch.randn(shape, generator=stream(seed, step, sample, "noise")),
        given,
        coin(law.text_drop, stream(seed, step, sample, "text")),
        coin(law.camera_drop, stream(seed, step, sample, "camera")),
        mode,
    )


def sigma_of(index: Tensor, shift: float) -> Tensor:
    """Noise level of indices 0..999: exactly 0 for index 0, below 1 for 999."""
    return shift_sigma(index.double() / LEVELS, shift).float()


def noisy_clip(clean: Tensor, sigma_bt: Tensor, noise: Tensor, weight_bt: Tensor) -> NoisyClip:
    """Put clips (b, c, t, y, x) on the path between data and noise, each frame at its own level.

    weight_bt is 1 where a frame counts, 0 for given and padded frames.
    """
    level = sigma_bt[:, None, :, None, None].to(clean.dtype)
    latents = torch.lerp(clean, noise, level)
    # lerp is exact at 0: a given frame stays what it was, bit for bit.
    return NoisyClip(latents, noise - clean, 1000 * sigma_bt[:, None], weight_bt[:, None, :, None, None].float())


class FrameErrors(NamedTuple):
    """Squared velocity error per frame, and which frames count."""

    error_bt: Tensor  # mean over channels and cells
    weight_bt: Tensor

    @property
    def sums(self) -> tuple[Tensor, Tensor]:
        """Per clip (b,): weighted sum of the errors and how many frames count."""
        # where, not a product: a frame that does not count may hold anything, NaN too.
        counted = torch.where(self.weight_bt > 0, self.error_bt, 0.0)
        return (counted * self.weight_bt).sum(1), self.weight_bt.sum(1)

    def mean(self) -> Tensor:
        """Mean over the frames that count of each clip, then over the clips; ()."""
        total, count = self.sums
        return (total / count.clamp_min(1)).mean()


def frame_errors(velocity: Tensor, clip: NoisyClip) -> FrameErrors:
    """Compare a predicted velocity (b, c, t, y, x) with the clip's, in float32 at least."""
    wide = torch.promote_types(velocity.dtype, torch.float32)
    error = (velocity.to(wide) - clip.target).square().mean(dim=(1, 3, 4))
    return FrameErrors(error, clip.weight[:, 0, :, 0, 0].to(wide))


def by_sigma(errors: FrameErrors, sigma_bt: Tensor, bins: int = 5) -> dict[str, float]:
    """Mean error per equal bin of noise level, of the bins that have a frame; keys such as loss_sigma_0.2_0.4."""
    out = {}
    number = (sigma_bt * bins).long().clamp_max(bins - 1)
    for i in range(bins):
        here = errors.weight_bt * (number == i)
        if here.sum() > 0:
            key = f"loss_sigma_{i / bins:g}_{(i + 1) / bins:g}"
            out[key] = float((errors.error_bt.detach() * here).sum() / here.sum())
    return out


def by_chunk(errors: FrameErrors, starts: list[int]) -> dict[str, float]:
    """Mean error per chunk position; keys such as loss_chunk_0."""
    out = {}
    for i, (a, b) in enumerate(bounds(starts, errors.error_bt.shape[1])):
        here = errors.weight_bt[:, a:b]
        if here.sum() > 0:
            out[f"loss_chunk_{i}"] = float((errors.error_bt.detach()[:, a:b] * here).sum() / here.sum())
    return out
