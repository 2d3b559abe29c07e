"""THE STAGE LOOP: one step of every flow stage, on one process or many, resumable to the bit.

1. The data rank takes its clips of the step; ranks along time take the same ones.
2. Levels, noise and coins are drawn by (seed, step, clip), for whole clips.
3. Noise is added; every rank keeps its own frames, padded at the clip's end.
4. The model predicts the velocity.
5. Squared error of the frames that count; the shares of all ranks add up to the mean over the step's clips.
6. Backward; the gradient's norm is cut; anything not finite stops the run before the weights move.
7. Step, average, log; save and validate on cadence.
Reference: training 10.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.sampling.denoiser import WienerVelocity
from sana_wm_core.training.batches import Batch, Batches, TextSource
from sana_wm_core.training.board import Board
from sana_wm_core.training.checkpoint import Writer, latest, load_into, read_meta
from sana_wm_core.training.clips import ClipSet, Entry, passes
from sana_wm_core.training.distill.rollout import behind_clean
from sana_wm_core.training.objective import FrameErrors, by_chunk, by_sigma, frame_errors
from sana_wm_core.training.order import Order
from sana_wm_core.training.parallel.mesh import Ranks, release, trained_parameters
from sana_wm_core.training.plan import check_batch
from sana_wm_core.training.stage_optim import clip_gradients, make_optimizer, materialise, set_rate, state_tensors
from sana_wm_core.training.stages import Stage, changed_fields
from sana_wm_core.training.watch import watching

Report = Callable[[dict[str, float]], None]
# A validation's draws must not be those of any training step.
_VALIDATION = -1
# Said to be the first tensor that is not finite where all inputs and weights are.
_VELOCITY = "the velocity"


class RunStopped(RuntimeError):
    """The run met numbers it must not go on with; its checkpoints are as they were."""


class StageTrainer:
    """One run of a stage.

    Args:
        stage: The stage.
        model: The transformer, its first weights in it, spread over the ranks (see parallel.mesh.spread).
        text: Captions to features.
        clips: Clips of the data; entries of split "val" are held out.
        out: Folder of the run.
        ranks: This process among all.
        spread: Standard deviation of each latent channel, for objective.prediction = "wiener".
        device: Where the model is.
    """

    def __init__(
        self,
        stage: Stage,
        model: SanaWMTransformer,
        text: TextSource,
        clips: ClipSet,
        out: str | Path,
        ranks: Ranks,
        spread: Tensor | None = None,
        device: str = "cpu",
    ) -> None:
        self.stage, self.model, self.clips, self.ranks = stage, model, clips, ranks
        self.out, self.device = Path(out), torch.device(device)
        self.velocity: nn.Module = model if spread is None else WienerVelocity(model, spread).to(self.device)
        self.trained = trained_parameters(model)
        self.optimizer = make_optimizer(stage.optim, self.trained)
        self.average = {k: p.detach().clone() for k, p in self.trained.items()} if stage.optim.ema else {}
        self.passes = check_batch(stage, ranks.layout)
        wanted = [self.takes(e) for e in clips.entries]
        repeats = [
            e.repeat * stage.data.repeat.get(e.source, 1) if take else 0
            for e, take in zip(clips.entries, wanted, strict=True)
        ]
        self.order = Order([e.frames for e in clips.entries], repeats, stage.train.global_batch, stage.train.seed)
        self.held_out = [i for i, e in enumerate(clips.entries) if e.split == "val"][: stage.train.validate_clips]
        log = self.out / "bad_clips.jsonl" if ranks.rank % ranks.layout.cp == 0 else None
        self.batches = Batches(stage, clips, text, ranks.cp, self.device, log)
        self.steps_done = 0
        self.write_sample: Callable[[StageTrainer], Any] | None = None
        self.board = Board(self.out) if stage.train.tensorboard and ranks.rank == 0 else None
        self.writer = Writer(self.out, stage.saving.keep, stage.saving.background)

    def takes(self, entry: Entry) -> bool:
        """Whether a clip is trained on."""
        return entry.split == "train" and passes(entry, self.stage.data.filters)

    def run(self, report: Report | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the stage's last step, or until `stop`; saves on cadence and at the end."""
        t = self.stage.train
        while self.steps_done < t.steps and not self._agreed(stop()):
            started = time.perf_counter()
            metrics = self.step()
            metrics["seconds"] = time.perf_counter() - started
            if t.validate_every and self.steps_done % t.validate_every == 0 and self.held_out:
                metrics["held_out"] = self.held_out_loss()
                if not self.ranks.together:
                    metrics["transition_norm"] = self.transition_norm()
            if self.steps_done % t.log_every == 0 or "held_out" in metrics or self.steps_done == t.steps:
                self._log(metrics, report)
            if self.steps_done % self.stage.saving.every == 0:
                self.save()
            if self.write_sample is not None and t.sample_every and self.steps_done % t.sample_every == 0:
                self.write_sample(self)
        self.save()
        self.writer.finish()

    def step(self) -> dict[str, float]:
        """One optimiser step; returns what to log."""
        self.model.train()
        lines: list[tuple[FrameErrors, Batch]] = []
        share = torch.zeros((), dtype=torch.float64, device=self.device)
        mine = self.order.rank(self.steps_done, self.ranks.data_rank, self.ranks.layout.data_ranks)
        for n in range(self.passes):
            micro = self.stage.train.micro_batch
            batch = self.batches(mine[n * micro : (n + 1) * micro], self.steps_done)
            errors, counted = self.errors(batch)
            loss = (errors.sums[0] / counted.clamp_min(1)).sum() / self.stage.train.global_batch
            self._stop_unless_finite(loss, errors, batch)
            # FSDP averages gradients over all ranks; shares are to be added.
            (loss * self.ranks.layout.world).backward()
            share += loss.detach()
            lines.append((FrameErrors(errors.error_bt.detach(), errors.weight_bt), batch))
        norm = self._move([batch for _, batch in lines])
        return {"step": self.steps_done, "loss": float(self.ranks.total(share)), "grad_norm": norm} | self._by(lines)

    def errors(self, batch: Batch) -> tuple[FrameErrors, Tensor]:
        """Squared error of every frame this rank holds, and how many frames of each clip count over all ranks (b,)."""
        return frame_errors(
            self.predict_clip(batch, batch.clip.latents, batch.clip.timestep), batch.clip
        ), batch.counted

    def predict_clip(self, batch: Batch, latents: Tensor, timestep: Tensor) -> Tensor:
        """The velocity of a batch's clips: in one pass, or every chunk behind the clean data of earlier ones."""
        if not batch.behind_clean:
            return self.predict(latents, timestep, batch.conditions)
        half = self.stage.precision.compute == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return behind_clean(self.velocity, latents, timestep, batch.clean, batch.conditions, batch.starts)

    def predict(self, latents: Tensor, timestep: Tensor, conditions: dict[str, Any]) -> Tensor:
        """The model's velocity, in the stage's compute type."""
        half = self.stage.precision.compute == "bf16" and not self.ranks.together
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.velocity(hidden_states=latents, timestep=timestep, return_dict=False, **conditions)[0]

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Loss on held-out clips, always with the same noise; averaged weights if there are some."""
        live = {k: p.detach().clone() for k, p in self.trained.items()} if self.average else {}
        for key, value in self.average.items():
            self.trained[key].copy_(value)
        self.model.eval()
        share = torch.zeros((), dtype=torch.float64, device=self.device)
        for number in self.held_out:
            batch = self.batches([number], self.steps_done, draws=_VALIDATION)
            errors, counted = self.errors(batch)
            share += (errors.sums[0] / counted.clamp_min(1)).sum()
        release(self.model)
        for key, value in live.items():
            self.trained[key].copy_(value)
        # Every data rank has seen the same clips.
        return float(self.ranks.total(share)) / (len(self.held_out) * self.ranks.layout.data_ranks)

    @torch.no_grad()
    def transition_norm(self) -> float:
        """The most that any recurrence could amplify on a held-out clip; stays at or below 1."""
        batch = self.batches([self.held_out[0]], self.steps_done, draws=_VALIDATION)
        with watching(self.model) as norms:
            self.predict(batch.clip.latents, batch.clip.timestep, batch.conditions)
        return max(norms, default=0.0)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        meta = {
            "step": self.steps_done,
            "stage": self.stage.name,
            "fingerprint": json.dumps(self.stage.fingerprint()),
            "model": self.stage.model.model_dump_json(),
            "distill": None if self.stage.distill is None else self.stage.distill.model_dump(mode="json"),
        }
        self.writer.save(self.steps_done, self.tensors(), meta)

    def resume(self) -> None:
        """Continue from the newest checkpoint in the run's folder.

        Raises:
            ValueError: None there, or one of a stage with other fields; they are named.
        """
        checkpoint = latest(self.out)
        meta = read_meta(checkpoint)
        changed = changed_fields(self.stage, meta["fingerprint"])
        if changed:
            raise ValueError(f"{self.out}: the run was started with other settings: {'; '.join(changed)}")
        load_into(checkpoint, self.tensors())
        self.steps_done = int(meta["step"])
        if self.ranks.rank == 0:
            _drop_later_lines(self.out / "metrics.jsonl", self.steps_done)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint holds; the tensors are the live ones."""
        materialise(self.optimizer)
        # Adapters leave the rest as it was read; a checkpoint need not repeat it.
        held = self.trained if self.stage.lora else dict(self.model.named_parameters())
        out: dict[str, Tensor] = {f"model.{name}": p for name, p in held.items()}
        out |= {f"average.{name}": value for name, value in self.average.items()}
        return out | state_tensors(self.optimizer, self.trained)

    def first_bad(self, batch: Batch) -> str:
        """The first input or weight that is not finite, by name."""
        inputs = {"latents": batch.clip.latents, "text features": batch.conditions["encoder_hidden_states"]}
        inputs |= {k: v for k, v in batch.conditions.items() if k in ("camera_conditions", "chunk_plucker")}
        tensors = inputs | dict(self.model.named_parameters())
        bad = (k for k, v in tensors.items() if v is not None and not torch.isfinite(_local(v)).all())
        return next(bad, _VELOCITY)

    def _move(self, batches: list[Batch]) -> float:
        optim, t = self.stage.optim, self.steps_done
        norm, bad = clip_gradients(self.trained, optim.clip)
        if bad:
            self.optimizer.zero_grad(set_to_none=True)
            clips = ", ".join(name for batch in batches for name in batch.ids)
            wrong = [name for name in map(self.first_bad, batches) if name != _VELOCITY]
            where = f"; first tensor that is not finite: {wrong[0]}" if wrong else ""
            raise RunStopped(f"step {t}: the gradient of {bad} is not finite, of clips {clips}{where}")
        set_rate(self.optimizer, optim.learning_rate * optim.share(t, self.stage.train.steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        with torch.no_grad():
            for key, value in self.average.items():
                value.lerp_(self.trained[key].detach(), 1 - optim.ema)
        return norm

    def _stop_unless_finite(self, loss: Tensor, errors: FrameErrors, batch: Batch) -> None:
        wrong = torch.tensor(0.0 if torch.isfinite(loss) else 1.0, device=self.device)
        if not float(self.ranks.total(wrong)):
            return
        self.optimizer.zero_grad(set_to_none=True)
        where = "on another rank"
        if float(wrong):
            clips = [name for name, total in zip(batch.ids, errors.sums[0], strict=True) if not torch.isfinite(total)]
            where = f"of clip {', '.join(clips)}; first tensor that is not finite: {self.first_bad(batch)}"
        raise RunStopped(f"step {self.steps_done}: the loss is {loss.item()} {where}")

    def _by(self, lines: list[tuple[FrameErrors, Batch]]) -> dict[str, float]:
        """Loss by noise level and by chunk, of this process's own clips."""
        if (self.steps_done) % self.stage.train.log_every:
            return {}
        errors, batch = lines[-1]
        out = by_sigma(errors, batch.sigma_bt)
        if self.stage.objective.chunk_frames and self.ranks.cp is None:
            out |= by_chunk(errors, batch.starts)
        return out

    def _agreed(self, stop: bool) -> bool:
        """All ranks stop if one was asked to."""
        return float(self.ranks.total(torch.tensor(float(stop), device=self.device))) > 0

    def _log(self, metrics: dict[str, float], report: Report | None) -> None:
        if self.ranks.rank:
            return
        with open(self.out / "metrics.jsonl", "a") as file:
            file.write(json.dumps({k: round(v, 6) for k, v in metrics.items()}) + "\n")
        if self.board is not None:
            self.board.log(metrics)
        if report is not None:
            report(metrics)


def _local(tensor: Tensor) -> Tensor:
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def _drop_later_lines(path: Path, step: int) -> None:
    """Metrics of steps that will be done again."""
    if path.is_file():
        lines = path.read_text().splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept))
