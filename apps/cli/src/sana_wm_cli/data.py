"""sana-wm data: make clips of procedural worlds, and encode clips to latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Data: render procedural worlds, encode clips to latents.")


@app.command()
def synth(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the dataset to.")],
    clips: Annotated[int, typer.Option("--clips", min=1, help="Clips in all; every category gets the same share.")] = 40,
    frames: Annotated[int, typer.Option("--frames", help="Raw frames of a clip, 1 + 8k.")] = 65,
    height: Annotated[int, typer.Option("--height", help="Picture height, pixels.")] = 96,
    width: Annotated[int, typer.Option("--width", help="Picture width, pixels.")] = 160,
    seed: Annotated[int, typer.Option("--seed", help="First scene seed.")] = 0,
    held_out: Annotated[float, typer.Option("--held-out", min=0, max=1, help="Share of clips of split val.")] = 0.02,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
) -> None:
    """Render clips of procedural worlds with exact poses, intrinsics and captions; can be stopped and run again."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from wm_bench.worlds.dataset import write_dataset

    with Progress("rendering", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("clips", total=clips)
        write_dataset(
            out,
            clips=clips,
            frames=frames,
            size=(height, width),
            seed=seed,
            held_out=held_out,
            workers=workers,
            report=lambda done, total: progress.update(task, completed=done, total=total),
        )
    typer.echo(f"{out}: {clips} clips of {frames} frames, {width}x{height}")


@app.command()
def encode(
    data: Annotated[Path, typer.Argument(help="Folder with manifest.jsonl.")],
    codec: Annotated[Path | None, typer.Option("--codec", help="Codec run folder; without it the bundled one.")] = None,
    augment: Annotated[bool, typer.Option(help="Also encode training clips mirrored and backwards.")] = True,
) -> None:
    """Encode every clip once, so that training reads latents instead of pixels."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from sana_wm_core.training.encode import encode_clips

    if codec is None:
        from sana_wm_core.pocket import load_pocket

        model = load_pocket().codec
    else:
        from sana_wm_core.training.export import load_codec

        model = load_codec(codec)
    with Progress("encoding", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("clips", total=None)
        encode_clips(
            data, model, augment, report=lambda done, total: progress.update(task, completed=done, total=total)
        )
    typer.echo(f"{data}: latents.jsonl written")
