"""sana-wm train: the codec and the world model, from a recipe and a folder of clips."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Train: the pocket codec, then the world model, resumable.")

Data = Annotated[Path, typer.Option("--data", help="Folder of clips (codec) or of encoded clips (world).")]
Out = Annotated[Path, typer.Option("--out", help="Folder for checkpoints and metrics.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="section.field=value, may be repeated.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")]


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
    trainer.run(_printer(plan.codec_train.iterations), _stop())


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
    from sana_wm_core.training.loop import WorldTrainer
    from sana_wm_core.training.recipe import load_recipe

    plan = load_recipe(recipe, changes)
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
    trainer.run(_printer(plan.train.iterations), _stop())


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


def _stop() -> Any:
    """True after the first Ctrl-C: the iteration in hand is finished and saved; a second Ctrl-C ends at once."""
    asked = threading.Event()

    def ask(*_: Any) -> None:
        typer.echo("stopping after this iteration; --resume goes on from here")
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked.is_set
