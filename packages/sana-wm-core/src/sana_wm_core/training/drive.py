"""The training command behind both front ends: `sana-wm train PRESET` and `torchrun -m sana_wm_core.training`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from sana_wm_core.training.heap import keep_freed_memory
from sana_wm_core.training.plan import make_plan
from sana_wm_core.training.run import Job, export_run, read_job, start_job
from sana_wm_core.training.stages import Stage, load_stage


def drive(
    preset: str,
    data: str,
    out: str,
    init: str,
    walks: str,
    teacher: str,
    changes: list[str],
    resume: str,
    device: str,
    plan: bool,
    say: Callable[[str], None],
) -> None:
    """Print the plan, then train.

    Args:
        preset: Stage preset or .toml file; empty when resuming.
        data: Where the clips are; wins over the stage's data.path.
        out: Folder of a new run.
        init: First weights; wins over the stage's start.path.
        walks, teacher: What the distillation jobs read.
        changes: `section.field=value`.
        resume: Folder of a run to go on with.
        device: cpu or cuda; empty takes what the run had, or cpu.
        plan: Only print the plan.
        say: Prints a line.

    Raises:
        ValueError: Wrong input, in one line.
    """
    if resume:
        job = read_job(resume)
        if preset:
            raise ValueError(f"--resume {resume} goes on with its own stage; leave out {preset}")
        job = job._replace(stage=changed(job.stage, changes), data=data or job.data, device=device or job.device)
    else:
        if not preset:
            raise ValueError("give a stage preset, such as tiny_hybrid, or --resume DIR")
        stage = load_stage(preset, changes)
        if init:
            stage = stage.model_copy(update={"start": stage.start.model_copy(update={"path": init})})
        job = Job(stage, data, walks, teacher, device or "cpu")
    world = os.environ.get("WORLD_SIZE")
    planned = make_plan(job.stage, int(world) if world else None if plan else 1)
    for line in planned.lines(job.stage):
        say(line)
    if plan:
        if not world:
            say("for more ranks: WORLD_SIZE=64 sana-wm train ... --plan, or --set mesh.dp_shard=32")
        return
    folder = resume or out
    if not folder:
        raise ValueError("--out is missing: a folder for the run, for example --out out/my-run")
    if not (job.data or job.stage.data.path):
        raise ValueError("--data is missing: a manifest, an encoded folder, or upstream's zip folder")
    if job.device == "cpu":
        keep_freed_memory()
    trainer, ranks = start_job(job, folder, bool(resume))
    total = job.stage.train.steps
    say(f"{len(trainer.clips.entries)} clips, {trainer.order.steps_an_epoch} steps an epoch")

    def report(metrics: dict[str, float]) -> None:
        left_min = (total - metrics["step"]) * metrics["seconds"] / 60
        shown = ("loss", "grad_norm", "held_out", "generator_loss", "critic_loss", "seconds")
        values = "  ".join(f"{name} {metrics[name]:.4g}" for name in shown if name in metrics)
        say(f"{int(metrics['step']):6d}/{total}  {values}  about {left_min:.0f} min left")

    try:
        trainer.run(report, _asked_to_stop(say))
    finally:
        _leave()
    if job.stage.lora is not None and trainer.steps_done >= total and ranks.rank == 0:
        ready = export_run(folder, Path(folder) / "weights")
        whole = job.stage.text.kind == "pocket"
        flags = f"--model {ready}" if whole else f"--model BASE --model_path {ready / 'transformer'}"
        say(f"{ready}: adapters merged; sana-wm generate {flags}")


def changed(stage: Stage, changes: list[str]) -> Stage:
    """A stage with `section.field=value` changes.

    Raises:
        ValueError: A malformed change, or one the stage refuses.
    """
    from pydantic import ValidationError

    from sana_wm_core.training.recipe import apply_changes, one_line

    table = stage.model_dump(mode="json", exclude_none=True)
    apply_changes(table, changes, Path(stage.name))
    try:
        return Stage.model_validate(table)
    except ValidationError as error:
        raise ValueError(one_line(Path(stage.name), error)) from error


def _asked_to_stop(say: Callable[[str], None]) -> Callable[[], bool]:
    """True after the first Ctrl-C or SIGTERM: the step in hand is finished and saved; a second Ctrl-C ends at once."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        say("stopping after this step; --resume goes on from here")
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked.is_set


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
