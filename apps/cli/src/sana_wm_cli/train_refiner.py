"""sana-wm train refiner and merge: adapters of the second stage, and the weights they are folded into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from refiner.training.job import RefinerJob

STOPPED_ON_NUMBERS = 3


def refiner(
    settings: Annotated[str, typer.Argument(help="A .toml file of settings; without one, the released sizes.")] = "",
    base: Annotated[
        str, typer.Option("--base", help="Multi-step LTX-2 transformer, a folder with config.json and weights.")
    ] = "",
    data: Annotated[str, typer.Option("--data", help="Folder of `data pairs`.")] = "",
    out: Annotated[str, typer.Option("--out", help="Folder of the run.")] = "",
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="lora.rank=16, train.steps=200, ...; may be repeated.")
    ] = None,
    resume: Annotated[str, typer.Option("--resume", help="Go on with the run in this folder.")] = "",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Print parameters, tokens and memory, and stop.")] = False,
) -> None:
    """Train the refiner's adapter on pairs of latents: rank 384 on attention and feed-forward, truncated levels."""
    from refiner.training import RefinerStopped
    from refiner.training.job import refiner_plan, start_refiner_job

    from sana_wm_cli.errors import say

    job = _job(settings, base, data, changes or [], resume, device)
    for line in refiner_plan(job):
        typer.echo(line)
    if plan:
        return
    folder = resume or out
    if not folder:
        raise ValueError("--out is missing: a folder for the run, for example --out out/refiner-run")
    from sana_wm_cli.train import stop_when_asked

    trainer = start_refiner_job(job, folder, bool(resume))
    total = job.settings.steps

    def report(metrics: dict[str, float]) -> None:
        left_min = (total - metrics["step"]) * metrics["seconds"] / 60
        values = "  ".join(f"{k} {metrics[k]:.4g}" for k in ("loss", "x0_error", "grad_norm", "sigma", "seconds"))
        typer.echo(f"{int(metrics['step']):6d}/{total}  {values}  about {left_min:.0f} min left")

    try:
        trainer.run(report, stop_when_asked())
    except RefinerStopped as error:
        say(str(error))
        raise typer.Exit(STOPPED_ON_NUMBERS) from error
    typer.echo(
        f"{folder}/adapter.safetensors: step {trainer.steps_done}; sana-wm generate --refiner_lora takes it, or fold "
        f"it in: sana-wm train merge {folder} --base DISTILLED --out FOLDER"
    )


def merge(
    adapter: Annotated[Path, typer.Argument(help="A run of `train refiner`, or its adapter.safetensors.")],
    base: Annotated[Path, typer.Option("--base", help="Transformer folder it goes into, usually the distilled one.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the transformer to.")],
    scale: Annotated[float, typer.Option("--scale", help="Strength of the adapter.")] = 1.0,
) -> None:
    """Fold a refiner's adapter into a transformer: refiner/transformer of a model folder."""
    from refiner.training.job import write_merged

    changed = write_merged(base, adapter, out, scale)
    typer.echo(f"{out}: {changed} layers changed")


def _job(settings: str, base: str, data: str, changes: list[str], resume: str, device: str) -> RefinerJob:
    from refiner.training import from_table
    from refiner.training.job import RefinerJob, read_refiner_job

    if resume:
        if settings or base:
            raise ValueError(f"--resume {resume} goes on with its own settings and base; leave out {settings or base}")
        job = read_refiner_job(resume)
        table = _changed(job.settings.table(), changes, resume)
        return job._replace(settings=from_table(table), data=data or job.data, device=device or job.device)
    for flag, value in (("--base", base), ("--data", data)):
        if not value:
            example = "--base refiner/transformer" if flag == "--base" else "--data out/pairs (from `data pairs`)"
            raise ValueError(f"{flag} is missing, for example {example}")
    return RefinerJob(base, data, from_table(_changed(_read(settings), changes, "refiner")), device or "cpu")


def _read(file: str) -> dict[str, Any]:
    import tomllib

    if not file:
        return {}
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{file}: no such settings file; leave it out, or give a .toml with [lora], [train], ...")
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: not TOML ({error})") from error


def _changed(table: dict[str, Any], changes: list[str], name: str) -> dict[str, Any]:
    from sana_wm_core.training.recipe import apply_changes

    apply_changes(table, changes, Path(name))
    return table
