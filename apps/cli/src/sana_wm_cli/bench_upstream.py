"""sana-wm bench import and export-results: files of the released evaluator, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sana_wm_cli.bench_score import JsonLine, finish


def import_results(
    root: Annotated[Path, typer.Argument(help="Folder that holds METHOD/SPLIT/eval_poses.json and METHOD/eval.")],
    method: Annotated[str, typer.Argument(help="Folder of the method below it.")],
    split: Annotated[str, typer.Option("--split", help="simple_60s or hard_60s.")] = "simple_60s",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the report; default METHOD-SPLIT.")] = None,
    json_line: JsonLine = False,
) -> None:
    """Read results of the released evaluator, check them, and report them with intervals, per scene and category.

    Such a report can be compared with other imported ones, never with numbers measured here.
    """
    from wm_bench.imported import read_upstream
    from wm_bench.report import write_report

    sheet = read_upstream(root, method, split)
    target = out or Path("bench-out") / f"{method}-{split}"
    write_report(sheet, target)
    for part, values in sheet["whole_set"].items():
        typer.echo(f"{part}, all scenes together: {values}")
    finish(sheet, target, json_line)


def export_results(
    report: Annotated[Path, typer.Argument(help="Report folder or score.json.")],
    out: Annotated[Path, typer.Argument(help="Folder in which METHOD/SPLIT and METHOD/eval are written.")],
    protocol: Annotated[str, typer.Option("--protocol", help="code-v1, paper-sim3 or first-frame.")] = "code-v1",
    estimator: Annotated[str | None, typer.Option("--estimator", help="Whose camera, where there are several.")] = None,
) -> None:
    """Write a score as the released evaluator's files, for tools that read those."""
    from wm_bench.sheet import read_sheet
    from wm_bench.upstream import write_upstream

    for path in write_upstream(read_sheet(report), out, protocol, estimator):
        typer.echo(str(path))
