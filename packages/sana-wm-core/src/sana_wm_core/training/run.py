"""One call from a stage to a finished run: weights, ranks, clips, trainer; and from a run to weights people can use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.pocket import Pocket, load_pocket, save_pocket
from sana_wm_core.sampling.denoiser import WienerVelocity
from sana_wm_core.training.batches import Batches, TextSource
from sana_wm_core.training.checkpoint import complete, latest, read_meta, read_weights
from sana_wm_core.training.clips import open_clips
from sana_wm_core.training.parallel.mesh import Ranks, spread, start_ranks
from sana_wm_core.training.samples import SampleWriter
from sana_wm_core.training.stage_loop import StageTrainer
from sana_wm_core.training.stages import Stage, load_stage
from sana_wm_core.training.starting import begin

STAGE = "stage.json"


class Job(NamedTuple):
    """A run as its folder remembers it."""

    stage: Stage
    data: str
    walks: str = ""
    teacher: str = ""
    device: str = "cpu"


def write_job(out: Path, job: Job) -> None:
    """Remember a run in its folder."""
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{STAGE}.{os.getpid()}"
    temporary.write_text(json.dumps({**job._asdict(), "stage": job.stage.model_dump(mode="json")}, indent=1) + "\n")
    os.replace(temporary, out / STAGE)


def read_job(out: str | Path) -> Job:
    """What a folder's run was started with.

    Raises:
        ValueError: No run there.
    """
    path = Path(out) / STAGE
    if not path.is_file():
        raise ValueError(
            f"{out}: nothing to resume, no {STAGE} in it; start a run with `sana-wm train PRESET --out {out}`"
        )
    held = json.loads(path.read_text())
    return Job(**{**held, "stage": Stage.model_validate(held["stage"])})


def start_job(job: Job, out: str | Path, resume: bool) -> tuple[StageTrainer, Ranks]:
    """Build the trainer of a run; resumed, or new in an empty folder.

    Raises:
        ValueError: The folder already holds a run, or anything the parts refuse.
    """
    stage, out = job.stage, Path(out)
    ranks = start_ranks(stage, job.device)
    if not resume and (out / STAGE).is_file():
        raise ValueError(f"{out}: already holds a run of {read_job(out).stage.name}; --resume {out}, or another --out")
    clips = open_clips(job.data or stage.data.path)
    if stage.distill is not None and stage.start.path and complete(stage.start.path):
        check_step_list(stage.start.path, stage.distill.step_list)
    pocket = _pocket(stage)
    # A resumed run gets everything from its checkpoint, except what adapters leave alone and a score that never moves.
    anew = resume and stage.lora is None and stage.distill is None
    start = stage.start.model_copy(update={"path": ""}) if anew else stage.start
    model, _ = begin(stage.model, start, stage.train.seed)
    if stage.lora is not None:
        from sana_wm_core.training.adapters import add_lora

        if ranks.together:
            raise ValueError("adapters train in one process; leave torchrun out, or remove the [lora] section")
        add_lora(model, stage.lora, torch.bfloat16 if stage.precision.compute == "bf16" else None)
        model.gradient_checkpointing = stage.precision.checkpoint_blocks
        model.to(job.device)
    else:
        model.to(job.device)
        spread(model, stage.precision, ranks)
    text = TextSource(None if pocket is None else pocket.text_encoder.requires_grad_(False))
    more: dict[str, Any] = {"spread": _latent_spread(stage, pocket), "device": job.device}
    trainer: StageTrainer
    if stage.distill is None:
        trainer = StageTrainer(stage, model, text, clips, out, ranks, **more)
    elif stage.distill.job == "ode":
        from sana_wm_core.training.distill.ode import OdeTrainer

        trainer = OdeTrainer(stage, model, text, clips, out, ranks, walks=job.walks, **more)
    else:
        from sana_wm_core.training.distill.self_forcing import SelfForcingTrainer

        trainer = SelfForcingTrainer(stage, model, text, clips, out, ranks, teacher=job.teacher, **more)
    if pocket is not None and not ranks.together and stage.train.sample_every:
        trainer.write_sample = SampleWriter(pocket.codec, stage.train.sample_steps)
    if resume:
        trainer.resume()
    elif ranks.rank == 0:
        write_job(out, job)
    return trainer, ranks


def load_run(run: str | Path) -> tuple[Stage, SanaWMTransformer]:
    """The stage of a run and its newest weights on one process, averaged and merged where that applies; eval mode."""
    job = read_job(run)
    weights = read_weights(run)
    if job.stage.lora is not None:
        from sana_wm_core.training.adapters import add_lora, fill_lora, merged_state

        model, _ = begin(job.stage.model, job.stage.start, job.stage.train.seed)
        plain = SanaWMTransformer(job.stage.model)
        add_lora(model, job.stage.lora)
        fill_lora(model, {k.replace(".default.", "."): t for k, t in weights.items()})
        plain.load_state_dict(merged_state(model))
        return job.stage, plain.eval()
    plain = SanaWMTransformer(job.stage.model)
    plain.load_state_dict(weights, strict=False)
    return job.stage, plain.eval()


def export_run(run: str | Path, out: str | Path, borrow: bool = False) -> Path:
    """Write what a run has learnt as files others read.

    A stage of the pocket's kind becomes a pocket world that `generate --model` takes, a student's step list in it; any
    other the transformer folder of the diffusers layout, the step list beside. Adapters are also written by themselves.

    Args:
        run: Folder of the run.
        out: Folder to write to.
        borrow: Leave codec and text encoder out: they are the bundled pocket world's.

    Raises:
        ValueError: No run there, or borrowing for a stage that did not train on the bundled pocket's latents.
    """
    stage, model = load_run(run)
    out = Path(out)
    pocket = _pocket(stage)
    if borrow and (pocket is None or stage.text.path):
        raise ValueError(f"{run}: only a stage on the bundled pocket's latents and text can leave them out (--borrow)")
    if pocket is None:
        model.save_pretrained(out / "transformer")
    else:
        spread_held = _latent_spread(stage, pocket)
        preset = pocket.preset.model_copy(
            update={
                "flow_shift": stage.objective.shift,
                "chunk": stage.objective.chunk_frames,
                "step_list": stage.distill.step_list if stage.distill else (),
                "steps": len(stage.distill.step_list) - 1 if stage.distill else pocket.preset.steps,
                "borrows": borrow,
                "latent_spread": None
                if spread_held is None
                else tuple(float(round(s, 4)) for s in spread_held.tolist()),
            }
        )
        save_pocket(Pocket(model, pocket.codec, pocket.text_encoder, preset), out, torch.float16)
    if stage.lora is not None:
        from sana_wm_core.training.adapters import add_lora, fill_lora, save_lora

        bare = SanaWMTransformer(stage.model)
        add_lora(bare, stage.lora)
        fill_lora(bare, {k.replace(".default.", "."): t for k, t in read_weights(run).items()})
        save_lora(bare, stage.lora, out / "adapter")
    if stage.distill is not None and pocket is None:
        (out / "steps.json").write_text(json.dumps({"step_list": list(stage.distill.step_list)}) + "\n")
    return out


def make_walks(
    preset: str,
    changes: list[str],
    data: str | Path,
    teacher: str | Path,
    out: str | Path,
    parts: int,
    every: int = 1,
    together: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Walk a chunk-causal teacher over the training clips of a folder, for the ODE stage `preset`.

    Raises:
        ValueError: A stage without a step list, or a teacher that is no run.
    """
    from sana_wm_core.training.distill.ode import write_walks

    stage = load_stage(preset, changes)
    if stage.distill is None:
        raise ValueError(f"{preset} has no step list; walks are for a stage such as pocket_ode")
    _, model = load_run(teacher)
    pocket = _pocket(stage)
    held = _latent_spread(stage, pocket)
    inner: torch.nn.Module = model if held is None else WienerVelocity(model, held)

    def velocity(*args: Any, **more: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.precision.compute == "bf16"):
            return inner(*args, **more)

    text = TextSource(None if pocket is None else pocket.text_encoder.requires_grad_(False))
    batches = Batches(stage, open_clips(data), text, None, torch.device("cpu"), None)
    write_walks(stage, velocity, batches, out, parts, every, together, report)


def check_step_list(run: str | Path, steps: tuple[float, ...]) -> None:
    """Refuse a step list a student was not made for.

    Raises:
        ValueError: Another list than the one in the newest checkpoint.
    """
    distill = read_meta(latest(run))["distill"]
    if distill is not None and tuple(distill["step_list"]) != tuple(steps):
        want, got = (",".join(f"{s:g}" for s in x) for x in (distill["step_list"], steps))
        raise ValueError(f"{run}: the student was made for the steps {want}, not {got}")


def _pocket(stage: Stage) -> Pocket | None:
    return load_pocket(stage.text.path or None) if stage.text.kind == "pocket" else None


def _latent_spread(stage: Stage, pocket: Pocket | None) -> Tensor | None:
    if stage.objective.prediction == "velocity":
        return None
    if pocket is None or pocket.preset.latent_spread is None:
        raise ValueError("objective.prediction=wiener needs the latent spread of a pocket world; set text.kind=pocket")
    return torch.tensor(pocket.preset.latent_spread)
