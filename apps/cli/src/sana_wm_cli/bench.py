"""sana-wm bench: scores on procedural worlds whose truth is known exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sana_wm_cli import bench_floors, bench_run, bench_score, bench_speed, bench_split, bench_upstream

app = typer.Typer(no_args_is_help=True, help="Bench: score a model against exact renders.")


@app.callback()
def group() -> None:
    """Score a model against exact renders."""


app.command()(bench_run.run)
app.command()(bench_score.score)
app.command()(bench_score.compare)
app.command()(bench_score.baseline)
app.command()(bench_floors.floors)
app.command()(bench_speed.speed)
app.command()(bench_split.export)
app.command()(bench_split.draw)
app.command()(bench_split.verify)
app.command("import")(bench_upstream.import_results)
app.command()(bench_upstream.export_results)


@app.command()
def pocket(
    model: Annotated[Path | None, typer.Option("--model", help="Pocket folder; without it the bundled one.")] = None,
    per_category: Annotated[int, typer.Option("--per-category", min=1, help="Held-out pairs a category.")] = 10,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps; default: the preset's.")] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Folder for contact sheets beside the render.")] = None,
    json_line: Annotated[bool, typer.Option("--json", help="Also print one JSON line.")] = False,
) -> None:
    """Print the pocket world's table: codec, near and far gain over a still, path, sharpness, colour."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
    from sana_wm_core.pocket import load_pocket
    from wm_bench.following import summary

    from sana_wm_cli.bench_pocket import held_out_pairs, score_pair

    world = load_pocket(model)
    pairs = held_out_pairs(world.preset, per_category)
    console = Console()
    scores = [score_pair(world, pair, steps, sheet) for pair in track(pairs, "scoring", console=console)]
    values = summary(scores)
    wanted = {
        "codec_psnr_db": ">= 30",
        "near_gain_db": ">= 5",
        "far_gain_db": ">= 3",
        "true_beats_opposite": ">= 0.97",
        "sharpness_ratio": ">= 0.6",
        "sharpness_match": "1 is equal; grain lowers it",
        "spectrum_match": "1 is equal; grain lowers it",
        "colour_difference": "<= 0.1",
    }
    table = Table("number", "reached", "wanted")
    for name, value in values.items():
        table.add_row(name, f"{value:.3g}", wanted.get(name, ""))
    console.print(table)
    if json_line:
        typer.echo(json.dumps(values))
