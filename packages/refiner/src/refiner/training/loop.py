"""THE REFINER'S TRAINER: one pair a pass, adapters only, resumable to the bit.

A step: take pairs by (seed, step); draw level and noise by (seed, step, pair); show the refiner the pair on its path,
behind reference frames that it sees clean; compare velocities; cut the gradient; AdamW; log. Reference frames are the
target's first ones: the network passes over them alone at level 0, and their keys and values are fixed anchors for the
others, as the sink is when refining. They carry no loss. Train on the multi-step base and merge into the distilled one.
Reference: training 6.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from refiner.refine import Refiner
from refiner.training.adapter import RefinerLora, add_lora, save_adapter, trained
from refiner.training.objective import SigmaLaw, TruncatedFlow
from refiner.training.pairs import Pair, Pairs

Report = Callable[[dict[str, float]], None]


class RefinerStopped(RuntimeError):
    """The run met numbers it must not go on with; its files are as they were."""


@dataclass(frozen=True)
class RefinerTraining:
    """How the adapters are trained. Rate, steps and batch of the released refiner are not published.

    Attributes:
        steps: Optimiser steps.
        batch: Pairs of a step, one pass each.
        learning_rate: Of AdamW, constant after `warmup` steps.
        clip: Largest gradient norm.
        reference: Latent frames at the start that are seen clean and carry no loss.
        augment: The first stage's latents are mixed with noise by a share drawn from 0 to this; 0 = never.
        fps: Frames per second of the videos; positions in time are seconds.
        recompute: Keep only the input of every block and compute the rest again in the backward pass.
    """

    lora: RefinerLora = field(default_factory=RefinerLora)
    path: TruncatedFlow = field(default_factory=TruncatedFlow)
    law: SigmaLaw = field(default_factory=SigmaLaw)
    steps: int = 1000
    batch: int = 1
    learning_rate: float = 1e-4
    warmup: int = 20
    clip: float = 1.0
    reference: int = 1
    augment: float = 0.0
    fps: float = 16.0
    recompute: bool = True
    seed: int = 0
    log_every: int = 10
    save_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("reference", 1), ("log_every", 1), ("save_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"refiner training: {name}={getattr(self, name)} must be at least {least}")
        if not 0 <= self.augment < 1 or not 0 < self.learning_rate <= 1 or not self.clip > 0:
            raise ValueError(
                f"refiner training: augment={self.augment:g} must be in [0, 1), learning_rate="
                f"{self.learning_rate:g} in (0, 1], clip={self.clip:g} above 0; for example 0, 1e-4, 1"
            )


class RefinerTrainer:
    """One run.

    Args:
        transformer: The base, see refiner.load_transformer; adapters are put on it in place.
        pairs: What to learn from.
        out: Folder for adapter.safetensors, state.safetensors and metrics.jsonl.
        settings: How.
    """

    def __init__(self, transformer: nn.Module, pairs: Pairs, out: str | Path, settings: RefinerTraining) -> None:
        self.model, self.pairs, self.out, self.settings = transformer, pairs, Path(out), settings
        self.layers = add_lora(transformer, settings.lora)
        if settings.recompute:
            recompute_blocks(transformer)
        self.trained = trained(transformer)
        self.optimizer = torch.optim.AdamW(self.trained.values(), settings.learning_rate, weight_decay=0.0)
        self.steps_done = 0

    def run(self, report: Report | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the last step, or until `stop`; saves on cadence and at the end."""
        self.out.mkdir(parents=True, exist_ok=True)
        while self.steps_done < self.settings.steps and not stop():
            started = time.perf_counter()
            metrics = self.step()
            metrics["seconds"] = time.perf_counter() - started
            if self.steps_done % self.settings.log_every == 0:
                with open(self.out / "metrics.jsonl", "a") as file:
                    file.write(json.dumps({k: round(v, 6) for k, v in metrics.items()}) + "\n")
                if report is not None:
                    report(metrics)
            if self.steps_done % self.settings.save_every == 0:
                self.save()
        self.save()

    def step(self) -> dict[str, float]:
        """One optimiser step; returns what to log.

        Raises:
            RefinerStopped: A loss or gradient that is not finite, before the adapters moved.
        """
        s, total = self.settings, {"loss": 0.0, "x0_error": 0.0, "low_error": 0.0, "start_error": 0.0, "sigma": 0.0}
        for place in range(s.batch):
            pair = self.pairs.load(self.number(self.steps_done * s.batch + place))
            loss, metrics = self.loss(pair)
            if not torch.isfinite(loss):
                self.optimizer.zero_grad(set_to_none=True)
                raise RefinerStopped(f"step {self.steps_done}: the loss is {loss.item()} on pair {pair.name}")
            (loss / s.batch).backward()
            for key, value in metrics.items():
                total[key] += value / s.batch
        norm = float(nn.utils.clip_grad_norm_(self.trained.values(), s.clip))
        if not norm < float("inf"):
            bad = [k for k, p in self.trained.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
            self.optimizer.zero_grad(set_to_none=True)
            raise RefinerStopped(f"step {self.steps_done}: the gradient of {bad[:1]} is not finite")
        self.optimizer.param_groups[0]["lr"] = s.learning_rate * min(1.0, (self.steps_done + 1) / max(s.warmup, 1))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        return {"step": self.steps_done, "grad_norm": norm, **total}

    def number(self, place: int) -> int:
        """Which pair comes at a place in the order: every epoch shuffled anew, by seed and epoch alone."""
        epoch, inside = divmod(place, len(self.pairs))
        order = torch.randperm(len(self.pairs), generator=_stream(self.settings.seed, epoch, "order"))
        return int(order[inside])

    def loss(self, pair: Pair) -> tuple[Tensor, dict[str, float]]:
        """Squared velocity error of a pair at this step's level, and what to log.

        Raises:
            ValueError: A pair that is all reference.
        """
        s = self.settings
        if pair.low.shape[2] <= s.reference:
            raise ValueError(
                f"pair {pair.name} has {pair.low.shape[2]} latent frames, all of them reference ({s.reference})"
            )
        random = _stream(s.seed, self.steps_done, pair.name)
        low, high = (x[:, :, s.reference :] for x in (pair.low, pair.high))
        sigma = s.law.draw(low[0, 0].numel(), s.path.start, random)
        if s.augment:
            share = s.augment * float(torch.rand((), generator=random))
            low = (1 - share) * low + share * torch.randn(low.shape, generator=random)
        noisy = s.path.put(low, high, torch.randn(low.shape, generator=random), sigma)
        refiner = Refiner(self.model, pair.text, pair.mask, fps=s.fps, sink=s.reference, window=s.reference + 1)
        state = refiner.begin(pair.high[:, :, : s.reference])
        velocity = refiner.predict(noisy.x.to(state["sink_key.0"]), sigma, state).float()
        loss = (velocity - noisy.target.to(velocity.device)).square().mean()
        with torch.no_grad():
            errors = {
                "loss": float(loss),
                "x0_error": float(loss) * sigma**2,  # x - sigma v against x_h
                "low_error": float((low - high).square().mean()),
                "start_error": float((noisy.start - high).square().mean()),
                "sigma": sigma,
            }
        return loss, errors

    def save(self) -> None:
        """Write the adapters, and beside them everything a resumed run needs."""
        save_adapter(self.model, self.settings.lora, self.out / "adapter.safetensors")
        tensors = {f"lora.{k}": p.detach() for k, p in self.trained.items()}
        for name, p in self.trained.items():
            tensors |= {f"optim.{name}#{k}": torch.as_tensor(v) for k, v in self.optimizer.state.get(p, {}).items()}
        meta = {"step": str(self.steps_done), "settings": json.dumps(asdict(self.settings))}
        temporary = self.out / f".state.{os.getpid()}"
        save_file({k: v.contiguous().cpu().clone() for k, v in tensors.items()}, temporary, metadata=meta)
        os.replace(temporary, self.out / "state.safetensors")

    def resume(self) -> None:
        """Go on from out/state.safetensors.

        Raises:
            ValueError: None there, or a run with other settings; they are named.
        """
        path = self.out / "state.safetensors"
        if not path.is_file():
            raise ValueError(f"{self.out}: nothing to resume, no state.safetensors in it")
        with safe_open(path, "pt") as file:
            meta = file.metadata()
            free = {"steps", "log_every", "save_every", "recompute"}
            before, now = json.loads(meta["settings"]), json.loads(json.dumps(asdict(self.settings)))
            changed = [f"{k}: {before.get(k)} -> {now[k]}" for k in now if k not in free and before.get(k) != now[k]]
            if changed:
                raise ValueError(f"{self.out}: the run was started with other settings: {'; '.join(changed)}")
            with torch.no_grad():
                for name, p in self.trained.items():
                    p.copy_(file.get_tensor(f"lora.{name}"))
                    entries = [k for k in file.keys() if k.startswith(f"optim.{name}#")]  # noqa: SIM118
                    held = {k.split("#")[1]: file.get_tensor(k) for k in entries}
                    if held:
                        # AdamW counts its steps on the CPU.
                        self.optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in held.items()}
        self.steps_done = int(meta["step"])


def recompute_blocks(transformer: Any) -> None:
    """Let every block be computed again in the backward pass; diffusers' class has no switch for it."""
    for block in transformer.transformer_blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def _stream(seed: int, step: int, name: str) -> torch.Generator:
    """Random numbers by address: the same whoever asks, in whatever order."""
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
