"""Makes a clip as asked on the command line, and writes the video, its record and a contact sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sana_wm_cli.display import Display, quiet_libraries
from sana_wm_cli.inputs import Inputs, Request, check_folder, check_request, read_inputs
from sana_wm_cli.record import Clock, Made, describe_run
from sana_wm_cli.rescue import missing_bytes, possible_changes, smallest_change

if TYPE_CHECKING:
    import torch
    from sana_wm_core.layouts import World
    from sana_wm_core.pipeline import Clip, Defaults

    from sana_wm_cli.refining import RefinerPlan


def produce(request: Request) -> None:
    """Make what a request asks for: a clip, or a stream where the model makes chunks or a state is to be saved.

    Raises:
        ValueError: Input that cannot be used.
        OSError: Files that cannot be read or written.
    """
    # Everything cheap is checked before the model is loaded.
    check_request(request)
    inputs = read_inputs(request)
    check_folder(request.output_dir)
    guess = inputs.intrinsics is None and request.fov is None and not request.is_pocket
    if guess:
        from sana_wm_core.lens import require_estimator

        require_estimator()

    from sana_wm_cli.refining import plan_refiner
    from sana_wm_cli.stream import begin_stream, streams

    clock = Clock()
    with quiet_libraries(used=not request.is_pocket), Display() as display:
        if guess:
            inputs = guess_lens(inputs, request, display, clock)
        display.stage("loading the model")
        with clock.measure("load"):
            world = load(request)
            refiner = plan_refiner(world, request)
        chunked = streams(world, request)
        if not chunked:
            refuse_stream_flags(request)
        make = begin_stream if chunked else _produce_clip
        try:
            make(world, refiner, request, inputs, clock, display)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            changes = possible_changes(world, refiner, request, chunked)
            raise ValueError(smallest_change(changes, missing_bytes(str(error)))) from error


def _produce_clip(
    world: World, refiner: RefinerPlan | None, request: Request, inputs: Inputs, clock: Clock, display: Display
) -> None:
    """Write NAME_generated.mp4, .json and NAME_contact_sheet.png into the output folder."""
    import typer
    from sana_wm_core.overlay import apply_overlay
    from sana_wm_core.video import write_contact_sheet, write_text, write_video

    stem = request.output_dir / f"{request.name}_generated"
    clip = make_clip(world, refiner, request, inputs, clock, display)
    fps = world.pipeline.defaults.fps if request.fps is None else request.fps
    display.stage("writing")
    with clock.measure("write"):
        video = clip.video if request.no_action_overlay else apply_overlay(clip.video, clip.c2w)
        write_video(stem.with_suffix(".mp4"), video, fps)
        write_contact_sheet(request.output_dir / f"{request.name}_contact_sheet.png", video, fps)
        if clip.stage1 is not None:
            write_video(request.output_dir / f"{request.name}_stage1_generated.mp4", clip.stage1, fps)
    frames, height, width = video.shape[:3]
    planned = frames + (refiner.sink if refiner is not None else 0)
    if request.num_frames not in (None, planned):
        typer.echo(f"note: --num_frames {request.num_frames} became {planned} (1 + 8 k, within the path)", err=True)
    made = Made(frames, height, width, tuple(clip.intrinsics[0]))
    record = describe_run(world.pipeline, request, inputs, made, fps, clock)
    record["refiner"] = refiner.describe() if refiner is not None else None
    write_text(stem.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    size = f"{made.frames} frames {made.height}x{made.width}"
    typer.echo(f"{stem.with_suffix('.mp4')}: {size} in {clock.total_s:.1f} s")


def refuse_stream_flags(request: Request) -> None:
    """Refuse what only a stream can give, before a whole clip is sampled.

    Raises:
        ValueError: A flag of streams was given.
    """
    asked = {
        "benchmark_json": request.benchmark_json is not None,
        "benchmark_repeats": request.benchmark_repeats > 1,
        "sample_frames_npz": request.sample_frames_npz is not None,
        "profile_cuda": request.profile_cuda,
        "cuda_graphs": request.cuda_graphs,
        "no_mp4": request.no_mp4,
        "output_mode": request.output_mode != "mp4",
    }
    flags = [f"--{name}" for name, given in asked.items() if given]
    if flags:
        raise ValueError(
            f"{', '.join(flags)}: for streams only, and this is made as a whole clip; use SANA-WM_streaming, or "
            "--sampling_algo self_forcing with a codec that does not look ahead"
        )


def guess_lens(inputs: Inputs, request: Request, display: Display, clock: Clock) -> Inputs:
    """Inputs with a lens that Pi3X estimated; Pi3X is gone again before the model comes."""
    import typer
    from sana_wm_core.lens import estimate_lens

    assert inputs.image is not None
    display.stage("estimating the lens")
    with clock.measure("lens"):
        lens = estimate_lens(inputs.image, find_device(request.device))
    shown = ", ".join(f"{value:.0f}" for value in lens)
    typer.echo(f"note: Pi3X estimates fx, fy, cx, cy = {shown} pixels (its weights are CC BY-NC 4.0)", err=True)
    return replace(inputs, intrinsics=lens)


def load(request: Request) -> World:
    """Load the model a request names onto its device."""
    from sana_wm_core.layouts import open_world

    device = find_device(request.device)
    if request.cuda_graphs and device.type != "cuda":
        raise ValueError(f"--cuda_graphs records work on an NVIDIA GPU; this runs on {device.type}; leave it out")
    world = open_world(
        request.source,
        config=request.config,
        weights=request.model_path,
        codec=request.causal_vae_path,
        device=device,
        offload_codec=request.offload_vae,
    )
    world.pipeline.offload_text_encoder = request.offload_text_encoder
    _prepare_transformer(world, request, device)
    return world


def _prepare_transformer(world: World, request: Request, device: torch.device) -> None:
    from sana_wm_core.compiled import compile_blocks
    from sana_wm_core.fidelity import LIMIT, quantize_and_check
    from sana_wm_core.graphs import replay_passes
    from sana_wm_core.offload import offload_blocks
    from sana_wm_core.sampling.student import transformer_of

    limit = float("inf") if request.allow_camera_error else LIMIT
    quantize_and_check(world.pipeline.transformer, request.stage1_precision, limit)
    if request.compile:
        compile_blocks(transformer_of(world.pipeline.transformer))
    if request.cuda_graphs:
        replay_passes(transformer_of(world.pipeline.transformer))
    if request.offload_blocks:
        offload_blocks(transformer_of(world.pipeline.transformer), "blocks", device)


def find_device(name: str) -> torch.device:
    """The device a flag names; auto takes the GPU if there is one.

    Raises:
        ValueError: An unknown name, or no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name} is unknown; use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is visible; use --device cpu")
    return device


