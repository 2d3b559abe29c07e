"""Fit the pocket codec to a set of clips: principal components in closed form, then the decoder by gradient descent.

The decoder learns from windows of the clips and, once a world model can be sampled, from what that model imagines for
them (imagine.py): each where the other is blind, true latents for fidelity and sampled ones for what they leave open.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana_wm_core.pocket.codec import PocketCodec, PocketCodecConfig, to_blocks
from sana_wm_core.training.codec_losses import edge_error, local_detail, psnr
from sana_wm_core.training.imagine import Imagined
from sana_wm_core.training.optim import Optimizers, wide_matrices

Clips = np.ndarray  # (clips, frames, H, W, 3) uint8, memory-mapped or not


class CodecTrainConfig(BaseModel):
    """Recipe of a codec fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(3000, ge=0, description="Optimiser steps of the decoder; 0 fits the components alone.")
    batch: int = Field(4, ge=1, description="Clips in a step.")
    frames: int = Field(17, ge=9, description="Frames of a training window, 1 + 8k.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate.")
    cooldown: float = Field(0.4, ge=0, le=1, description="Share of the run in which the rate falls to zero.")
    edge_weight: float = Field(0.1, ge=0, description="Weight of the error of image gradients, on true latents.")
    detail_weight: float = Field(0.05, ge=0, description="Weight of the error of detail strength, on sampled latents.")
    noise: float = Field(0.05, ge=0, le=1, description="Largest noise on the latents, so that samples decode well.")
    imagined: float = Field(0.5, ge=0, le=1, description="Share of steps on sampled latents, where there are some.")
    blocks: int = Field(60_000, ge=100, description="Pixel blocks the components are fitted to.")
    seed: int = Field(7, ge=0, description="Seed of windows and noise.")
    save_every: int = Field(200, ge=1, description="Iterations between checkpoints.")
    device: str = Field("cpu", description="Where to train.")


def to_video(frames: np.ndarray) -> Tensor:
    """uint8 (b, f, H, W, 3) to float (b, 3, f, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(frames, order="C")).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def turned(frames: np.ndarray, mirrored: bool, backwards: bool) -> np.ndarray:
    """Frames (f, H, W, 3) flipped left to right, played backwards, or both."""
    frames = frames[::-1] if backwards else frames
    return frames[:, :, ::-1] if mirrored else frames


class CodecTrainer:
    """One codec fit: the codec, its optimiser, the cursor.

    Args:
        config: The recipe.
        codec_config: Sizes of the codec.
        clips: Frames of the training clips.
        out: Folder for the checkpoint and codec_metrics.jsonl.
        imagined: Sampled latents of some of the clips (load_imagined); none at the first fit.
    """

    def __init__(
        self,
        config: CodecTrainConfig,
        codec_config: PocketCodecConfig,
        clips: Clips,
        out: str | Path,
        imagined: Sequence[Imagined] = (),
    ) -> None:
        self.config, self.clips, self.out, self.imagined = config, clips, Path(out), imagined
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
        """One iteration, on random windows or on an imagined clip."""
        cfg, codec = self.config, self.codec
        draw = np.random.default_rng((cfg.seed, self.iteration))
        left = cfg.iterations - self.iteration
        fall = min(1.0, left / max(1.0, cfg.cooldown * cfg.iterations))
        rate = cfg.learning_rate * fall * min(1.0, (self.iteration + 1) / 100)
        for group in self.optimizer.groups:
            group["lr"] = rate
        dreamt = bool(self.imagined) and draw.random() < cfg.imagined
        with torch.no_grad():
            video, latents = self._imagined_clip(draw) if dreamt else self._windows(draw)
            linear = codec.linear_decode(latents)
        with torch.autocast(torch.device(cfg.device).type, torch.bfloat16):
            output = codec.refined(latents, linear, encoded=1 if dreamt else latents.shape[2])
        output = output.float()
        loss = (output - video).square().mean()
        if dreamt:
            # Sampled latents leave detail open: ask for as much of it as there should be, not for each pixel.
            loss = loss + cfg.detail_weight * (local_detail(output) - local_detail(video)).abs().mean()
        else:
            loss = loss + cfg.edge_weight * edge_error(output, video)
        if not torch.isfinite(loss):
            raise RuntimeError(f"codec loss is {loss.item()} at iteration {self.iteration}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        return {
            "iteration": self.iteration,
            "imagined": float(dreamt),
            "psnr": float(psnr(output.detach()[None], video[None])),
            "linear": float(psnr(linear[None], video[None])),
            "detail": float(local_detail(output.detach()).mean() / local_detail(video).mean()),
            "loss": loss.item(),
            "lr": rate,
        }

    def _windows(self, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random windows and their noisy latents, each flipped left to right and played backwards half of the time."""
        cfg = self.config
        windows = []
        for clip in draw.integers(0, len(self.clips), cfg.batch):
            start = int(draw.integers(0, self.clips.shape[1] - cfg.frames + 1))
            window = self.clips[clip, start : start + cfg.frames]
            windows.append(turned(window, draw.random() < 0.5, draw.random() < 0.5))
        video = to_video(np.stack(windows)).to(cfg.device)
        latents = self.codec.encode(video)
        level = torch.from_numpy(draw.uniform(0, cfg.noise, (cfg.batch, 1, 1, 1, 1)).astype(np.float32))
        noise = torch.from_numpy(draw.standard_normal(tuple(latents.shape), dtype=np.float32))
        return video, latents + (level * noise).to(latents)

    def _imagined_clip(self, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A whole clip and the latents that the world model sampled for it."""
        dream = self.imagined[int(draw.integers(0, len(self.imagined)))]
        frames = turned(self.clips[dream.clip], dream.mirrored, dream.backwards)
        latents = dream.latents[None].float().to(self.config.device)
        return to_video(frames[None]).to(self.config.device), latents

    @torch.no_grad()
    def fit_components(self) -> None:
        """Set the encoder: principal components of blocks of the clips, some mirrored in space or time."""
        draw = np.random.default_rng((self.config.seed, 1 << 40))
        torch.manual_seed(self.config.seed)
        per_clip = max(1, self.config.blocks // len(self.clips))
        samples: dict[str, list[Tensor]] = {"first": [], "later": []}
        for clip in self.clips:
            video = to_video(turned(clip, draw.random() < 0.5, draw.random() < 0.5)[None])
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
