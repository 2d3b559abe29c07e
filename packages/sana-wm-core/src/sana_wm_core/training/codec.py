"""Fit the pocket codec to a set of clips: reconstruct, keep the latents near unit variance, tolerate small noise."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana_wm_core.pocket.codec import PocketCodec, PocketCodecConfig
from sana_wm_core.training.optim import Optimizers, wide_matrices

Clips = np.ndarray  # (clips, frames, H, W, 3) uint8, memory-mapped or not


class CodecTrainConfig(BaseModel):
    """Recipe of a codec fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(3000, ge=1, description="Optimiser steps.")
    batch: int = Field(4, ge=1, description="Clips in a step.")
    frames: int = Field(17, ge=9, description="Frames of a training window, 1 + 8k.")
    learning_rate: float = Field(4e-3, gt=0, description="Peak learning rate.")
    cooldown: float = Field(0.4, ge=0, le=1, description="Share of the run in which the rate falls to zero.")
    edge_weight: float = Field(0.25, ge=0, description="Weight of the error of image gradients.")
    freeze_encoder: bool = Field(False, description="Train the decoder only; the latents keep their meaning.")
    seed: int = Field(7, ge=0, description="Seed of windows and noise.")
    save_every: int = Field(200, ge=1, description="Iterations between checkpoints.")
    device: str = Field("cpu", description="Where to train.")


def to_video(frames: np.ndarray) -> Tensor:
    """uint8 (b, f, H, W, 3) to float (b, 3, f, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], over all but the first axis."""
    error = (a.float() - b.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4.0 / error.clamp_min(1e-10))


class CodecTrainer:
    """One codec fit: the codec, its optimiser, the cursor."""

    def __init__(
        self, config: CodecTrainConfig, codec_config: PocketCodecConfig, clips: Clips, out: str | Path
    ) -> None:
        self.config, self.clips, self.out = config, clips, Path(out)
        torch.manual_seed(config.seed)
        self.codec = PocketCodec(codec_config).to(config.device)
        self.iteration = 0
        self.out.mkdir(parents=True, exist_ok=True)
        parameters = dict(self.codec.named_parameters())
        self.optimizer = Optimizers(parameters, config.learning_rate, 0.0, wide_matrices)

    def run(self, report: Callable[[dict[str, float]], None], stop: Callable[[], bool] = lambda: False) -> None:
        """Train to config.iterations, then measure the latents' mean and spread."""
        while self.iteration < self.config.iterations and not stop():
            started = time.perf_counter()
            metrics = self.step()
            if self.iteration % 20 == 0:
                metrics["seconds"] = time.perf_counter() - started
                with open(self.out / "codec_metrics.jsonl", "a") as file:
                    file.write(json.dumps({k: round(v, 5) for k, v in metrics.items()}) + "\n")
                report(metrics)
            if self.iteration % self.config.save_every == 0:
                self.save()
        if not self.config.freeze_encoder:
            self.measure_latents()
        self.save()

    def step(self) -> dict[str, float]:
        """One iteration on random windows, each flipped left to right and played backwards half of the time."""
        cfg, codec = self.config, self.codec
        draw = np.random.default_rng((cfg.seed, self.iteration))
        windows = []
        for clip in draw.integers(0, len(self.clips), cfg.batch):
            start = int(draw.integers(0, self.clips.shape[1] - cfg.frames + 1))
            window = self.clips[clip, start : start + cfg.frames]
            window = window[::-1] if draw.random() < 0.5 else window
            windows.append(window[:, :, ::-1] if draw.random() < 0.5 else window)
        video = to_video(np.stack(windows)).to(cfg.device)
        left = cfg.iterations - self.iteration
        fall = min(1.0, left / max(1.0, cfg.cooldown * cfg.iterations))
        rate = cfg.learning_rate * fall * min(1.0, (self.iteration + 1) / 100)
        for group in self.optimizer.groups:
            group["lr"] = rate
        with torch.autocast(torch.device(cfg.device).type, torch.bfloat16):
            if cfg.freeze_encoder:
                with torch.no_grad():
                    latents = codec.encode(video)
                noisy = latents + 0.5 * codec.config.noise * torch.randn_like(latents)
                spread = torch.zeros((), device=video.device)
            else:
                raw = codec.raw_latents(video).float()
                mean, std = raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4))
                spread = mean.square().mean() + (std - 1).square().mean()
                noisy = raw + codec.config.noise * torch.randn_like(raw)
            output = codec.raw_decode(noisy)
        output = output.float()
        error = (output - video).square().mean()
        loss = error + cfg.edge_weight * _edge_error(output, video) + 0.01 * spread
        if not torch.isfinite(loss):
            raise RuntimeError(f"codec loss is {loss.item()} at iteration {self.iteration}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        value = float(10 * torch.log10(4.0 / error.detach()))
        return {"iteration": self.iteration, "psnr": value, "loss": loss.item(), "spread": spread.item(), "lr": rate}

    @torch.no_grad()
    def measure_latents(self, count: int = 96) -> None:
        """Set latent_mean and latent_std from whole clips, so that latents leave normalised."""
        some = np.linspace(0, len(self.clips) - 1, min(count, len(self.clips))).astype(int)
        raw = [self.codec.raw_latents(to_video(self.clips[i : i + 1]).to(self.config.device)) for i in some]
        values = torch.cat(raw).float()
        self.codec.latent_mean.copy_(values.mean((0, 2, 3, 4)))
        self.codec.latent_std.copy_(values.std((0, 2, 3, 4)))

    def save(self) -> None:
        """Write codec and optimiser to out/codec_last.safetensors."""
        tensors = {f"codec.{k}": v for k, v in self.codec.state_dict().items()}
        tensors |= self.optimizer.state_tensors()
        meta = {
            "iteration": str(self.iteration),
            "codec_config": self.codec.config.model_dump_json(),
            "config": self.config.model_dump_json(),
        }
        temporary = self.out / f".codec.{os.getpid()}.safetensors"
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, temporary, metadata=meta)
        os.replace(temporary, self.out / "codec_last.safetensors")

    def resume(self, optimizer: bool = True) -> None:
        """Load out/codec_last.safetensors; without the optimiser it is only a start for another fit."""
        path = self.out / "codec_last.safetensors"
        if not path.is_file():
            raise ValueError(f"{self.out}: nothing to resume, no codec_last.safetensors in it")
        tensors = load_file(path, device=self.config.device)
        self.codec.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("codec.")})
        if not optimizer:
            return
        with safe_open(path, "pt") as file:
            self.iteration = int(file.metadata()["iteration"])
        self.optimizer.load_tensors(tensors)


def _edge_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences: keeps edges sharp where squared error would blur."""
    difference = a - b
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
