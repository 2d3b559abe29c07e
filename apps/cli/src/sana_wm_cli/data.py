"""sana-wm data: make clips of procedural worlds, and encode clips to latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sana_wm_cli.data_pairs import pairs

app = typer.Typer(no_args_is_help=True, help="Data: render procedural worlds, encode clips to latents.")
app.command()(pairs)


@app.command()
def synth(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the dataset to.")],
    clips: Annotated[int, typer.Option("--clips", help="Training clips; the categories take turns.")] = 40,
    held_out: Annotated[int, typer.Option("--held-out", min=0, help="Clips of split val, from other scenes.")] = 8,
    frames: Annotated[int, typer.Option("--frames", help="Raw frames of a clip, 1 + 8k.")] = 65,
    height: Annotated[int, typer.Option("--height", help="Picture height, pixels.")] = 96,
    width: Annotated[int, typer.Option("--width", help="Picture width, pixels.")] = 160,
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other scenes and paths.")] = 0,
    form: Annotated[str, typer.Option("--form", help="mp4 (small) or npz (exact bytes).")] = "npz",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; one a core.")] = 1,
    compile_loops: Annotated[bool, typer.Option("--compile", help="Fuse loops first; needs a C++ compiler.")] = False,
) -> None:
    """Render clips of procedural worlds with exact poses, intrinsics and captions; can be stopped and run again."""
    from wm_bench.worlds.dataset import write_dataset

    with _progress("rendering") as progress:
        task = progress.add_task("clips", total=clips + held_out)
        manifest = out / "manifest.jsonl"
        lines: list[str] = []
        for split, count, before in (("train", clips, 0), ("val", held_out, clips)):
            if count == 0:
                continue
            write_dataset(
                out,
                count,
                frames,
                (height, width),
                seed,
                split=split,
                form=form,
                workers=workers,
                compile=compile_loops,
                progress=partial(_advance, progress, task, before),
            )
            lines.append(manifest.read_text())
        temporary = out / ".manifest.tmp"
        temporary.write_text("".join(lines))
        temporary.replace(manifest)
    typer.echo(f"{out}: {clips} + {held_out} clips of {frames} frames, {width}x{height}")


@app.command()
def encode(
    data: Annotated[Path, typer.Argument(help="Folder with manifest.jsonl.")],
    codec: Annotated[Path | None, typer.Option("--codec", help="Codec run folder; default: the bundled codec.")] = None,
    augment: Annotated[bool, typer.Option(help="Also encode training clips mirrored and backwards.")] = True,
) -> None:
    """Encode every clip once, so that training reads latents instead of pixels."""
    from sana_wm_core.training.encode import encode_clips

    if codec is None:
        from sana_wm_core.pocket import load_pocket

        model = load_pocket().codec
    else:
        from sana_wm_core.training.export import load_codec

        model = load_codec(codec)
    with _progress("encoding") as progress:
        task = progress.add_task("clips", total=None)
        encode_clips(data, model, augment, report=lambda done, all_: progress.update(task, completed=done, total=all_))
    typer.echo(f"{data}: latents.jsonl written")


@app.command()
def imagine(
    data: Annotated[Path, typer.Argument(help="Folder of encoded clips.")],
    codec: Annotated[Path, typer.Option("--codec", help="Codec run folder.")],
    world: Annotated[Path, typer.Option("--world", help="World run folder.")],
    recipe: Annotated[str, typer.Option("--recipe", help="Preset name or .toml file.")] = "pocket",
    every: Annotated[
        int, typer.Option("--every", min=1, help="Take one encoded clip of so many; odd meets all turnings.")
    ] = 3,
) -> None:
    """Sample the world model on its training clips, so that the decoder can learn from what it makes."""
    from sana_wm_core.training.export import assemble_pocket
    from sana_wm_core.training.imagine import imagine_clips

    pocket = assemble_pocket(codec, world, recipe)
    with _progress("imagining") as progress:
        task = progress.add_task("clips", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        imagine_clips(pocket, data, pocket.preset.steps, pocket.preset.flow_shift, every, report=show)
    typer.echo(f"{data}: imagined/ written")


@app.command()
def prepare(
    data: Annotated[Path, typer.Argument(help="Folder of annotated clips, with manifest.jsonl.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write latents, text features and train.jsonl to.")],
    model: Annotated[
        str, typer.Option("--model", help="World model whose codec and text encoder are used.")
    ] = "pocket",
    height: Annotated[int, typer.Option("--height", help="Crop to this height, pixels.")] = 704,
    width: Annotated[int, typer.Option("--width", help="Crop to this width, pixels.")] = 1280,
    frames: Annotated[int, typer.Option("--frames", min=0, help="Longest clip, raw frames; 0 = no limit.")] = 0,
    held_out: Annotated[int, typer.Option("--held-out", min=0, help="Clips at the end that are held out.")] = 0,
    own: Annotated[
        bool, typer.Option("--own", help="Videos of your own: judge their cameras only, not motion and colour.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Turn annotated videos into what a stage trains on; can be stopped and run again."""
    if own:
        _judge_cameras_only(data)
    from sana_wm_core.layouts import open_world
    from sana_wm_core.training.prepare import prepare_clips

    pipeline = open_world(model, device=device).pipeline
    with _progress("preparing") as progress:
        task = progress.add_task("clips", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        prepare_clips(data, out, pipeline.codec, pipeline.text_encoder, (height, width), frames, held_out, report=show)
    typer.echo(f"{out}: train.jsonl written")


def _judge_cameras_only(data: Path) -> None:
    """Write the manifest of an annotated folder anew: the ranges of a source, made for found videos, do not apply."""
    from dataclasses import replace

    from pose_annotation.judging import judge_folder
    from pose_annotation.policy import load_policy

    policy = load_policy()
    given = judge_folder(data, replace(policy, sources={name: {} for name in policy.sources}))
    typer.echo(f"{data}: {given.kept} of {given.clips} clips have a camera to train on")
    for reason, count in given.reasons.items():
        typer.echo(f"  {count:6d} left out: {reason}")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Manifest, encoded folder, or upstream's zip folder.")],
    stage: Annotated[str, typer.Option("--stage", help="Also apply the filters of this stage.")] = "",
) -> None:
    """Open every clip of a dataset and print what is wrong; exit code 2 if anything is."""
    from sana_wm_core.training.clips import open_clips, problems

    filters = None
    if stage:
        from sana_wm_core.training.stages import load_stage

        filters = load_stage(stage).data.filters
    clips = open_clips(data)
    found = problems(clips, filters)
    for line in found:
        typer.echo(line)
    frames = sorted({entry.frames for entry in clips.entries})
    typer.echo(f"{data}: {len(clips.entries)} clips of {frames} latent frames, {len(found)} problems")
    if found:
        raise typer.Exit(2)


@app.command()
def walks(
    data: Annotated[Path, typer.Argument(help="Encoded clips.")],
    teacher: Annotated[Path, typer.Option("--teacher", help="Run of a chunk-causal stage.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the walks to.")],
    stage: Annotated[str, typer.Option("--stage", help="The ODE stage they are for.")] = "pocket_ode",
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.field=value, may be repeated.")] = None,
    parts: Annotated[int, typer.Option("--parts", min=1, help="Teacher steps between two stops.")] = 8,
    every: Annotated[int, typer.Option("--every", min=1, help="Walk one training clip of so many.")] = 1,
    together: Annotated[int, typer.Option("--together", min=1, help="Clips of one length walked at once.")] = 1,
) -> None:
    """Let a chunk-causal teacher walk from noise to training clips, for ODE regression; can be run again."""
    from sana_wm_core.training.run import make_walks

    with _progress("walking") as progress:
        task = progress.add_task("clips", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        make_walks(stage, changes or [], data, teacher, out, parts, every, together, show)
    typer.echo(f"{out}: walks.jsonl written")


def _advance(progress: Any, task: Any, before: int, done: int, _: int) -> None:
    progress.update(task, completed=before + done)


def _progress(verb: str) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    return Progress(verb, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
