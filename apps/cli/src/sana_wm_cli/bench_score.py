"""sana-wm bench score, compare and baseline: numbers and reports for a folder of videos."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_wm_cli.bench_options import Scoring, with_scoring
from sana_wm_cli.bench_split import Data, Scenes, Seconds, SplitName, open_split, parse_size

if TYPE_CHECKING:
    from wm_bench.cache import Cache
    from wm_bench.scoring import Options
    from wm_bench.sheet import Sheet
    from wm_bench.splits import Split

INCOMPLETE, UNAVAILABLE = 3, 4

Out = Annotated[Path | None, typer.Option("--out", help="Folder for the report; default bench-out/METHOD-SPLIT.")]
JsonLine = Annotated[bool, typer.Option("--json", help="Also print one JSON line.")]


def score_and_report(videos: Path, split: Split, options: Options, out: Path | None, kept: Cache) -> tuple[Sheet, Path]:
    """Score a folder, write its report and print the short table. Nothing is written into `videos`."""
    from wm_bench.report import pick_strips, write_report
    from wm_bench.report.write import write_text
    from wm_bench.scoring import Timings, score_folder
    from wm_bench.splits.model import folder_name
    from wm_bench.submission import read_submission

    from sana_wm_cli.bench_solver import register

    register()
    target = out or Path("bench-out") / f"{videos.resolve().name}-{folder_name(split.name)}"
    if target.resolve().is_relative_to(videos.resolve()):
        raise ValueError(f"--out {target} lies inside {videos}; allowed: a folder outside the videos; example: report")
    submission = read_submission(videos, split)
    typer.echo(
        f"{len(submission.videos)} of {len(split.scenes)} scenes of {split.name} can be scored; "
        f"report goes to {target}",
        err=True,
    )
    timings: Timings = {}
    sheet = score_folder(
        submission, split, options, kept, lambda scene: typer.echo(f"scoring {scene}", err=True), timings
    )
    # Beside the sheet, not on it: the same videos give the same sheet, not the same seconds.
    write_text(target / "timing.json", json.dumps({"seconds": timings}, indent=1, sort_keys=True) + "\n")
    write_report(sheet, target, pick_strips(sheet, split, submission.videos))
    return sheet, target


def finish(sheet: Sheet, target: Path, json_line: bool) -> None:
    """Print the short table; exit 3 for incomplete coverage of what was asked, 4 when an estimator is missing."""
    from rich.console import Console
    from rich.table import Table
    from wm_bench.report.tables import coverage_words, headline_names, line_of

    # In a pipe or a log nothing is broken into lines of a terminal that is not there.
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table("number", "mean", "95 % interval", "floor", "unit", "scenes", "note")
    for name in headline_names(sheet):
        x = line_of(sheet, name)
        table.add_row(x.name, x.value, x.interval, x.floor, x.unit, x.coverage, x.note)
    console.print(table)
    for finding in sheet["findings"]:
        typer.echo(f"{finding['level']}: {finding['scene']} {finding['code']}: {finding['message']}", err=True)
    typer.echo(coverage_words(sheet))
    typer.echo(f"{target / 'report.html'}")
    if json_line:
        typer.echo(json.dumps(short_json(sheet), sort_keys=True))
    errors = [f for f in sheet["findings"] if f["level"] == "error"]
    if errors or sheet["coverage"]["missing"]:
        raise typer.Exit(INCOMPLETE)
    if any(m["status"] == "unavailable" for n, m in sheet["metrics"].items() if n.startswith("rot_err_deg@")):
        raise typer.Exit(UNAVAILABLE)


def short_json(sheet: Sheet) -> dict[str, Any]:
    """Means and identities of a sheet, for --json."""
    means = {
        n: {"mean": m["mean"], "identity": m["identity"]["id"]} for n, m in sheet["metrics"].items() if "mean" in m
    }
    return {"method": sheet["method"], "split": sheet["split"], "coverage": sheet["coverage"], "metrics": means}


@with_scoring
def score(
    videos: Annotated[Path, typer.Argument(help="Folder with one video a scene: ID.mp4 or ID_generated.mp4.")],
    split: SplitName = "proc_simple_60s",
    data: Data = None,
    scenes: Scenes = None,
    seconds: Seconds = None,
    out: Out = None,
    json_line: JsonLine = False,
    *,
    scoring: Scoring,
) -> None:
    """Score a folder of videos: JSON, CSV, Markdown and an HTML report.

    Exit 0: everything asked for was scored. 3: scenes are missing or broken (each is told).
    4: an estimator that was asked for cannot run here. 2: wrong input.
    """
    options = scoring.options()
    chosen = open_split(split, data, scenes, seconds)
    finish(*score_and_report(videos, chosen, options, out, scoring.kept()), json_line)


def compare(
    a: Annotated[Path, typer.Argument(help="Report folder or score.json of one method.")],
    b: Annotated[Path, typer.Argument(help="The same of another.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for compare.json, .md and .html.")] = None,
    json_line: JsonLine = False,
) -> None:
    """Compare two scored methods, paired by scene, with intervals; only numbers of the same identity."""
    from rich.console import Console
    from wm_bench.comparison import compare as compare_sheets
    from wm_bench.report.compared import compare_table, write_comparison
    from wm_bench.sheet import read_sheet

    result = compare_sheets(read_sheet(a), read_sheet(b))
    Console(soft_wrap=True).print(compare_table(result), markup=False, highlight=False)
    if out is not None:
        typer.echo(str(write_comparison(result, out)[-1]))
    if json_line:
        typer.echo(json.dumps(result, sort_keys=True))


def baseline(
    kind: Annotated[str, typer.Argument(help="render, still, lag, turned, blur, flicker or swap.")],
    out: Annotated[Path, typer.Argument(help="Folder for the videos, made if absent.")],
    split: SplitName = "proc_simple_60s",
    data: Data = None,
    scenes: Scenes = None,
    seconds: Seconds = None,
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH of the videos.")] = "96x160",
    fps: Annotated[float, typer.Option("--fps", help="Frames per second.")] = 16.0,
) -> None:
    """Write the videos of a method whose place in the ranking is known: the exact render, a still, spoilt renders."""
    from wm_bench.baselines import write_baseline

    chosen = open_split(split, data, scenes, seconds)
    shape = parse_size(size)
    assert shape is not None
    write_baseline(kind, chosen, out, shape, fps, lambda scene: typer.echo(f"writing {scene}", err=True))
    typer.echo(f"{out}: {len(chosen.scenes)} videos")
