"""THE TRAINER LOOP: flow matching on latent clips, one process, resumable to the bit.

One iteration: draw clips by (seed, iteration); draw noise levels and noise from the same counter; put the clips on
the path, keep the first frame clean; predict the velocity; masked squared error; clip the gradient; step; average the
weights. Nothing depends on wall time or on how often the run was stopped.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sana_wm_core.sampling.denoiser import WienerVelocity, measured_spread
from sana_wm_core.training.config import TrainConfig
from sana_wm_core.training.data import LatentBatch, LatentClips
from sana_wm_core.training.losses import NoisyClip, add_noise, draw_sigma, flow_loss
from sana_wm_core.training.optim import Optimizers, block_matrices, nothing

Report = Callable[[dict[str, float]], None]


class WorldTrainer:
    """Everything one run owns: model, text encoder, averaged weights, optimiser, data, cursor.

    Args:
        config: The recipe.
        transformer: A SanaWMTransformer, initialised for training.
        text: A text encoder with `encode(captions)`; its parameters are trained along.
        train, held_out: Latent clips; held_out may be None.
        out: Folder for checkpoints and metrics.jsonl.
    """

    def __init__(
        self,
        config: TrainConfig,
        transformer: nn.Module,
        text: nn.Module,
        train: LatentClips,
        held_out: LatentClips | None,
        out: str | Path,
    ) -> None:
        self.config, self.train, self.held_out, self.out = config, train, held_out, Path(out)
        self.device = torch.device(config.device)
        self.model = nn.ModuleDict({"transformer": transformer, "text": text}).to(self.device)
        self.trained = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        # The compiled form shares the parameters; checkpoints and averages use the plain names.
        self.velocity: Callable[..., Any] = torch.compile(transformer) if config.compile else transformer
        self.spread = measured_spread(train.latents[:, :, 1:])
        if config.prediction == "wiener":
            self.velocity = WienerVelocity(self.velocity, self.spread).to(self.device)
        self.average = {k: p.detach().clone() for k, p in self.trained.items()}
        choice = block_matrices if config.muon else nothing
        rates = (config.learning_rate, config.learning_rate * config.muon_rate)
        self.optimizers = Optimizers(self.trained, rates, config.weight_decay, choice)
        self.iteration = 0
        self.out.mkdir(parents=True, exist_ok=True)

    def run(self, report: Report | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to config.iterations, saving on cadence and once more when stopped."""
        self.model.train()
        while self.iteration < self.config.iterations and not stop():
            started = time.perf_counter()
            metrics = self.step()
            metrics["seconds"] = time.perf_counter() - started
            if self.iteration % self.config.validate_every == 0 and self.held_out is not None:
                metrics["held_out"] = self.held_out_loss()
            if self.iteration % self.config.log_every == 0:
                self._log(metrics)
                if report is not None:
                    report(metrics)
            if self.iteration % self.config.save_every == 0:
                self.save()
        self.save()

    def step(self) -> dict[str, float]:
        """One iteration; returns what to log."""
        cfg = self.config
        random = torch.Generator().manual_seed(cfg.seed * 1_000_003 + self.iteration)
        clips = self.train.draw(cfg.seed, self.iteration, cfg.batch)
        batch = self.train.batch(clips, self._starts(random), cfg.window)
        clip = self._noisy(batch.latents, random)
        captions = self._drop_text(batch.captions, random)
        rate = cfg.learning_rate_at(self.iteration)
        for group in self.optimizers.groups:
            group["lr"] = group["base_lr"] * rate

        loss = flow_loss(self._velocity(clip, batch, captions), clip).mean()
        if not torch.isfinite(loss):
            raise RuntimeError(f"loss is {loss.item()} at iteration {self.iteration}; lower the learning rate")
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained.values(), cfg.clip)
        self.optimizers.step()
        self.iteration += 1
        # A short memory at first: the average must not keep the random start alive.
        decay = min(cfg.ema, self.iteration / (self.iteration + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1 - decay)
        return {"iteration": self.iteration, "loss": loss.item(), "grad_norm": float(norm), "lr": rate}

    @torch.no_grad()
    def held_out_loss(self, clips: int = 32) -> float:
        """Loss of the averaged weights on held-out clips, always with the same noise."""
        assert self.held_out is not None
        random = torch.Generator().manual_seed(self.config.seed)
        batch = self.held_out.batch(list(range(min(clips, len(self.held_out)))))
        clip = self._noisy(batch.latents, random, given_always=True)
        live = {k: p.detach().clone() for k, p in self.trained.items()}
        self._copy(self.average)
        self.model.eval()
        loss = flow_loss(self._velocity(clip, batch, batch.captions), clip).mean().item()
        self.model.train()
        self._copy(live)
        return loss

    def save(self) -> None:
        """Write the whole state to out/last.safetensors, averaged weights included, then rename over the old one."""
        tensors = {f"model.{k}": p.detach() for k, p in self.model.state_dict().items()}
        tensors |= {f"average.{k}": p for k, p in self.average.items()}
        tensors |= {"spread": self.spread}
        tensors |= self.optimizers.state_tensors()
        tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
        meta = {"iteration": str(self.iteration), "config": self.config.model_dump_json()}
        temporary = self.out / f".last.{os.getpid()}.safetensors"
        save_file(tensors, temporary, metadata=meta)
        os.replace(temporary, self.out / "last.safetensors")

    def resume(self) -> None:
        """Continue from out/last.safetensors."""
        from safetensors import safe_open

        path = self.out / "last.safetensors"
        if not path.is_file():
            raise ValueError(f"{self.out}: nothing to resume, no last.safetensors in it")
        with safe_open(path, "pt") as file:
            self.iteration = int(file.metadata()["iteration"])
        tensors = load_file(path, device=str(self.device))
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.average = {k: tensors[f"average.{k}"] for k in self.trained}
        self.optimizers.load_tensors(tensors)

    def averaged(self, part: str) -> dict[str, Tensor]:
        """State dict of a part ("transformer" or "text") with the averaged weights in it."""
        state = {k: v.detach().clone() for k, v in self.model[part].state_dict().items()}
        for key, value in self.average.items():
            if key.startswith(part + "."):
                state[key[len(part) + 1 :]] = value.clone()
        return state

    def _starts(self, random: torch.Generator) -> list[int]:
        """Where in its clip each window starts: anywhere, if the clips can be cut there."""
        last = self.train.latent_frames - (self.config.window or self.train.latent_frames)
        if self.train.stills is None or last <= 0:
            return [0] * self.config.batch
        return torch.randint(last + 1, (self.config.batch,), generator=random).tolist()

    def _noisy(self, latents: Tensor, random: torch.Generator, given_always: bool = False) -> NoisyClip:
        cfg = self.config
        b = latents.shape[0]
        sigma = draw_sigma(b, cfg.shift, cfg.logit_mean, cfg.logit_std, random)
        given = torch.rand(b, generator=random) < cfg.first_frame_given
        noise = torch.randn(latents.shape, generator=random)
        clip = add_noise(latents, sigma, noise, given | given_always)
        return NoisyClip(*(part.to(self.device) for part in clip))

    def _drop_text(self, captions: list[str], random: torch.Generator) -> list[str]:
        drop = torch.rand(len(captions), generator=random) < self.config.text_drop
        return ["" if d else caption for d, caption in zip(drop.tolist(), captions, strict=True)]

    def _velocity(self, clip: NoisyClip, batch: LatentBatch, captions: list[str]) -> Tensor:
        half = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
        embeds, mask = self.model["text"].encode(captions)
        with torch.autocast(self.device.type, half, enabled=half != torch.float32):
            return self.velocity(
                hidden_states=clip.latents,
                timestep=clip.timestep,
                encoder_hidden_states=embeds,
                encoder_attention_mask=mask,
                camera_conditions=batch.camera.to(self.device),
                chunk_plucker=batch.plucker.to(self.device),
                return_dict=False,
            )[0]

    @torch.no_grad()
    def _copy(self, source: dict[str, Tensor]) -> None:
        for key, parameter in self.trained.items():
            parameter.copy_(source[key])

    def _log(self, metrics: dict[str, float]) -> None:
        assert all(math.isfinite(value) for value in metrics.values()), metrics
        with open(self.out / "metrics.jsonl", "a") as file:
            file.write(json.dumps({k: round(v, 6) for k, v in metrics.items()}) + "\n")
