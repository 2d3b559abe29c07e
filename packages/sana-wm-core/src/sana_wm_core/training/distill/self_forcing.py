"""Self-forcing: the student rolls clips out by itself, and two scores of whole clips say which way they should move.

The real score is a bidirectional teacher, frozen. The fake score starts as the same weights and follows the student's
clips by flow matching. Every step trains the fake score; every so many steps the student moves first.
Reference: training 5.2 to 5.4.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.memory import Window
from sana_wm_core.sampling.chunks import streaming_chunks
from sana_wm_core.sampling.denoiser import WienerVelocity
from sana_wm_core.training.batches import Batch
from sana_wm_core.training.distill.dmd import (
    clean_from,
    critic_loss,
    dmd_gradient,
    generator_loss,
    guided,
    noised,
    score_conditions,
    score_level,
)
from sana_wm_core.training.distill.rollout import roll_out, step_levels
from sana_wm_core.training.draws import stream
from sana_wm_core.training.parallel.mesh import trained_parameters
from sana_wm_core.training.stage_loop import RunStopped, StageTrainer
from sana_wm_core.training.stage_optim import clip_gradients, make_optimizer, materialise, set_rate, state_tensors
from sana_wm_core.training.stages import Start
from sana_wm_core.training.starting import begin


class SelfForcingTrainer(StageTrainer):
    """One run of self-forcing on one process.

    Args:
        teacher: Weights of both scores, as for start.path; empty takes the student's own first weights.
    """

    def __init__(self, *args: Any, teacher: str = "", spread: Tensor | None = None, **more: Any) -> None:
        super().__init__(*args, **{**more, "spread": spread})
        settings = self.stage.distill
        assert settings is not None
        if self.ranks.together:
            raise ValueError("self-forcing runs on one process so far; --set mesh.cp=1, and no torchrun")
        self.settings, self.levels = settings, step_levels(settings.step_list)
        self.window = Window(settings.cached_chunks, settings.sink)
        first, _ = begin(self.stage.model, Start(path=teacher), self.stage.train.seed)
        if not teacher:
            first.load_state_dict(self.model.state_dict())
        self.real = first.to(self.device, next(self.model.parameters()).dtype)
        self.fake = copy.deepcopy(self.real)
        self.real.requires_grad_(False).eval()
        self.fake.gradient_checkpointing = self.stage.precision.checkpoint_blocks
        self.scores = {"real": self._velocity_of(self.real, spread), "fake": self._velocity_of(self.fake, spread)}
        self.fake_trained = trained_parameters(self.fake)
        self.fake_optimizer = make_optimizer(
            self.stage.optim.model_copy(update={"learning_rate": settings.critic_rate}), self.fake_trained
        )

    def step(self) -> dict[str, float]:
        """One step of the fake score; in every so many-th the student moves first, on a batch of its own."""
        self.model.eval()  # as published: no dropout anywhere
        step = self.steps_done
        metrics: dict[str, float] = {}
        place = self.batch_place(step)
        if step % self.settings.critic_steps == 0:
            metrics |= self._move_student(self._batch(place), place)
            place += 1
        metrics |= self._move_fake(self._batch(place), place)
        self.steps_done += 1
        return {"step": self.steps_done, "loss": metrics["critic_loss"], **metrics}

    def batch_place(self, step: int) -> int:
        """How many batches were used before a step: one each, and one more for every move of the student."""
        return step + -(-step // self.settings.critic_steps)

    def exit_step(self, place: int) -> int:
        """Which step of the list a rollout stops after; the same for all its clips and ranks."""
        random = stream(self.stage.train.seed, place, "", "exit")
        return int(torch.randint(len(self.settings.step_list) - 1, (), generator=random))

    def rollout(self, batch: Batch, place: int) -> Tensor:
        """The student's clips (b, c, t, y, x)."""

        def fresh(chunk: int, step: int) -> Tensor:
            return self._noise(batch, place, f"fresh {chunk} {step}")

        frames = batch.clean.shape[2]
        starts = streaming_chunks(frames, self.stage.objective.chunk_frames)
        start, first = self._noise(batch, place, "rollout"), batch.clean[:, :, :1]
        half = self.stage.precision.compute == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return roll_out(
                self.velocity, start, first, batch.conditions, starts, self.levels, self.exit_step(place),
                self.window, fresh if self.settings.renoise else None,
            )  # fmt: skip

    def student_loss(self, batch: Batch, place: int) -> tuple[Tensor, Tensor]:
        """The student's loss, and the size of the direction it is moved in."""
        x = self.rollout(batch, place)
        with torch.no_grad():
            shown, timestep, _ = self._shown(x.detach(), batch, place, "student")
            conditions = score_conditions(batch.conditions)
            fake = clean_from(self._score("fake", shown, timestep, conditions), shown, timestep)
            real = clean_from(self._score("real", shown, timestep, conditions), shown, timestep)
            if self.settings.guidance > 0:
                bare = {**conditions, **self._negative(batch)}
                without = clean_from(self._score("real", shown, timestep, bare), shown, timestep)
                real = guided(real, without, self.settings.guidance)
            gradient = dmd_gradient(x.detach(), fake, real)
        return generator_loss(x, gradient), gradient.abs().mean()

    def fake_loss(self, batch: Batch, place: int) -> Tensor:
        """Flow matching of the fake score on a rollout that carries no gradient."""
        with torch.no_grad():
            x = self.rollout(batch, place)
        shown, timestep, noise = self._shown(x, batch, place, "fake")
        return critic_loss(self._score("fake", shown, timestep, score_conditions(batch.conditions)).float(), x, noise)

    def tensors(self) -> dict[str, Tensor]:
        """Student, fake score and both optimisers."""
        materialise(self.fake_optimizer)
        fake = {f"fake.{k}": p for k, p in self.fake.named_parameters()}
        states = state_tensors(self.fake_optimizer, self.fake_trained)
        return super().tensors() | fake | {k.replace("optim.", "optim_fake.", 1): v for k, v in states.items()}

    def first_bad(self, batch: Batch) -> str:
        """The first input or weight of the student or a score that is not finite, by name."""
        scores = {"fake": self.fake, "real": self.real}
        weights = {f"{who}.{k}": p for who, model in scores.items() for k, p in model.named_parameters()}
        bad = [k for k, p in weights.items() if not torch.isfinite(p).all()]
        own = super().first_bad(batch)
        return bad[0] if own == "the velocity" and bad else own

    def _move_student(self, batch: Batch, place: int) -> dict[str, float]:
        loss, size = self.student_loss(batch, place)
        self._require_finite("generator", loss, batch)
        loss.backward()
        norm = self._descend(self.optimizer, self.trained, self.stage.optim.learning_rate, "generator")
        with torch.no_grad():
            for key, value in self.average.items():
                value.lerp_(self.trained[key].detach(), 1 - self.stage.optim.ema)
        return {
            "generator_loss": float(loss.detach()),
            "generator_grad_norm": norm,
            "dmd_gradient_norm": float(size),
        }

    def _move_fake(self, batch: Batch, place: int) -> dict[str, float]:
        loss = self.fake_loss(batch, place)
        self._require_finite("critic", loss, batch)
        loss.backward()
        norm = self._descend(self.fake_optimizer, self.fake_trained, self.settings.critic_rate, "critic")
        return {"critic_loss": float(loss.detach()), "critic_grad_norm": norm, "grad_norm": norm}

    def _descend(
        self, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], rate: float, who: str
    ) -> float:
        norm, bad = clip_gradients(parameters, self.stage.optim.clip)
        if bad:
            optimizer.zero_grad(set_to_none=True)
            raise RunStopped(f"step {self.steps_done}: the {who}'s gradient of {bad} is not finite")
        set_rate(optimizer, rate * self.stage.optim.share(self.steps_done, self.stage.train.steps))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def _require_finite(self, who: str, loss: Tensor, batch: Batch) -> None:
        if not torch.isfinite(loss):
            where = f"on {', '.join(batch.ids)}; first tensor that is not finite: {self.first_bad(batch)}"
            raise RunStopped(f"step {self.steps_done}: the {who}'s loss is {loss.item()} {where}")

    def _batch(self, place: int) -> Batch:
        return self.batches(self.order.step(place), place)

    def _shown(self, x: Tensor, batch: Batch, place: int, purpose: str) -> tuple[Tensor, Tensor, Tensor]:
        level = torch.stack(
            [score_level(self.settings, stream(self.stage.train.seed, place, i, f"{purpose} level")) for i in batch.ids]
        ).to(self.device)
        noise = self._noise(batch, place, f"{purpose} noise")
        shown, timestep = noised(x, level, noise)
        return shown, timestep, noise

    def _noise(self, batch: Batch, place: int, purpose: str) -> Tensor:
        shape = batch.clean.shape[1:]
        rows = [torch.randn(shape, generator=stream(self.stage.train.seed, place, i, purpose)) for i in batch.ids]
        return torch.stack(rows).to(batch.clean)

    def _score(self, which: str, x: Tensor, timestep: Tensor, conditions: dict[str, Any]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.precision.compute == "bf16"):
            return self.scores[which](hidden_states=x, timestep=timestep, return_dict=False, **conditions)[0]

    def _negative(self, batch: Batch) -> dict[str, Tensor]:
        encoder = self.batches.text.encoder
        if encoder is None:
            raise ValueError(
                "distill.guidance needs the features of a negative prompt; cached text has none: set it to 0"
            )
        features, mask = encoder.encode([self.settings.negative_prompt] * len(batch.ids))
        return {"encoder_hidden_states": features.to(batch.clean), "encoder_attention_mask": mask.to(self.device)}

    def _velocity_of(self, model: SanaWMTransformer, spread: Tensor | None) -> nn.Module:
        return model if spread is None else WienerVelocity(model, spread).to(self.device)
