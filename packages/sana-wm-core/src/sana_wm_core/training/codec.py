"""Fit the pocket codec to a set of clips: principal components in closed form, then the decoder by gradient descent."""

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
from torch.nn import functional as F

from sana_wm_core.pocket.codec import PocketCodec, PocketCodecConfig, to_blocks
from sana_wm_core.training.optim import Optimizers, wide_matrices

Clips = np.ndarray  # (clips, frames, H, W, 3) uint8, memory-mapped or not


class CodecTrainConfig(BaseModel):
    """Recipe of a codec fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(3000, ge=1, description="Optimiser steps.")
    batch: int = Field(4, ge=1, description="Clips in a step.")
    frames: int = Field(17, ge=9, description="Frames of a training window, 1 + 8k.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate.")
    cooldown: float = Field(0.4, ge=0, le=1, description="Share of the run in which the rate falls to zero.")
    edge_weight: float = Field(0.25, ge=0, description="Weight of the error of image gradients.")
    detail_weight: float = Field(0.02, ge=0, description="Weight of the error of local detail strength.")
    noise: float = Field(0.05, ge=0, le=1, description="Largest noise on the latents, so that samples decode well.")
    scrambled: float = Field(0.5, ge=0, le=1, description="Share of windows whose fine channels lose their meaning.")
    blocks: int = Field(60_000, ge=100, description="Pixel blocks the components are fitted to.")
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
        self.fitted = False
        parameters = dict(self.codec.named_parameters())
        self.optimizer = Optimizers(parameters, (config.learning_rate, config.learning_rate), 0.0, wide_matrices)

    def run(self, report: Callable[[dict[str, float]], None], stop: Callable[[], bool] = lambda: False) -> None:
        """Fit the components if that is still to do, then train the decoder to config.iterations."""
        if not self.fitted:
            self.fit_components()
        self.spread = self._latent_spread()
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
        with torch.no_grad():
            latents = codec.encode(video)
            level = torch.from_numpy(draw.uniform(0, cfg.noise, (cfg.batch, 1, 1, 1, 1)).astype(np.float32))
            noise = torch.from_numpy(draw.standard_normal(tuple(latents.shape), dtype=np.float32))
            noise = noise.to(latents)
            latents = latents + level.to(latents) * noise
            hit = torch.from_numpy(draw.random((cfg.batch, 4)).astype(np.float32)).to(latents)
            mixed = scramble(latents, hit[:, 3].view(-1, 1, 1, 1, 1) * noise, self.spread, hit[:, 1], hit[:, 2])
            latents = torch.where((hit[:, 0] < cfg.scrambled).view(-1, 1, 1, 1, 1), mixed, latents)
            linear = codec.linear_decode(latents)
        with torch.autocast(torch.device(cfg.device).type, torch.bfloat16):
            output = codec.refined(latents, linear)
        output = output.float()
        error = (output - video).square().mean()
        loss = error + cfg.edge_weight * _edge_error(output, video)
        loss = loss + cfg.detail_weight * (local_detail(output) - local_detail(video)).abs().mean()
        if not torch.isfinite(loss):
            raise RuntimeError(f"codec loss is {loss.item()} at iteration {self.iteration}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        value = self._psnr(output.detach(), video)
        return {
            "iteration": self.iteration,
            "psnr": value,
            "linear": self._psnr(linear, video),
            "loss": loss.item(),
            "lr": rate,
        }

    @torch.no_grad()
    def fit_components(self) -> None:
        """Set the encoder: principal components of blocks of the clips, some mirrored in space or time."""
        draw = np.random.default_rng((self.config.seed, 1 << 40))
        torch.manual_seed(self.config.seed)
        per_clip = max(1, self.config.blocks // len(self.clips))
        samples: dict[str, list[Tensor]] = {"first": [], "later": []}
        for clip in self.clips:
            frames = clip[::-1] if draw.random() < 0.5 else clip
            video = to_video((frames[:, :, ::-1] if draw.random() < 0.5 else frames)[None])
            whole = video[:, :, : (video.shape[2] - 1) // 8 * 8 + 1]
            stills = [to_blocks(whole[:, :, f : f + 1]) for f in range(0, whole.shape[2], 8)]
            for name, blocks in (("first", torch.cat(stills)), ("later", to_blocks(whole[:, :, 1:]))):
                blocks = blocks.flatten(0, 3)
                pick = draw.permutation(len(blocks))[:per_clip]
                samples[name].append(blocks[torch.from_numpy(pick)])
        for name, parts in samples.items():
            values = torch.cat(parts)
            mean = values.mean(0)
            channels = min(self.codec.latent_channels, *values.shape)
            _, sizes, basis = torch.svd_lowrank(values - mean, q=min(channels + 64, *values.shape), niter=3)
            spread = sizes[:channels] / len(values) ** 0.5
            # Dividing by the square root of the spread; the constant makes the mean variance over channels one.
            scale = spread.sqrt() * spread.mean().sqrt()
            getattr(self.codec, f"{name}_basis")[:, :channels] = basis[:, :channels]
            getattr(self.codec, f"{name}_mean").copy_(mean)
            getattr(self.codec, f"{name}_scale")[:channels] = scale.clamp_min(1e-6)
        self.fitted = True

    @torch.no_grad()
    def _latent_spread(self) -> Tensor:
        some = np.linspace(0, len(self.clips) - 1, min(32, len(self.clips))).astype(int)
        latents = torch.cat([self.codec.encode(to_video(self.clips[i : i + 1]).to(self.config.device)) for i in some])
        return latents[:, :, 1:].std(dim=(0, 2, 3, 4))

    @staticmethod
    def _psnr(a: Tensor, b: Tensor) -> float:
        return float(10 * torch.log10(4.0 / (a - b).square().mean().clamp_min(1e-10)))

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
        self.fitted = True
        if not optimizer:
            return
        with safe_open(path, "pt") as file:
            self.iteration = int(file.metadata()["iteration"])
        self.optimizer.load_tensors(tensors)


def local_detail(video: Tensor) -> Tensor:
    """Strength of fine detail of video (b, 3, f, H, W): RMS of the Laplacian of luma over 8 x 8 pixels, (b, f, y, x).

    Matching it asks for as much detail as there should be, not for each pixel of it: what a decoder cannot know it may
    draw, where squared error alone would leave grey.
    """
    luma = (video * video.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1, 1)).sum(1)
    around = luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1] + luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:]
    return (F.avg_pool2d((4 * luma[..., 1:-1, 1:-1] - around).square(), 8, ceil_mode=True) + 1e-5).sqrt()


def scramble(latents: Tensor, noise: Tensor, spread: Tensor, start: Tensor, strength: Tensor) -> Tensor:
    """Replace the fine channels of all but the first latent frame by noise, softly from channel `start` on.

    This is what a world model that knows the large shapes but not the detail samples: grain with many steps, too little
    of everything with few. The decoder learns to make believable pictures of both.

    Args:
        latents: (b, c, t, y, x), channels from coarse to fine.
        noise: Same shape; standard normal keeps the spread of the channels, less of it shrinks them.
        spread: (c,) standard deviation of each channel.
        start: (b,) in [0, 1], share of the channels that stay.
        strength: (b,) in [0, 1], 1 = the finest channels keep nothing.
    """
    place = torch.linspace(0, 1, latents.shape[1], device=latents.device)
    angle = 0.5 * torch.pi * strength[:, None] * ((place - start[:, None]) / 0.25).clamp(0, 1)
    angle = angle[:, :, None, None, None].expand(-1, -1, latents.shape[2], 1, 1).clone()
    angle[:, :, 0] = 0
    return angle.cos() * latents + angle.sin() * spread.view(1, -1, 1, 1, 1) * noise


def _edge_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences: keeps edges sharp where squared error would blur."""
    difference = a - b
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
