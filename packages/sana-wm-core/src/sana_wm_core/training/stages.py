"""Stages as data: what a stage starts from, what it trains on, how, for how long, and on how many machines.

A stage is a TOML file in presets/, changed with `section.field=value`. The six of the paper, the distillation jobs and
the small ones for trying out are all of this shape. Reference: training 1 and 10; SANA-WM (arXiv 2605.15178), Table 7.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sana_wm_core.config import TransformerConfig
from sana_wm_core.training.objective import Objective
from sana_wm_core.training.recipe import apply_changes, one_line, read_preset


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Start(_Part):
    """Where the weights come from."""

    path: str = Field("", description="Weights: a folder, a .safetensors, a run of an earlier stage; empty = random.")
    reinitialise: list[str] = Field(default_factory=list, description="Tensor name patterns that start anew.")
    may_lack: list[str] = Field(default_factory=list, description="Patterns the weights may lack; they start anew.")
    may_have: list[str] = Field(default_factory=list, description="Patterns the weights may have beyond the model's.")


class Clips(_Part):
    """What is trained on."""

    path: str = Field("", description="Manifest, folder of encoded clips, or upstream's zip folder; --data wins.")
    raw_frames: int = Field(81, ge=1, description="Raw frames of the longest clip, 1 + 8k.")
    rows: int = Field(22, ge=1, description="Latent rows.")
    columns: int = Field(40, ge=1, description="Latent columns.")
    filters: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="Score bounds, inclusive; a clip that lacks the score is rejected."
    )
    repeat: dict[str, int] = Field(default_factory=dict, description="Source name to how often its clips are seen.")
    captions: dict[str, float] = Field(default_factory=dict, description="Caption type weights; empty = all alike.")
    bad: Literal["fail", "skip"] = Field(
        "fail", description="A clip that cannot be read stops the run, or is left out."
    )

    @property
    def latent_frames(self) -> int:
        """Latent frames of the longest clip."""
        return (self.raw_frames - 1) // 8 + 1


class Text(_Part):
    """What turns captions into features."""

    kind: Literal["cached", "pocket"] = Field(
        "cached", description="Features stored with each clip, or pocket's table."
    )
    path: str = Field("", description="Pocket world whose table is used; empty = the bundled one.")
    tokens: int = Field(300, ge=1, description="Tokens of a caption, for the plan.")


class Optim(_Part):
    """How weights move."""

    kind: Literal["adamw", "adamw8bit"] = Field("adamw", description="adamw8bit keeps its state in a byte (torchao).")
    learning_rate: float = Field(1e-5, gt=0, le=1, description="Constant between warm-up and cooldown.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Memories of Adam.")
    eps: float = Field(1e-10, gt=0, description="Adam's epsilon.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    warmup: int = Field(0, ge=0, description="Steps of linear rise.")
    cooldown: float = Field(0.0, ge=0, le=1, description="Share of train.steps in which the rate falls to zero.")
    clip: float = Field(0.5, gt=0, description="Largest global gradient norm.")
    ema: float = Field(0.0, ge=0, lt=1, description="Memory of averaged weights; 0 = none.")

    def share(self, step: int, steps: int) -> float:
        """Share of the learning rate at a step of so many: linear rise, plateau, linear fall."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        return rise * min(1.0, (steps - step) / max(self.cooldown * steps, 1))


class Steps(_Part):
    """How long, and what is written down meanwhile."""

    steps: int = Field(1000, ge=1, description="Optimiser steps.")
    global_batch: int = Field(1, ge=1, description="Clips in a step, over all ranks.")
    micro_batch: int = Field(1, ge=1, description="Clips in one forward pass of a data rank.")
    seed: int = Field(3407, ge=0, description="Seed of data order, noise and dropout.")
    log_every: int = Field(10, ge=1, description="Steps between metric lines.")
    tensorboard: bool = Field(False, description="Also write the metrics for TensorBoard.")
    validate_every: int = Field(0, ge=0, description="Steps between fixed-noise validation losses; 0 = never.")
    validate_clips: int = Field(8, ge=1, description="Held-out clips of a validation.")
    sample_every: int = Field(0, ge=0, description="Steps between sampled videos, on one process; 0 = never.")
    sample_steps: int = Field(8, ge=1, description="Sampler steps of such a video.")


class Mesh(_Part):
    """How ranks are laid out; dp_shard = 0 takes what is left."""

    dp_replicate: int = Field(1, ge=1, description="Copies of the sharded model.")
    dp_shard: int = Field(0, ge=0, description="Ranks a copy is sharded over, besides cp.")
    cp: int = Field(1, ge=1, description="Ranks that share one clip along time.")


class Precision(_Part):
    """Number types and what is computed twice to save memory."""

    compute: Literal["bf16", "fp32", "fp64"] = Field("bf16", description="Forward and backward; masters stay float32.")
    checkpoint_blocks: bool = Field(True, description="Recompute every block in the backward pass.")


