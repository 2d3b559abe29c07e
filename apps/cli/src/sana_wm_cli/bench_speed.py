"""sana-wm bench speed: time and memory of a model, by a definition that is printed with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_wm_cli.bench_generate import load_model

if TYPE_CHECKING:
    import numpy as np
    from sana_wm_core.pipeline import WorldPipeline
    from wm_bench.splits import BenchScene, Split


def speed(
    model: Annotated[str, typer.Argument(help="pocket, pocket-streaming, a model folder, or a hub id.")] = "pocket",
    seconds: Annotated[float, typer.Option("--seconds", help="Length of the video.")] = 4.0,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed videos.")] = 3,
    warmups: Annotated[int, typer.Option("--warmups", min=0, help="Videos before them.")] = 1,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps; default: the model's.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Chunk by chunk, as a session does.")] = False,
    gpus_per_video: Annotated[int, typer.Option("--gpus-per-video", min=1, help="For videos per hour.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the record.")] = None,
    json_line: Annotated[bool, typer.Option("--json", help="Also print one JSON line.")] = False,
) -> None:
    """Time a model on a scene of the procedural split: first frame, steady rate, memory, videos per hour."""
    from camera_control.files import replacing
    from rich.console import Console
    from rich.table import Table
    from wm_bench.efficiency import DEFINITION, measure_speed
    from wm_bench.splits import load_procedural

    pipeline = load_model(model, device)
    split = load_procedural("proc_simple_60s", ["indoor_001"], seconds)
    make = _streaming(pipeline, split, steps) if streaming else _whole(pipeline, split, steps)
    found = measure_speed(
        make, pipeline.defaults.fps, runs=runs, warmups=warmups, gpus_per_video=gpus_per_video,
        device=str(pipeline.device),
    )  # fmt: skip
    record: dict[str, Any] = {
        "model": model, "streaming": streaming, "seconds": seconds, "steps": steps or pipeline.defaults.steps,
        "height": pipeline.defaults.height, "width": pipeline.defaults.width,
        "dtype": str(pipeline.dtype).removeprefix("torch."), **_software(), **found.record(),
    }  # fmt: skip
    table = Table("quantity", "value")
    for name, value in record.items():
        if name != "definition":
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    typer.echo(DEFINITION)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if json_line:
        typer.echo(json.dumps(record, sort_keys=True))


def _software() -> dict[str, str | None]:
    import torch

    return {"torch": torch.__version__, "cuda": torch.version.cuda}


def _whole(pipeline: WorldPipeline, split: Split, steps: int | None) -> Callable[[], Iterable[np.ndarray]]:
    """The whole clip at once."""
    picture, scene, lens = _inputs(pipeline, split)

    def make() -> Iterable[np.ndarray]:
        clip = pipeline(
            picture, scene.prompt, c2w=scene.c2w, intrinsics=lens, frames=len(scene.c2w), steps=steps, seed=42
        )
        yield clip.video

    return make


def _streaming(pipeline: WorldPipeline, split: Split, steps: int | None) -> Callable[[], Iterable[np.ndarray]]:
    """Chunk after chunk; the path is cut to whole chunks."""
    from sana_wm_core.streaming.session import Session

    if steps is not None:
        raise ValueError(f"--steps is {steps}; allowed: none with --streaming, whose steps are the student's own")
    picture, scene, lens = _inputs(pipeline, split)

    def make() -> Iterable[np.ndarray]:
        session = Session.start(pipeline, picture, scene.prompt, intrinsics=lens, seed=42)
        if len(scene.c2w) <= session.chunk_frames:
            raise ValueError(f"--seconds gives {len(scene.c2w)} frames; allowed: a chunk of {session.chunk_frames + 1}")
        for piece in session.travel(scene.c2w[: 1 + session.whole_chunks(len(scene.c2w) - 1, "down")]):
            yield piece.video

    return make


def _inputs(pipeline: WorldPipeline, split: Split) -> tuple[Any, BenchScene, Any]:
    from PIL import Image

    scene = split.scenes[0]
    size = (pipeline.defaults.height, pipeline.defaults.width)
    return Image.fromarray(split.first_frame(scene, size)), scene, scene.intrinsics(size)[0]