def make_clip(
    world: World, refiner: RefinerPlan | None, request: Request, inputs: Inputs, clock: Clock, display: Display
) -> Clip:
    """Run the pipeline, showing and timing its stages."""
    from sana_wm_core.sampling.choice import choose_sampler

    def report(stage: str, progress: Any) -> None:
        if progress is None:
            clock.enter(stage)
            display.stage(stage)
        else:
            display.step(progress.step, progress.steps)

    assert inputs.image is not None
    own = world.pipeline.defaults
    sampler = choose_sampler(
        own.sampler if request.sampling_algo == "auto" else request.sampling_algo,
        steps=own.steps if request.step is None else request.step,
        guidance=own.guidance if request.cfg_scale is None else request.cfg_scale,
        shift=own.shift if request.flow_shift is None else request.flow_shift,
        chunk=request.num_frame_per_block or own.chunk,
        chunk_rule=own.chunk_rule,
        interval=request.chunk_interval_k,
        step_list=step_list(request, own),
        window=2 if request.num_cached_blocks is None else request.num_cached_blocks,
        sink=request.sink_token,
    )
    try:
        return world.pipeline(
            inputs.image,
            inputs.prompt,
            c2w=inputs.c2w,
            action=inputs.action,
            intrinsics=inputs.intrinsics,
            fov_deg=request.fov,
            height=request.height,
            width=request.width,
            frames=request.num_frames,
            sampler=sampler,
            translation_speed=request.translation_speed,
            rotation_speed_deg=request.rotation_speed_deg,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            refine=None if refiner is None else refiner.for_clips(world.pipeline, display),
            keep_stage1=request.save_stage1,
            report=report,
        )
    finally:
        clock.enter(None)


def step_list(request: Request, own: Defaults) -> tuple[float, ...]:
    """Timesteps of the chunk-by-chunk sampler: the flag's, else the model's unless --step asks for a grid.

    Raises:
        ValueError: No step list, or another one than the weights were made for.
    """
    from sana_wm_core.sampling.student import parse_steps

    steps = own.step_list if request.step is None else ()
    if request.denoising_step_list is not None:
        steps = parse_steps(request.denoising_step_list)
    if own.fixed_steps and steps != own.step_list:
        known = ",".join(f"{step:g}" for step in own.step_list)
        raise ValueError(f"these weights were distilled for the steps {known} and know no others; leave the flag out")
    return steps
