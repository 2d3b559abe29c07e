"""Makes a clip as asked on the command line, and writes the video, its record and a contact sheet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sana_wm_cli.display import Display, quiet_libraries
from sana_wm_cli.inputs import Inputs, Request, check_folder, check_request, read_inputs
from sana_wm_cli.record import Clock, describe_run

if TYPE_CHECKING:
    from sana_wm_core.pipeline import Clip, WorldPipeline


def produce(request: Request) -> None:
    """Make the clip and write NAME_generated.mp4, .json and NAME_contact_sheet.png into the output folder.

    Raises:
        ValueError: Input that cannot be used.
        OSError: Files that cannot be read or written.
    """
    import typer

    # Everything cheap is checked before the model is loaded.
    check_request(request)
    inputs = read_inputs(request)
    check_folder(request.output_dir)
    stem = request.output_dir / f"{request.name}_generated"

    from sana_wm_core.overlay import apply_overlay
    from sana_wm_core.video import write_contact_sheet, write_text, write_video

    clock = Clock()
    with quiet_libraries(), Display() as display:
        display.stage("loading the model")
        with clock.measure("load"):
            pipeline = load(request)
        if not request.no_refiner and not request.is_pocket:
            typer.echo(
                "note: stage 2 (the refiner) is not available yet; decoding stage-1 latents (--no_refiner hides this)",
                err=True,
            )
        refiner_flags = (request.refiner_root, request.refiner_gemma_root, request.refiner_seed, request.sink_size)
        if request.is_pocket and (request.offload_refiner or any(flag is not None for flag in refiner_flags)):
            typer.echo("note: the pocket world has no refiner; the refiner flags have no effect", err=True)
        clip = make_clip(pipeline, request, inputs, clock, display)
        fps = pipeline.defaults.fps if request.fps is None else request.fps
        display.stage("writing")
        with clock.measure("write"):
            video = clip.video if request.no_action_overlay else apply_overlay(clip.video, clip.c2w)
            write_video(stem.with_suffix(".mp4"), video, fps)
            write_contact_sheet(request.output_dir / f"{request.name}_contact_sheet.png", video, fps)
    record = describe_run(pipeline, request, inputs, clip, fps, clock)
    write_text(stem.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    frames, height, width = video.shape[:3]
    typer.echo(f"{stem.with_suffix('.mp4')}: {frames} frames {height}x{width} in {clock.total_s:.1f} s")


def load(request: Request) -> WorldPipeline:
    """Load the model a request names onto its device."""
    import torch
    from sana_wm_core.loading import load_pipeline

    device = request.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device} is unknown; use auto, cpu, cuda or cuda:1") from error
    if known.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is visible; use --device cpu")
    return load_pipeline(
        request.source,
        config=request.config,
        weights=request.model_path,
        device=known,
        offload_codec=request.offload_vae,
    )


def make_clip(pipeline: WorldPipeline, request: Request, inputs: Inputs, clock: Clock, display: Display) -> Clip:
    """Run the pipeline, showing and timing its stages."""

    def report(stage: str, progress: Any) -> None:
        if progress is None:
            clock.enter(stage)
            display.stage(stage)
        else:
            display.step(progress.step, progress.steps)

    try:
        return pipeline(
            inputs.image,
            inputs.prompt,
            c2w=inputs.c2w,
            action=inputs.action,
            intrinsics=inputs.intrinsics,
            fov_deg=request.fov,
            frames=request.num_frames,
            steps=request.step,
            guidance=request.cfg_scale,
            shift=request.flow_shift,
            translation_speed=request.translation_speed,
            rotation_speed_deg=request.rotation_speed_deg,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            report=report,
        )
    finally:
        clock.enter(None)
