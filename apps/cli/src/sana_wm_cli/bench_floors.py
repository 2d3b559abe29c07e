"""sana-wm bench floors: what camera estimators make of exact renders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana_wm_cli.bench_split import Scenes, open_split, parse_size

if TYPE_CHECKING:
    from wm_bench.floors import Floor
    from wm_bench.splits import Split


def floors(
    split: Annotated[
        str | None,
        typer.Option("--split", help="proc_simple_60s or proc_hard_60s; default: each camera plan of both once."),
    ] = None,
    scenes: Scenes = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Only the first seconds of every path.")] = 16.0,
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH of the renders.")] = "288x480",
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            "--estimator",
            help="oracle and pycolmap (default), pose-annotation, pi3:FOLDER, 'command:...'; repeat it for more.",
        ),
    ] = None,
    every: Annotated[float, typer.Option("--every", help="Seconds between sampled poses.")] = 0.25,
    out: Annotated[Path, typer.Option("--out", help="Folder for floors.md and floors.json.")] = Path(
        "bench-out/floors"
    ),
    json_line: Annotated[bool, typer.Option("--json", help="Also print one JSON line.")] = False,
) -> None:
    """Estimate the camera of exact renders and print the errors and seconds: the best any video could get.

    Without --split every camera plan of both splits is taken once, twenty scenes, five of each category.
    """
    from wm_bench.camera_following import PoseRules
    from wm_bench.estimators import Unavailable, get_estimator
    from wm_bench.floors import floors_markdown, floors_record, measure_floors, write_floors

    from sana_wm_cli.bench_solver import register

    register()
    if not 0.02 <= every <= seconds / 2:
        raise ValueError(f"--every is {every:g}; allowed: 0.02 to half of --seconds {seconds:g}; example: 0.25")
    shape, rules = parse_size(size), PoseRules(every_s=every)
    assert shape is not None
    try:
        found = [get_estimator(spec) for spec in estimator or ("oracle", "pycolmap")]
    except Unavailable as reason:
        typer.echo(f"unavailable: {reason}", err=True)
        raise typer.Exit(4) from None
    measured: list[Floor] = []
    for part in _parts(split, scenes, seconds):
        measured += measure_floors(part, shape, found, rules, lambda scene: typer.echo(f"solving {scene}", err=True))
    typer.echo(floors_markdown(measured))
    for path in write_floors(measured, shape, rules, out):
        typer.echo(str(path))
    if json_line:
        typer.echo(json.dumps(floors_record(measured, shape, rules), sort_keys=True))


def _parts(split: str | None, scenes: str | None, seconds: float) -> list[Split]:
    """The named split, or the scenes that show every camera plan once."""
    from wm_bench.floors import floor_scenes

    if split is not None:
        return [open_split(split, None, scenes, seconds)]
    if scenes is not None:
        raise ValueError(f"--scenes {scenes} names scenes of no split; allowed: with --split; example: proc_hard_60s")
    return [open_split(name, None, ",".join(ids), seconds) for name, ids in floor_scenes().items()]
