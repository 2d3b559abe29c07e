"""sana-wm train: stages of the paper and small ones, adapters, distillation; and the pocket's codec and world."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sana_wm_cli.train_refiner import merge, refiner

STOPPED_ON_NUMBERS = 3


class PresetOrCommand(TyperGroup):
    """The first word is a command such as `train world`; any other word is the preset of a stage."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the stage command in front of a preset's name, or of an option that resumes a run."""
        if args and args[0] not in self.list_commands(ctx):
            args = ["stage", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`train --resume DIR` is a stage without a preset."""
        if args and args[0] in ("--resume", "--plan"):
            args = ["stage", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=PresetOrCommand,
    no_args_is_help=True,
    help="Train. A stage: PRESET --data DIR --out DIR [--init WEIGHTS] [--set section.field=value] [--device cuda]; "
    "PRESET --plan prints what it costs; --resume DIR goes on. All options: train stage --help.",
)
app.command()(refiner)
app.command()(merge)

Data = Annotated[Path, typer.Option("--data", help="Folder of clips (codec) or of encoded clips (world).")]
Out = Annotated[Path, typer.Option("--out", help="Folder for checkpoints and metrics.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="section.field=value, may be repeated.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")]


@app.command()
def stage(
    preset: Annotated[str, typer.Argument(help="Stage preset, such as tiny_hybrid, or .toml file.")] = "",
    data: Annotated[str, typer.Option("--data", help="Manifest, encoded folder, or upstream's zip folder.")] = "",
    out: Annotated[str, typer.Option("--out", help="Folder of the run.")] = "",
    init: Annotated[str, typer.Option("--init", help="First weights: a run, a folder, a file, or pocket.")] = "",
    walks: Annotated[str, typer.Option("--walks", help="Folder of `data walks`, for ODE regression.")] = "",
    teacher: Annotated[str, typer.Option("--teacher", help="Weights of both scores, for self-forcing.")] = "",
    changes: Changes = None,
    resume: Annotated[str, typer.Option("--resume", help="Go on with the run in this folder.")] = "",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Print parameters, tokens, memory and ranks, and stop.")] = False,
) -> None:
    """Train a stage; its preset's name alone does it too. Under torchrun use python -m sana_wm_core.training."""
    from sana_wm_core.training.drive import drive
    from sana_wm_core.training.stage_loop import RunStopped

    from sana_wm_cli.errors import say

    try:
        drive(preset, data, out, init, walks, teacher, changes or [], resume, device, plan, typer.echo)
    except RunStopped as error:
        say(str(error))
        raise typer.Exit(STOPPED_ON_NUMBERS) from error


@app.command()
def weights(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    borrow: Annotated[
        bool, typer.Option("--borrow", help="Leave out codec and text encoder: they are the bundled pocket's.")
    ] = False,
) -> None:
    """Write a stage's newest weights as files that `generate --model` and diffusers read."""
    from sana_wm_core.training.run import export_run

    typer.echo(f"{export_run(run, out, borrow)}: written")


@app.command()
def curve(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, in the order they were made.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("loss.png"),
    key: Annotated[str, typer.Option("--key", help="Which metric.")] = "loss",
) -> None:
    """Draw how the loss of some runs fell."""
    from sana_wm_core.training.curve import draw_curves

    draw_curves(runs, out, key)
    typer.echo(f"{out}: written")


@app.command()
def codec(
    data: Data,
    out: Out,
    recipe: Annotated[str, typer.Argument(help="Preset name or .toml file.")] = "pocket",
    changes: Changes = None,
    resume: Resume = False,
    imagined: Annotated[
        bool, typer.Option("--imagined", help="Also learn from what `data imagine` sampled for these clips.")
    ] = False,
) -> None:
    """Fit the pocket codec to the clips of a folder."""
    from sana_wm_core.training.codec import CodecTrainer
    from sana_wm_core.training.encode import read_manifest
    from sana_wm_core.training.frames import frame_store
    from sana_wm_core.training.imagine import load_imagined
    from sana_wm_core.training.recipe import load_recipe

    plan = load_recipe(recipe, changes)
    clips = frame_store(data, "train")
    ids = [row["id"] for row in read_manifest(data) if row["split"] == "train"]
    dreams = load_imagined(data, ids) if imagined else []
    trainer = CodecTrainer(plan.codec_train, plan.codec, clips, out, dreams)
    if resume:
        trainer.resume()
    size = sum(p.numel() for p in trainer.codec.parameters())
    typer.echo(f"codec {size / 1e6:.1f}M parameters, {len(clips)} clips, {plan.codec_train.iterations} iterations")
    trainer.run(_printer(plan.codec_train.iterations), stop_when_asked())


@app.command()
def world(
    data: Data,
    out: Out,
    recipe: Annotated[str, typer.Argument(help="Preset name or .toml file.")] = "pocket",
    changes: Changes = None,
    resume: Resume = False,
) -> None:
    """Train the world model on encoded clips by flow matching."""
    import torch
    from sana_wm_core.model import SanaWMTransformer
    from sana_wm_core.pocket.text import PocketTextEncoder
    from sana_wm_core.training.data import LatentClips
    from sana_wm_core.training.heap import keep_freed_memory
    from sana_wm_core.training.loop import WorldTrainer
    from sana_wm_core.training.recipe import load_recipe

    plan = load_recipe(recipe, changes)
    if plan.train.device == "cpu":
        keep_freed_memory()
    torch.manual_seed(plan.train.seed)
    transformer = SanaWMTransformer(plan.model)
    transformer.init_weights()
    trainer = WorldTrainer(
        plan.train, transformer, PocketTextEncoder(plan.text), LatentClips(data), _held_out(data), out
    )
    if resume:
        trainer.resume()
    size = sum(p.numel() for p in trainer.model.parameters())
    typer.echo(f"world {size / 1e6:.1f}M parameters, {len(trainer.train)} clips, {plan.train.iterations} iterations")
    trainer.run(_printer(plan.train.iterations), stop_when_asked())


@app.command()
def export(
    codec_run: Annotated[Path, typer.Option("--codec", help="Folder of the codec run.")],
    world_run: Annotated[Path, typer.Option("--world", help="Folder of the world run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the pocket world to.")],
    recipe: Annotated[str, typer.Argument(help="Preset name or .toml file.")] = "pocket",
    changes: Changes = None,
) -> None:
    """Write codec, averaged world weights and preset as one pocket world that `generate --model` reads."""
    from sana_wm_core.training.export import export_pocket

    size = export_pocket(codec_run, world_run, out, recipe, changes)
    typer.echo(f"{out}: {size / 1e6:.1f} MB")


def _held_out(data: Path) -> Any:
    from sana_wm_core.training.data import LatentClips

    try:
        return LatentClips(data, "val")
    except ValueError:
        return None


def _printer(total: int) -> Any:
    def show(metrics: dict[str, float]) -> None:
        left = (total - metrics["iteration"]) * metrics.get("seconds", 0.0) / 60
        values = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items() if k != "iteration")
        typer.echo(f"{int(metrics['iteration']):6d}/{total}  {values}  about {left:.0f} min left")

    return show


def stop_when_asked() -> Any:
    """True after the first Ctrl-C: the iteration in hand is finished and saved; a second Ctrl-C ends at once."""
    asked = threading.Event()

    def ask(*_: Any) -> None:
        typer.echo("stopping after this iteration; --resume goes on from here")
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked.is_set
