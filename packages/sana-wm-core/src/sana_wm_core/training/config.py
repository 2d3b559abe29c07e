"""The recipe of a training run."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """How long, how fast, on what noise; the model's sizes live in its own config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(10_000, ge=1, description="Optimiser steps.")
    batch: int = Field(16, ge=1, description="Clips in a step.")
    window: int = Field(0, ge=0, description="Latent frames cut from a random place of each clip; 0 = whole clips.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak rate of both optimisers.")
    warmup: int = Field(100, ge=0, description="Iterations of linear rise.")
    cooldown: float = Field(0.3, ge=0, le=1, description="Share of the run in which the rate falls to zero.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    clip: float = Field(1.0, gt=0, description="Largest global gradient norm.")
    muon: bool = Field(True, description="Muon for the block matrices; off = AdamW everywhere.")
    muon_rate: float = Field(1.0, gt=0, description="Muon's rate over learning_rate; a short run likes 3.")
    ema: float = Field(0.998, ge=0, lt=1, description="Memory of the averaged weights.")
    prediction: Literal["velocity", "wiener"] = Field(
        "velocity", description="What the transformer's output means; wiener is for narrow models (sampling/denoiser)."
    )
    shift: float = Field(2.0, ge=0.1, le=20, description="Flow shift of the training noise levels.")
    logit_mean: float = Field(0.0, description="Mean of the logit-normal.")
    logit_std: float = Field(1.0, gt=0, description="Spread of the logit-normal.")
    first_frame_given: float = Field(0.95, ge=0, le=1, description="Share of clips whose first frame is clean.")
    text_drop: float = Field(0.1, ge=0, le=1, description="Share of clips with the empty caption.")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Compute type; weights and state stay float32.")
    device: str = Field("cpu", description="Where to train, such as cpu or cuda.")
    compile: bool = Field(
        False,
        description="torch.compile the transformer: a minute or more to start; measure what it gains.",
    )
    seed: int = Field(7, ge=0, description="Seed of data order, noise and dropout.")
    log_every: int = Field(20, ge=1, description="Iterations between metric lines.")
    validate_every: int = Field(200, ge=1, description="Iterations between held-out losses.")
    save_every: int = Field(200, ge=1, description="Iterations between checkpoints.")

    def learning_rate_at(self, iteration: int) -> float:
        """Share of the peak rate: linear rise, plateau, linear fall to zero over the cooldown."""
        rise = min(1.0, (iteration + 1) / max(self.warmup, 1))
        left = self.iterations - iteration
        fall = min(1.0, left / max(math.ceil(self.cooldown * self.iterations), 1))
        return rise * fall
