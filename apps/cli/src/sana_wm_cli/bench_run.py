"""sana-wm bench run: generate a split with a model, score it, and put it beside baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana_wm_cli.bench_generate import Sampling, generate_split, load_model, parse_shard, write_info
from sana_wm_cli.bench_score import (
    CacheFolder,
    Estimators,
    Every,
    Ffmpeg,
    Floors,
    JsonLine,
    LpipsFile,
    NoCache,
    VbenchPython,
    finish,
    make_options,
    score_and_report,
)
from sana_wm_cli.bench_split import Data, Scenes, Seconds, SplitName, open_split

if TYPE_CHECKING:
    from wm_bench.sheet import Sheet


def run(
    model: Annotated[str, typer.Option("--model", help="pocket (bundled), a model folder, or a hub id.")] = "pocket",
    split: SplitName = "proc_simple_60s",
    data: Data = None,
    scenes: Scenes = None,
    seconds: Seconds = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for METHOD/videos and METHOD/report.")] = Path("bench-out"),
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also make and score the exact render, a still, and shuffled paths.")
    ] = False,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps; default: the model's.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Noise seed, the same for every scene.")] = 42,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N: make only every N-th scene from I and score nothing.")
    ] = None,
    estimator: Estimators = None,
    every: Every = 0.25,
    floors: Floors = True,
    lpips_weights: LpipsFile = None,
    vbench_python: VbenchPython = None,
    ffmpeg: Ffmpeg = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    json_line: JsonLine = False,
) -> None:
    """Generate a split's videos with a model and score them; call again to go on where it stopped.

    Several machines share the work with --shard 0/8 ... 7/8 on one folder; a last call without it scores.
    """
    options = make_options(estimator, every, floors, lpips_weights, vbench_python, ffmpeg)
    part, sampling = parse_shard(shard), Sampling(steps, seed)
    chosen = open_split(split, data, scenes, seconds)
    pipeline = load_model(model, device)
    name = Path(model).name

    def making(scene: str) -> None:
        typer.echo(f"generating {scene}", err=True)

    videos = generate_split(pipeline, chosen, out / name / "videos", name, sampling, shard=part, report=making)
    folders = {name: videos}
    if baselines:
        from wm_bench.baselines import shuffled_paths, write_baseline

        size = (pipeline.defaults.height, pipeline.defaults.width)
        other = f"{name}-shuffled"
        paths = shuffled_paths(chosen)
        folders[other] = generate_split(
            pipeline, chosen, out / other / "videos", other, sampling, paths, part, making
        )  # fmt: skip
        if part.of == 1:
            for kind in ("render", "still") if chosen.truth is not None else ("still",):
                folders[kind] = write_baseline(kind, chosen, out / kind / "videos", size, pipeline.defaults.fps)
                write_info(folders[kind], {"model": kind, "fps": pipeline.defaults.fps})
    if part.of > 1:
        typer.echo(f"{videos}: part {part.number} of {part.of} is made; score with a call without --shard")
        return
    sheets = {
        method: score_and_report(folder, chosen, options, out / method / "report", cache, no_cache)[0]
        for method, folder in folders.items()
    }
    if len(sheets) > 1:
        _beside(sheets, name, out)
    finish(sheets[name], out / name / "report", json_line)


def _beside(sheets: dict[str, Sheet], name: str, out: Path) -> None:
    """Compare the model with every baseline and print who leads where that can be said."""
    from wm_bench.comparison import compare, rank
    from wm_bench.report.compared import compare_table, write_comparison
    from wm_bench.report.write import write_text

    text = []
    for other, sheet in sheets.items():
        if other != name:
            result = compare(sheet, sheets[name])
            typer.echo(str(write_comparison(result, out / f"{name}-and-{other}")[-1]))
            text.append(f"## {name} and {other}\n\n{compare_table(result)}")
    lines = []
    for metric in sorted(set.intersection(*(set(sheet["metrics"]) for sheet in sheets.values()))):
        try:
            order = rank(list(sheets.values()), metric)
        except ValueError:
            continue  # no direction, another identity or coverage: not a ranking
        lines.append(f"| {metric} | {' > '.join(f'{method} {value:.4g}' for method, value in order)} |")
    table = "\n".join(["| number | best to worst |", "|---|---|", *lines])
    typer.echo(table)
    write_text(out / "ranking.md", f"# Ranking\n\n{table}\n\n" + "\n".join(text))
