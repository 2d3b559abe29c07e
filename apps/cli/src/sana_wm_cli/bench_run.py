"""sana-wm bench run: generate a split with a model, score it, and put it beside baselines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana_wm_cli.bench_generate import Job, Sampling, Shard, make_part, make_videos, parse_shard, pilot, seconds_of
from sana_wm_cli.bench_options import Scoring, with_scoring
from sana_wm_cli.bench_score import JsonLine, finish, score_and_report
from sana_wm_cli.bench_split import Data, Scenes, Seconds, SplitName, open_split

if TYPE_CHECKING:
    from wm_bench.sheet import Sheet


@with_scoring
def run(
    model: Annotated[
        str, typer.Option("--model", help="pocket, pocket-streaming, a model folder, or a hub id.")
    ] = "pocket",
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
    ray: Annotated[
        int | None, typer.Option("--ray", min=1, help="Share the generating over so many workers of a Ray cluster.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Make and score the first scene, say how long all would take, and stop.")
    ] = False,
    json_line: JsonLine = False,
    *,
    scoring: Scoring,
) -> None:
    """Generate a split's videos with a model and score them; call again to go on where it stopped.

    Several machines share the work with --shard 0/8 ... 7/8 on one folder, or with --ray 8 on a cluster that sees it.
    """
    options, part = scoring.options(), parse_shard(shard)
    if ray is not None and shard is not None:
        raise ValueError(f"--ray {ray} and --shard {shard} both share the work; allowed: one of them; example: --ray 8")
    job = Job(model, device, split, data, scenes, seconds, out, Sampling(steps, seed), baselines)
    chosen = open_split(split, data, scenes, seconds)
    if estimate:
        _estimate(job, scoring)
        return
    if ray is not None:
        _share(job, min(ray, len(chosen.scenes)))

    def making(scene: str) -> None:
        typer.echo(f"generating {scene}", err=True)

    folders = make_videos(job, chosen, part, making)
    name, videos = next(iter(folders.items()))
    if part.of > 1:
        typer.echo(f"{videos}: part {part.number} of {part.of} is made; score with a call without --shard")
        return
    kept = scoring.kept()
    sheets = {
        method: score_and_report(folder, chosen, options, out / method / "report", kept)[0]
        for method, folder in folders.items()
    }
    if len(sheets) > 1:
        _beside(sheets, name, out)
    finish(sheets[name], out / name / "report", json_line)


def _share(job: Job, workers: int) -> None:
    """Make the videos on Ray, a worker a part; what fails is told, and stays to be made by another call."""
    from wm_bench.report.tables import scenes_words
    from wm_bench.sharing import on_ray

    parts = [(job, Shard(number, workers)) for number in range(workers)]
    failures = []
    for done in on_ray(make_part, parts, 1.0 if job.device.startswith("cuda") else 0.0):
        typer.echo(f"part {done.number} of {workers}: {done.failure or scenes_words(done.result)}", err=True)
        if done.failure:
            failures.append(f"part {done.number}: {done.failure}")
    if failures:
        raise ValueError(f"{len(failures)} of {workers} parts failed, first {failures[0]}; call again to go on")


def _estimate(job: Job, scoring: Scoring) -> None:
    """Time one scene through everything and say what the whole split would take on this machine."""
    from wm_bench.cache import Cache

    chosen = open_split(job.split, job.data, job.scenes, job.seconds)
    first = pilot(chosen)
    (name, videos), *_ = make_videos(job._replace(baselines=False), first, Shard(0, 1), lambda scene: None).items()
    making_s = seconds_of(videos, first.scenes[0].id)
    start = time.perf_counter()
    score_and_report(videos, first, scoring.options(), job.out / name / "pilot", Cache(None))
    scoring_s = time.perf_counter() - start
    count, frames = len(chosen.scenes), len(first.scenes[0].c2w)
    made, scored = (2, 4) if job.baselines else (1, 1)
    making_h = count * made * making_s / 3600
    total_h = making_h + count * scored * scoring_s / 3600
    typer.echo(
        f"{chosen.name}: {count} scenes of {frames} frames; generating takes {making_s:.1f} s and scoring "
        f"{scoring_s:.1f} s a scene, measured on {first.scenes[0].id}"
        + (", twice and four times with the baselines" if job.baselines else "")
    )
    typer.echo(
        f"about {total_h:.2f} h in one process here; generating, {making_h:.2f} h of it, can be shared with --shard or "
        "--ray"
    )


def _beside(sheets: dict[str, Sheet], name: str, out: Path) -> None:
    """Compare the model with every baseline, and hold the methods against the order they must have."""
    from wm_bench.comparison import compare
    from wm_bench.ladder import climb, ladder
    from wm_bench.report.compared import write_comparison
    from wm_bench.report.ranking import ranking_markdown, write_ranking

    for other, sheet in sheets.items():
        if other != name:
            typer.echo(str(write_comparison(compare(sheet, sheets[name]), out / f"{name}-and-{other}")[-1]))
    rows = climb(sheets, ladder(name))
    typer.echo(ranking_markdown(sheets, rows))
    typer.echo(str(write_ranking(sheets, rows, out)[-1]))
