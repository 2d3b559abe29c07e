"""sana-wm generate: the flags. The work is in produce.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Make a video from a picture, a caption and a camera path.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _flag(name: str, text: str, panel: str = "Model and sampling", **more: Any) -> Any:
    """An option with both spellings, --like_this and --like-this."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    return typer.Option(*spellings, help=text, rich_help_panel=panel, show_default=False, **more)


_IN, _OUT, _CAMERA, _REFINE = "Input", "Output", "Camera", "Refiner (released models)"


@app.command()
def generate(
    image: Annotated[Path | None, _flag("image", "First frame: PNG, JPEG or WebP. (pocket: the demo)", _IN)] = None,
    prompt: Annotated[str | None, _flag("prompt", "Caption: a text file, or the text itself.", _IN)] = None,
    negative_prompt: Annotated[str, _flag("negative_prompt", "What to stay away from, with guidance.", _IN)] = "",
    camera: Annotated[
        Path | None, _flag("camera", "Poses, .npy (F, 4, 4) camera-to-world; or --action.", _CAMERA)
    ] = None,
    action: Annotated[str | None, _flag("action", "Keys held over frames: 'w-40,jw-24'; or --camera.", _CAMERA)] = None,
    translation_speed: Annotated[
        float | None, _flag("translation_speed", "Metres per frame of an action. (0.05)", _CAMERA)
    ] = None,
    rotation_speed_deg: Annotated[
        float | None, _flag("rotation_speed_deg", "Degrees per frame of an action. (1.2)", _CAMERA)
    ] = None,
    intrinsics: Annotated[
        Path | None, _flag("intrinsics", ".npy (4,), (3, 3), (F, 4) or (F, 3, 3), pixels of --image.", _CAMERA)
    ] = None,
    fov: Annotated[
        float | None,
        _flag("fov", "Horizontal field of view, degrees, without --intrinsics. (pocket: 70; released: none)", _CAMERA),
    ] = None,
    model: Annotated[
        str | None, _flag("model", "pocket (bundled), a model folder, or a hub id owner/name. (pocket)")
    ] = None,
    model_path: Annotated[
        str | None, _flag("model_path", "Other transformer weights: safetensors file, folder, or hf://owner/name/path.")
    ] = None,
    config: Annotated[str | None, _flag("config", "Another config.yaml: path or hf://owner/name/path.")] = None,
    num_frames: Annotated[
        int | None, _flag("num_frames", "At most this many, brought to 8k + 1. (released: 161; pocket: 65)")
    ] = None,
    step: Annotated[int | None, _flag("step", "Sampler steps. (released: 60; pocket: its preset)")] = None,
    cfg_scale: Annotated[
        float | None, _flag("cfg_scale", "Guidance; 1 = off. (released: 5.0; pocket: its preset)")
    ] = None,
    flow_shift: Annotated[
        float | None, _flag("flow_shift", "Shift of the noise levels. (the model's own; released: 9.8)")
    ] = None,
    sampling_algo: Annotated[str, _flag("sampling_algo", "flow_euler_ltx.")] = "flow_euler_ltx",
    seed: Annotated[int, _flag("seed", "Noise seed; same seed, same bytes. (42)")] = 42,
    device: Annotated[str, _flag("device", "auto, cpu, cuda, cuda:1. (auto)")] = "auto",
    offload_vae: Annotated[bool, _flag("offload_vae", "Keep the codec off the GPU except while it works.")] = False,
    output_dir: Annotated[Path, _flag("output_dir", "Folder, made if absent. (out)", _OUT)] = Path("out"),
    name: Annotated[str, _flag("name", "File stem: NAME_generated.mp4. (output)", _OUT)] = "output",
    fps: Annotated[float | None, _flag("fps", "Frames per second of the MP4. (16)", _OUT)] = None,
    no_action_overlay: Annotated[bool, _flag("no_action_overlay", "Do not draw keys and joystick.", _OUT)] = False,
    no_refiner: Annotated[bool, _flag("no_refiner", "Decode stage-1 latents directly.", _REFINE)] = False,
    refiner_root: Annotated[str | None, _flag("refiner_root", "Refiner folder.", _REFINE)] = None,
    refiner_gemma_root: Annotated[str | None, _flag("refiner_gemma_root", "Its text encoder.", _REFINE)] = None,
    refiner_seed: Annotated[int | None, _flag("refiner_seed", "Its noise seed. (42)", _REFINE)] = None,
    sink_size: Annotated[int | None, _flag("sink_size", "Latent frames it keeps as they are. (1)", _REFINE)] = None,
    offload_refiner: Annotated[bool, _flag("offload_refiner", "Load it only when needed.", _REFINE)] = False,
) -> None:
    """Make a video from a picture, a caption and a camera path.

    Without arguments the bundled pocket world flies through its demo:
    96x160 pixels, 65 frames, about a minute on two CPU cores.

    Writes out/output_generated.mp4, a JSON record and a contact sheet.

    A released model (--model Efficient-Large-Model/SANA-WM_bidirectional)
    makes 704x1280 pixels and 161 frames, and wants a GPU.

    Defaults in brackets; where they differ, each model has its own.
    """
    from sana_wm_cli.inputs import Request
    from sana_wm_cli.produce import produce

    given = {name: value for name, value in locals().items() if name in Request.__dataclass_fields__}
    produce(Request(**given))
