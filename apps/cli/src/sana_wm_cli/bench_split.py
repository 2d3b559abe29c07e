"""sana-wm bench export, draw and verify: the data side of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wm_bench.splits import Split

SplitName = Annotated[
    str, typer.Option("--split", help="proc_simple_60s, proc_hard_60s; with --data also simple_60s, hard_60s.")
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of SANA-WM-Bench, for its splits.")]
Scenes = Annotated[str | None, typer.Option("--scenes", help="A count, or ids separated by commas; default: all 80.")]
Seconds = Annotated[float | None, typer.Option("--seconds", help="Only the first seconds of every path.")]


def open_split(name: str, data: Path | None, scenes: str | None, seconds: float | None) -> Split:
    """The split that the shared options name.

    Raises ValueError for names, counts and ids that do not exist.
    """
    from wm_bench.splits import load_procedural, pick_scenes
    from wm_bench.splits.released import load_released

    ids = None
    if scenes is not None:
        ids = pick_scenes(int(scenes)) if scenes.isdecimal() else [part.strip() for part in scenes.split(",")]
    if data is not None:
        return load_released(data, name, ids, seconds)
    return load_procedural(name, ids, seconds)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) from HEIGHTxWIDTH."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) >= 32 and int(width) >= 32):
        raise ValueError(f"--size is {text!r}; allowed: HEIGHTxWIDTH from 32x32; example: 704x1280")
    return int(height), int(width)


def export(
    out: Annotated[Path, typer.Argument(help="New or earlier exported folder.")],
    split: SplitName = "proc_simple_60s",
    data: Data = None,
    scenes: Scenes = None,
    seconds: Seconds = None,
    size: Annotated[str | None, typer.Option("--size", help="First frames as HEIGHTxWIDTH; default 720x1280.")] = None,
    controls: Annotated[bool, typer.Option(help="Also write poses, prompts and action strings per dialect.")] = True,
) -> None:
    """Write a split as SANA-WM-Bench lays it out, with control inputs for other models."""
    from wm_bench.splits.export import export_split

    chosen = open_split(split, data, scenes, seconds)
    folder = export_split(
        chosen, out, size=parse_size(size), controls=controls, report=lambda s: typer.echo(s, err=True)
    )
    typer.echo(f"{folder}: {len(chosen.scenes)} scenes, {chosen.revision}")


def draw(
    out: Annotated[Path, typer.Argument(help="PNG to write.")] = Path("split.png"),
    split: SplitName = "proc_simple_60s",
    data: Data = None,
    scenes: Scenes = None,
    seconds: Seconds = None,
) -> None:
    """Draw a split as one page: first frames, paths from above, revisit pairs."""
    from wm_bench.splits.draw import draw_split

    chosen = open_split(split, data, scenes, seconds)
    typer.echo(f"{draw_split(chosen, out)}: {len(chosen.scenes)} scenes")


def verify(
    root: Annotated[Path, typer.Argument(help="Folder of SANA-WM-Bench.")],
    split: Annotated[str, typer.Option("--split", help="simple_60s or hard_60s.")] = "simple_60s",
) -> None:
    """List everything that is wrong with a copy of the released benchmark; exit 3 when something is."""
    from wm_bench.splits.released import read_released

    found = read_released(root, split)
    for line in found.violations:
        typer.echo(line)
    typer.echo(f"{len(found.split.scenes)} scenes, {len(found.violations)} violations, {found.split.revision}")
    if found.violations:
        raise typer.Exit(3)
