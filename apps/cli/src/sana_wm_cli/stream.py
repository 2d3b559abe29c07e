"""Makes a video chunk by chunk: frames reach the file as they are made, and the world can be kept to go on later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sana_wm_cli.display import Display
from sana_wm_cli.errors import INTERRUPTED, USER_ERROR, is_disk_full, say
from sana_wm_cli.inputs import Inputs, Request
from sana_wm_cli.measure import FrameSamples, describe_lap, marked_for_nsight, write_benchmark
from sana_wm_cli.produce import step_list
from sana_wm_cli.record import Clock, Made, describe_run

if TYPE_CHECKING:
    import numpy as np
    from sana_wm_core.background import BackgroundVideo
    from sana_wm_core.layouts import World
    from sana_wm_core.pipeline import WorldPipeline
    from sana_wm_core.sampling.student import ChunkSampler
    from sana_wm_core.streaming import Piece, Session

    from sana_wm_cli.refining import RefinerPlan, StreamRefiner


@dataclass(frozen=True)
class Film:
    """Where and how a stream is written.

    Attributes:
        path: The MP4.
        fps: Frames per second.
        crf: Quality, 0 to 51.
        preset: x264 preset.
        encoder: libx264 or h264_nvenc.
        mode: mp4, or cpu or discard where no file is written.
        samples: Frames picked out, if asked for.
        state: Where the world is kept at the end, if anywhere.
        sheet: Where a contact sheet of the whole stream goes, if anywhere.
    """

    path: Path
    fps: float
    crf: int = 18
    preset: str = "medium"
    encoder: str = "libx264"
    mode: str = "mp4"
    samples: FrameSamples | None = None
    state: Path | None = None
    sheet: Path | None = None


def streams(world: World, request: Request) -> bool:
    """Whether a request is made chunk by chunk: the model or the user wants it, and the codec can."""
    algorithm = world.pipeline.defaults.sampler if request.sampling_algo == "auto" else request.sampling_algo
    if request.save_state is not None:
        return True
    return algorithm == "self_forcing" and getattr(world.pipeline.codec, "is_causal", True)


def begin_stream(
    world: World, refiner: RefinerPlan | None, request: Request, inputs: Inputs, clock: Clock, display: Display
) -> None:
    """Begin a world and stream it into NAME_streaming.mp4, with a record beside it.

    Raises:
        ValueError: Input that cannot be streamed.
    """
    import typer
    from sana_wm_core.video import require_encoder, write_text

    pipeline, own = world.pipeline, world.pipeline.defaults
    sampler = _choose(world, request)
    refine = _second_stage(refiner, sampler.size, inputs, pipeline)
    if request.frames_go_to == "mp4":
        require_encoder(request.streaming_encoder, request.streaming_preset)
    fps = float(own.fps if request.fps is None else request.fps)
    laps, repeats = [], request.benchmark_repeats
    with marked_for_nsight(request.profile_cuda, pipeline.device):
        for number in range(1, repeats + 1):
            name = request.name if repeats == 1 else f"{request.name}_run{number:02d}"
            lap = Clock()
            session = _start(world, sampler, refine, request, inputs, lap)
            film = _film(request, name, fps)
            total, pieces = plan_pieces(session, inputs, request.num_frames or own.frames)
            made = run(session, pieces, total, film, lap, display)
            first_s = lap.seconds["first picture"] + lap.seconds["first chunk"]
            wall_s = lap.seconds["first picture"] + lap.seconds["streaming"]
            laps.append(describe_lap(made.frames, made.first_frames, first_s, wall_s, fps))
    clock.seconds |= lap.seconds
    height, width = session.state.settings.size
    facts = Made(made.frames, height, width, session.state.settings.lens)
    record = describe_run(pipeline, request, inputs, facts, fps, clock)
    record["used"] |= {"denoising_step_list": list(sampler.steps), "num_frame_per_block": sampler.size}
    record["refiner"] = refiner.describe() if refiner is not None else None
    write_text(film.path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    if request.benchmark_json is not None:
        told = {"model": request.source, "fps": fps, "height": height, "width": width, "steps": list(sampler.steps)}
        write_benchmark(request.benchmark_json, told | {"output_mode": film.mode}, laps, pipeline.device)
        typer.echo(f"{request.benchmark_json}: {laps[-1]['times_realtime']:g} times real time")


def _choose(world: World, request: Request) -> ChunkSampler:
    from sana_wm_core.model.memory import Window
    from sana_wm_core.sampling.student import ChunkSampler

    own = world.pipeline.defaults
    if not getattr(world.pipeline.codec, "is_causal", True):
        raise ValueError(
            "--save_state: this model's VAE looks ahead, so frames cannot be decoded as they are made; use "
            "SANA-WM_streaming, or its ltx2_causal_vae"
        )
    if request.sampling_algo not in ("auto", "self_forcing"):
        raise ValueError(f"--save_state needs chunks, which {request.sampling_algo} has not; use self_forcing or auto")
    return ChunkSampler(
        step_list(request, own) or grid(request, own),
        own.guidance if request.cfg_scale is None else request.cfg_scale,
        request.num_frame_per_block or own.chunk,
        Window(2 if request.num_cached_blocks is None else request.num_cached_blocks, request.sink_token),
    )


def _second_stage(
    refiner: RefinerPlan | None, size: int, inputs: Inputs, pipeline: WorldPipeline
) -> StreamRefiner | None:
    import typer

    from sana_wm_cli.refining import StreamRefiner

    if refiner is None:
        return None
    if refiner.sink != 1:
        raise ValueError(f"--sink_size {refiner.sink}: a stream's refiner keeps exactly 1 latent frame; leave it out")
    if refiner.offload:
        typer.echo("note: --offload_refiner has no effect on a stream, whose chunks are refined as they come", err=True)
    refiner.block = refiner.block or size
    return StreamRefiner(refiner, inputs.prompt, pipeline.device)


def _start(
    world: World, sampler: ChunkSampler, refine: StreamRefiner | None, request: Request, inputs: Inputs, clock: Clock
) -> Session:
    from sana_wm_core.streaming import Session

    assert inputs.image is not None
    with clock.measure("first picture"):
        session = Session.start(
            world.pipeline,
            inputs.image,
            inputs.prompt,
            sampler=sampler,
            intrinsics=one_lens(inputs.intrinsics),
            fov_deg=request.fov,
            height=request.height,
            width=request.width,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            translation_speed=request.translation_speed,
            rotation_speed_deg=request.rotation_speed_deg,
            refine=refine,
        )
    session.delivers = request.frames_go_to != "discard"
    session.overlaps = world.pipeline.device.type == "cuda"
    return session


def _film(request: Request, name: str, fps: float) -> Film:
    picked = request.sample_frames_npz
    return Film(
        request.output_dir / f"{name}_streaming.mp4",
        fps,
        request.streaming_crf,
        request.streaming_preset,
        request.streaming_encoder,
        request.frames_go_to,
        None if picked is None else FrameSamples(picked, request.sample_frame_stride, fps),
        request.save_state,
        None if request.frames_go_to != "mp4" else request.output_dir / f"{name}_contact_sheet.png",
    )


def grid(request: Request, own: Any) -> tuple[float, ...]:
    """Timesteps for weights that were not distilled."""
    from sana_wm_core.sampling.student import grid_steps

    shift = own.shift if request.flow_shift is None else request.flow_shift
    return grid_steps(own.steps if request.step is None else request.step, shift)


def plan_pieces(session: Session, inputs: Inputs, frames: int | None) -> tuple[int, Iterator[Piece]]:
    """How many raw frames a path gives, and the chunks of them as they are made.

    Poses are cut to whole chunks; an action is filled up with rest.

    Raises:
        ValueError: Too few poses for one chunk.
    """
    import typer

    if inputs.c2w is not None:
        have, least = len(inputs.c2w), 1 + session.chunk_frames
        if have < least:
            raise ValueError(f"--camera has {have} poses; a stream needs at least {least}")
        wanted = session.whole_chunks(min(frames or have, have) - 1)
        total = 1 + min(wanted, session.whole_chunks(have - 1, "down"))
        if frames is not None and total != frames:
            typer.echo(f"note: {frames} frames asked for, {total} made (whole chunks)", err=True)
        return total, session.travel(inputs.c2w[:total])
    assert inputs.action is not None
    rows = session.state.track.parse(inputs.action)
    if frames is not None:
        rows = rows[: session.whole_chunks(frames - 1)]
    total = 1 + session.whole_chunks(len(rows), "up")
    rests = total - 1 - len(rows)
    if rests or (frames is not None and frames != total):
        more = f"; the camera rests for the last {rests}" if rests else ""
        typer.echo(f"note: {total} frames are made (whole chunks){more}", err=True)
    return total, session.play(rows)


class Streamed(NamedTuple):
    """Frames of a stream, and those of its first chunk."""

    frames: int
    first_frames: int


def run(session: Session, pieces: Iterator[Piece], total: int, film: Film, clock: Clock, display: Display) -> Streamed:
    """Write chunks as they come, keep the world at the end, and say what there is.

    Whatever stops it, the file keeps what was written and plays, and the world is kept at its last whole chunk.
    """
    import typer
    from sana_wm_core.video import ContactSheet, keep_whole_fragments

    clock.enter("streaming")
    display.stage("streaming")
    before = session.state
    done = first = 0
    # The very first frame is left out where there is a second stage.
    sheet = None if film.sheet is None else ContactSheet(total - (session.refine is not None))
    try:
        with _video(film) as video:
            for piece in pieces:
                if video is not None:
                    video.append(piece.video)
                for picked in (film.samples, sheet):
                    if picked is not None:
                        picked.append(piece.video)
                done += len(piece.c2w)
                if not first:
                    clock.enter("streaming")
                    clock.seconds["first chunk"], first = clock.seconds["streaming"], done
                display.step(done, total)
    except KeyboardInterrupt:
        say(f"stopped; {film.path} holds {done} frames and plays" if film.mode == "mp4" else f"stopped at frame {done}")
        keep(session, film, before)
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        if not is_disk_full(error):
            raise
        left = keep_whole_fragments(film.path)
        say(f"the disk is full; {film.path} holds {left} frames and plays; free some space and go on")
        keep(session, film, before)
        raise typer.Exit(USER_ERROR) from error
    except RuntimeError as error:
        # What to do about a full GPU says the caller, who knows the model.
        if type(error).__name__ == "OutOfMemoryError":
            if film.mode == "mp4" and done:
                typer.echo(f"note: {film.path} holds {done} frames and plays", err=True)
            keep(session, film, before)
        raise
    clock.enter(None)
    keep(session, film, None)
    if film.samples is not None:
        film.samples.save()
    if sheet is not None and film.sheet is not None:
        sheet.save(film.sheet, film.fps)
    where = film.path if film.mode == "mp4" else f"--output_mode {film.mode}"
    typer.echo(f"{where}: {done} frames in {clock.seconds['streaming']:.1f} s")
    return Streamed(done, first)


def _video(film: Film) -> AbstractContextManager[BackgroundVideo | None]:
    from sana_wm_core.background import BackgroundVideo
    from sana_wm_core.video import GrowingVideo

    if film.mode != "mp4":
        return nullcontext()
    return BackgroundVideo(GrowingVideo(film.path, film.fps, film.crf, film.preset, film.encoder))


def keep(session: Session, film: Film, unless: Any) -> None:
    """Save the world where it was asked for, unless it has not moved."""
    import typer

    if film.state is None or session.state is unless:
        return
    try:
        session.state.save(film.state)
    except OSError as error:
        raise ValueError(f"{film.state}: the world cannot be saved there ({error}); nothing was left behind") from error
    typer.echo(f"{film.state}: the world after {session.state.frames} frames; go on with sana-wm extend", err=True)


def one_lens(intrinsics: np.ndarray | None) -> np.ndarray | None:
    """The lens of a stream, which stays the same.

    Raises:
        ValueError: It changes from frame to frame.
    """
    import numpy as np

    if intrinsics is None or intrinsics.ndim < 2 or intrinsics.shape == (3, 3):
        return intrinsics
    if not np.allclose(intrinsics, intrinsics[:1]):
        raise ValueError("--intrinsics change from frame to frame; a stream keeps one lens, (4,) or (3, 3)")
    return intrinsics[0]
