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
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from refiner.refine import Refiner
from refiner.training.adapter import add_lora, save_adapter, trained
from refiner.training.pairs import Pair, Pairs
from refiner.training.settings import RefinerTraining

Report = Callable[[dict[str, float]], None]


class RefinerStopped(RuntimeError):
    """The run met numbers it must not go on with; its files are as they were."""


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
            if self.steps_done % self.settings.log_every == 0 or self.steps_done == self.settings.steps:
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
        seen: list[str] = []
        for place in range(s.batch):
            pair = self.pairs.load(self.number(self.steps_done * s.batch + place))
            seen.append(pair.name)
            loss, metrics = self.loss(pair)
            if not torch.isfinite(loss):
                self.optimizer.zero_grad(set_to_none=True)
                raise RefinerStopped(
                    f"step {self.steps_done}: the loss is {loss.item()} on pair {pair.name}; first tensor that is not "
                    f"finite: {self._not_finite(pair)}"
                )
            (loss / s.batch).backward()
            for key, value in metrics.items():
                total[key] += value / s.batch
        given = {name: p.grad for name, p in self.trained.items() if p.grad is not None}
        total_norm = nn.utils.get_total_norm(list(given.values()))
        norm = float(total_norm)
        if not norm < float("inf"):
            # Named before anything is cut: cutting by such a norm would spread it over all gradients.
            bad = next((name for name, g in given.items() if not torch.isfinite(g).all()), "the adapters")
            self.optimizer.zero_grad(set_to_none=True)
            raise RefinerStopped(f"step {self.steps_done}: the gradient of {bad} is not finite, on {', '.join(seen)}")
        nn.utils.clip_grads_with_norm_(self.trained.values(), s.clip, total_norm)
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
        meta = {"step": str(self.steps_done), "settings": json.dumps(self.settings.table())}
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
            changed = self.settings.differences(json.loads(meta["settings"]))
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
        _drop_later_lines(self.out / "metrics.jsonl", self.steps_done)

    def _not_finite(self, pair: Pair) -> str:
        tensors = {"low": pair.low, "high": pair.high, "text": pair.text} | dict(self.model.named_parameters())
        return next((name for name, x in tensors.items() if not torch.isfinite(x).all()), "the velocity")


def recompute_blocks(transformer: Any) -> None:
    """Let every block be computed again in the backward pass; diffusers' class has no switch for it."""
    for block in transformer.transformer_blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def _drop_later_lines(path: Path, step: int) -> None:
    """Metrics of steps that will be done again, or of which only half a line was written."""
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        path.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= step))


def _stream(seed: int, step: int, name: str) -> torch.Generator:
    """Random numbers by address: the same whoever asks, in whatever order."""
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
