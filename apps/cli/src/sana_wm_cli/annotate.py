"""`sana-wm annotate`: ordinary video to clips with camera poses, lenses, scores, verdicts and captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sana_wm_cli.annotate_export import evaluate, export, view
from sana_wm_cli.annotate_options import (
    Captions,
    Depth,
    Fps,
    Fusion,
    Known,
    Lens,
    Level,
    Licence,
    Metres,
    Model,
    Policy,
    Pose,
    Scores,
    Size,
    SolveWidth,
    Source,
    Split,
    Strict,
    Width,
    WindowSize,
    make_settings,
    make_tools,
    numbers,
    tools_for,
)

if TYPE_CHECKING:
    from pose_annotation.judging import Judgement


class VideoFirst(TyperGroup):
    """`annotate VIDEO` means `annotate clip VIDEO`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `clip` before a first word that is no command and no cry for help."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["clip", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=VideoFirst,
    no_args_is_help=True,
    add_completion=False,
    help="Annotate: poses, lenses, scores, verdicts and captions from ordinary video (CPU).",
)

app.command()(export)
app.command()(view)
app.command("eval")(evaluate)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the clips; the same call goes on where it stopped.")]


@app.command("clip")
def clip(
    video: Annotated[Path, typer.Argument(help="A video file.")],
    out: Out,
    intrinsics: Lens = None,
    depth: Depth = None,
    depth_model: Model = None,
    fusion: Fusion = "l1,robust_global",
    pose: Pose = "own",
    poses: Annotated[Path | None, typer.Option("--poses", help="Known camera path of the whole video; kept.")] = None,
    scale_factor: Annotated[float | None, typer.Option("--scale-factor", help="Metres per unit of the path.")] = None,
    known_distance: Known = None,
    camera_height: Metres = None,
    source: Source = "video",
    split: Split = "train",
    licence: Licence = "unknown",
    fps: Fps = 16.0,
    width: Width = 640,
    size: Size = None,
    solve_width: SolveWidth = 448,
    window: WindowSize = None,
    level: Level = None,
    captions: Captions = None,
    scores: Scores = None,
    policy: Policy = None,
    strict: Strict = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line instead of text.")] = False,
) -> None:
    """Cut one video into clips and find the camera of every frame.

    `annotate VIDEO` is short for `annotate clip VIDEO`.
    Example: sana-wm annotate walk.mp4 --out walk --camera-height 1.6
    """
    from pose_annotation.judging import judge_folder
    from pose_annotation.pipeline import annotate_video
    from pose_annotation.policy import load_policy
    from pose_annotation.settings import Request

    rules = load_policy(policy, "strict" if strict else "lenient")
    rules.require_source(source)
    # A lens that is given is kept, unless the user asks for it to be solved.
    settings = make_settings(fps, width, size, solve_width, window, level)
    lens = numbers(intrinsics, 4, "--intrinsics", "900,900,640,360")
    known = numbers(known_distance, 3, "--known-distance", "0,2.5,1.8")
    request = Request(video, source, split, licence, lens, depth, poses, scale_factor, known, camera_height)  # type: ignore[arg-type]
    row = annotate_video(
        request, out, settings, make_tools(depth, captions, depth_model, pose, scores, fusion),
        report=lambda line: None if as_json else typer.echo(line),
    )  # fmt: skip
    if not row["clips"] and not as_json:
        typer.echo(f"{video.name}: no scene of {settings.rule.least} frames or more; no clip written")
        return
    judgement = judge_folder(out, rules)
    if as_json:
        typer.echo(json.dumps({**row, "kept": judgement.kept, "reasons": judgement.reasons}))
        return
    _say(out, judgement)


@app.command()
def run(
    manifest: Annotated[Path, typer.Argument(help="JSON lines or CSV; a row names a video and what is known of it.")],
    out: Out,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Videos at a time; one a core.")] = 1,
    executor: Annotated[str, typer.Option("--executor", help="local or ray.")] = "local",
    timeout_s: Annotated[float, typer.Option("--timeout-s", help="A video that takes longer becomes a row.")] = 3600.0,
    retry: Annotated[bool, typer.Option("--retry-errors", help="Try again what failed before.")] = False,
    fps: Fps = 16.0,
    width: Width = 640,
    size: Size = None,
    solve_width: SolveWidth = 448,
    window: WindowSize = None,
    level: Level = None,
    depth_model: Model = None,
    fusion: Fusion = "l1,robust_global",
    pose: Pose = "own",
    captions: Captions = None,
    scores: Scores = None,
    policy: Policy = None,
    strict: Strict = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line at the end.")] = False,
) -> None:
    """Annotate many videos side by side; the same call goes on where it stopped. Failures are rows of rows.jsonl.

    Example: sana-wm annotate run videos.jsonl --out clips --workers 4
    """
    from dataclasses import asdict
    from functools import partial

    from pose_annotation.policy import load_policy
    from pose_annotation.runner import run_manifest

    def show(row: dict[str, Any], done: int, total: int) -> None:
        if not as_json:
            typer.echo(f"{done:6d}/{total}  {row['status']:<8}{row['video']}  {row['reason']}")

    summary = run_manifest(
        manifest, out, make_settings(fps, width, size, solve_width, window, level),
        partial(tools_for, captions, depth_model, pose, scores, fusion), workers=workers, timeout_s=timeout_s,
        retry=retry, policy=load_policy(policy, "strict" if strict else "lenient"), executor=executor, report=show,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
        return
    rows = ", ".join(f"{count} {status}" for status, count in summary.statuses.items())
    typer.echo(f"{out}: {rows}; {summary.worked} worked on, {summary.seconds:.0f} s, digest {summary.digest[:16]}")
    _say(out, summary.judgement)


@app.command()
def judge(
    folder: Annotated[Path, typer.Argument(help="Folder written by sana-wm annotate.")],
    policy: Policy = None,
    strict: Strict = False,
) -> None:
    """Judge stored clips again, under other thresholds; nothing else is worked out."""
    from pose_annotation.judging import judge_folder
    from pose_annotation.policy import load_policy

    _say(folder, judge_folder(folder, load_policy(policy, "strict" if strict else "lenient")))


def _say(out: Path, judgement: Judgement) -> None:
    typer.echo(f"{out}: {judgement.kept} of {judgement.clips} clips kept; manifest.jsonl, verdicts.jsonl, overview/")
    for reason, count in judgement.reasons.items():
        typer.echo(f"  {count:6d}  {reason}")
