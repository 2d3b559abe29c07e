"""sana-wm extend: goes on with a world that was saved, as often and in as many directions as one likes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana_wm_cli.display import Display, quiet_libraries
from sana_wm_cli.record import Clock

if TYPE_CHECKING:
    from sana_wm_core.layouts import World
    from sana_wm_core.streaming import Session, WorldState

app = typer.Typer(
    help="Go on with a saved world: more keys, another branch, another caption.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def extend(
    state: Annotated[Path, typer.Argument(help="World saved by --save-state, .safetensors.", metavar="STATE")],
    action: Annotated[str | None, typer.Option("--action", help="Keys held over frames: 'w-48,jw-24'.")] = None,
    camera: Annotated[
        Path | None,
        typer.Option("--camera", help="Poses, .npy (1 + 24 k, 4, 4); the first is where the camera is now."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="The model that made the world.")] = "pocket",
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Another caption from here on: a file or text.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another future from this moment.")] = None,
    save_state: Annotated[
        Path | None, typer.Option("--save-state", "--save_state", help="Keep the world at the end here.")
    ] = None,
    output_dir: Annotated[Path, typer.Option("--output-dir", "--output_dir", help="Folder, made if absent.")] = Path(
        "out"
    ),
    name: Annotated[str, typer.Option("--name", help="File stem: NAME_streaming.mp4.")] = "extended",
    fps: Annotated[float | None, typer.Option("--fps", help="Frames per second. (the world's)")] = None,
    streaming_crf: Annotated[
        int, typer.Option("--streaming-crf", "--streaming_crf", min=0, max=51, help="Quality of the MP4, 0 to 51.")
    ] = 18,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    refiner_root: Annotated[
        str | None, typer.Option("--refiner-root", "--refiner_root", help="Refiner folder, if the world is refined.")
    ] = None,
    refiner_gemma_root: Annotated[
        str | None, typer.Option("--refiner-gemma-root", "--refiner_gemma_root", help="Its text encoder.")
    ] = None,
) -> None:
    """Go on with a saved world.

    The frames begin where the saved ones end. The same state and the same
    keys give the same frames; a state can be extended any number of times.
    """
    from sana_wm_core.streaming import WorldState

    from sana_wm_cli.inputs import Inputs, bare_request, check_folder, read_array, read_prompt
    from sana_wm_cli.produce import load
    from sana_wm_cli.stream import Film, plan_pieces, run

    if (action is None) == (camera is None):
        raise ValueError("give one of --action (keys, such as w-48) and --camera (poses)")
    if save_state is not None and save_state.suffix != ".safetensors":
        raise ValueError(f"--save-state takes a .safetensors file, such as world.safetensors; got {save_state}")
    if fps is not None and not 0 < fps <= 1000:
        raise ValueError(f"--fps must be above 0 and at most 1000, such as 16; got {fps:g}")
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError(f"--name must be a file stem without folders, such as extended; got {name!r}")
    poses = None if camera is None else read_array("--camera", camera, "(1 + 24 k, 4, 4)")
    caption = None if prompt is None else read_prompt(prompt)
    if action is not None:
        from camera_control.actions import parse_actions

        parse_actions(action)
    held = WorldState.load(state)
    check_folder(output_dir)
    clock, request = Clock(), bare_request(model=model, device=device)
    with quiet_libraries(used=not request.is_pocket), Display() as display:
        display.stage("loading the model")
        with clock.measure("load"):
            world = load(request)
            session = _resume(world, held, seed, caption, refiner_root, refiner_gemma_root)
        inputs = Inputs(None, None, session.state.settings.prompt, action, poses, None)
        total, pieces = plan_pieces(session, inputs, None)
        path = output_dir / f"{name}_streaming.mp4"
        rate = session.state.settings.fps if fps is None else fps
        run(session, pieces, total - 1, Film(path, rate, streaming_crf, state=save_state), clock, display)


def _resume(
    world: World,
    state: WorldState,
    seed: int | None,
    caption: str | None,
    refiner_root: str | None,
    refiner_gemma_root: str | None,
) -> Session:
    from sana_wm_core.streaming import Session
    from sana_wm_core.streaming.state import require_model

    from sana_wm_cli.inputs import bare_request
    from sana_wm_cli.refining import StreamRefiner, plan_refiner

    require_model(state, world.pipeline.transformer)
    refine = None
    if state.refiner:
        request = bare_request(refiner_root=refiner_root, refiner_gemma_root=refiner_gemma_root)
        plan = plan_refiner(world, request)
        if plan is None:
            raise ValueError("this world was refined; give --refiner-root and --refiner-gemma-root to go on with it")
        plan.block, plan.fps = state.settings.chunk, state.settings.fps
        plan.window = int(state.refiner["window"])
        refine = StreamRefiner(plan, state.settings.prompt if caption is None else caption, world.pipeline.device)
    if seed is not None:
        state = state.with_seed(seed)
    session = Session(world.pipeline, replace(state), refine)
    if caption is not None:
        session.say(caption)
    return session