class Saving(_Part):
    """When state is written and how much of it is kept."""

    every: int = Field(50, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Checkpoints kept.")
    background: bool = Field(False, description="Write while training goes on.")


class Lora(_Part):
    """Adapters instead of full weights."""

    rank: int = Field(32, ge=1, description="Rank of every adapter.")
    alpha: float = Field(32.0, gt=0, description="Scale numerator: updates are multiplied by alpha / rank.")
    targets: list[str] = Field(
        default_factory=lambda: ["qkv", "attn.proj", "q_proj_cam", "k_proj_cam", "v_proj_cam", "out_proj_cam"],
        description="Ends of the names of the linear layers that get an adapter, whole words between dots.",
    )

    def adapts(self, name: str) -> bool:
        """Whether the layer of this name gets an adapter."""
        return any(f".{name}".endswith(f".{target}") for target in self.targets)


class Distill(_Part):
    """A distillation job."""

    job: Literal["ode", "self_forcing"] = Field(
        "ode", description="Regression on stored walks, or DMD on own rollouts."
    )
    step_list: tuple[float, ...] = Field((1000, 960, 889, 727, 0), description="Timesteps of the student's walk.")
    cached_chunks: int = Field(2, description="Past chunks softmax blocks see, the sink included; 0 = all.")
    sink: bool = Field(True, description="Always see the first chunk.")
    critic_rate: float = Field(2e-6, gt=0, description="Learning rate of the fake score.")
    critic_steps: int = Field(5, ge=1, description="Steps of the fake score to one of the generator.")
    score_shift: float = Field(10.0, gt=0, description="Flow shift of the level scores are asked at.")
    score_range: tuple[float, float] = Field((20.0, 980.0), description="Bounds of that level, timesteps.")
    renoise: bool = Field(
        True, description="Fresh noise between the steps of a rollout, as published; off = the sampler's Euler walk."
    )
    guidance: float = Field(3.0, ge=0, description="Real score: c + guidance (c - u); 0 = c.")
    negative_prompt: str = Field("", description="Caption of u.")

    @model_validator(mode="after")
    def _check_list(self) -> Distill:
        from sana_wm_core.sampling.student import check_steps

        check_steps(self.step_list)
        return self


class Stage(_Part):
    """One training job, whole."""

    name: str
    purpose: str
    source: str = Field("", description="Where the numbers come from.")
    start: Start = Field(default_factory=Start)
    model: TransformerConfig = Field(default_factory=TransformerConfig)
    data: Clips = Field(default_factory=Clips)
    text: Text = Field(default_factory=Text)
    objective: Objective = Field(default_factory=Objective)
    optim: Optim = Field(default_factory=Optim)
    train: Steps = Field(default_factory=Steps)
    mesh: Mesh = Field(default_factory=Mesh)
    precision: Precision = Field(default_factory=Precision)
    saving: Saving = Field(default_factory=Saving)
    lora: Lora | None = None
    distill: Distill | None = None

    @model_validator(mode="after")
    def _check_combination(self) -> Stage:
        if self.distill is not None and not self.objective.chunk_frames:
            raise ValueError("a distillation stage needs objective.chunk_frames above 0, for example 3")
        if self.objective.clean_past and self.mesh.cp > 1:
            raise ValueError("objective.clean_past needs whole clips on a rank; --set mesh.cp=1")
        return self

    def fingerprint(self) -> dict[str, Any]:
        """The fields a resumed run must share with the one it goes on from, flat, by dotted name.

        How long, how often to log and save, the layout of ranks and what is computed twice may change on the way; the
        result does not depend on them.
        """
        free = {"name", "purpose", "source", "mesh", "saving"}
        free_train = {
            "steps",
            "log_every",
            "tensorboard",
            "validate_every",
            "validate_clips",
            "micro_batch",
            "sample_every",
            "sample_steps",
        }
        free_single = {("data", "path"), ("precision", "checkpoint_blocks")}
        out: dict[str, Any] = {}
        for section, value in self.model_dump(mode="json").items():
            if section in free:
                continue
            if not isinstance(value, dict):
                out[section] = value
                continue
            for field, inner in value.items():
                if not (section == "train" and field in free_train) and (section, field) not in free_single:
                    out[f"{section}.{field}"] = inner
        return out


def load_stage(name: str, changes: list[str] | None = None) -> Stage:
    """Read a stage preset by name or a TOML file by path and apply `section.field=value` changes.

    Raises:
        ValueError: Unknown preset or field, or a value out of range; one line says which.
    """
    path, table = read_preset(name)
    while "extends" in table:
        base = read_preset(str(table.pop("extends")))[1]
        table = _merged(base, table)
    apply_changes(table, changes, path)
    if "train" in table and "iterations" in table["train"]:
        raise ValueError(
            f"{path.name} is a recipe of `sana-wm train world`, not a stage; stages are such as tiny_hybrid"
        )
    table.setdefault("name", path.stem)
    table.setdefault("purpose", path.stem)
    try:
        return Stage.model_validate(table)
    except ValidationError as error:
        raise ValueError(one_line(path, error)) from error


def changed_fields(stage: Stage, written: str) -> list[str]:
    """Names of the fields in which a stage differs from a fingerprint written as JSON, with both values."""
    before, now = json.loads(written), json.loads(json.dumps(stage.fingerprint()))
    keys = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    return [f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in keys]


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out
