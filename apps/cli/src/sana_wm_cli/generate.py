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


def _switch(name: str, text: str, panel: str) -> Any:
    """A yes-no option with both spellings of both answers."""
    dashed = name.replace("_", "-")
    return typer.Option(
        f"--{name}/--no_{name}", f"--{dashed}/--no-{dashed}", help=text, rich_help_panel=panel, show_default=False
    )


_IN, _OUT, _CAMERA, _REFINE = "Input", "Output", "Camera", "Refiner (released models)"
_STREAM, _MEMORY = "Chunks and streaming", "Memory and precision"


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
        str | None, _flag("model", "pocket, pocket-streaming, a model folder, or a hub id owner/name. (pocket)")
    ] = None,
    model_path: Annotated[
        str | None, _flag("model_path", "Other transformer weights: safetensors file, folder, or hf://owner/name/path.")
    ] = None,
    streaming_root: Annotated[
        Path | None, _flag("streaming_root", "Local folder of SANA-WM_streaming; the same as --model with it.")
    ] = None,
    config: Annotated[str | None, _flag("config", "Another config.yaml: path or hf://owner/name/path.")] = None,
    num_frames: Annotated[
        int | None, _flag("num_frames", "At most this many, brought to 8k + 1. (released: 161; pocket: 65)")
    ] = None,
    height: Annotated[int | None, _flag("height", "Pixels, a multiple of 32. (released: 704; pocket: 96)")] = None,
    width: Annotated[int | None, _flag("width", "Pixels, a multiple of 32. (released: 1280; pocket: 160)")] = None,
    step: Annotated[int | None, _flag("step", "Sampler steps. (released: 60; pocket: its preset)")] = None,
    cfg_scale: Annotated[
        float | None, _flag("cfg_scale", "Guidance; 1 = off. (released: 5.0; pocket: its preset)")
    ] = None,
    flow_shift: Annotated[
        float | None, _flag("flow_shift", "Shift of the noise levels. (the model's own; released: 9.8)")
    ] = None,
    sampling_algo: Annotated[
        str,
        _flag(
            "sampling_algo", "auto, flow_euler_ltx, flow_euler, flow_dpm-solver, chunk_flow_euler, self_forcing. (auto)"
        ),
    ] = "auto",
    seed: Annotated[int, _flag("seed", "Noise seed; same seed, same bytes. (42)")] = 42,
    device: Annotated[str, _flag("device", "auto, cpu, cuda, cuda:1. (auto)")] = "auto",
    offload_vae: Annotated[
        bool, _flag("offload_vae", "Keep the codec off the GPU except while it works.", _MEMORY)
    ] = False,
    offload_text_encoder: Annotated[
        bool, _flag("offload_text_encoder", "Move the text encoder off the GPU once the caption is read.", _MEMORY)
    ] = False,
    offload_blocks: Annotated[
        bool, _flag("offload_blocks", "Keep transformer blocks off the GPU except while they work; slower.", _MEMORY)
    ] = False,
    stage1_precision: Annotated[str, _flag("stage1_precision", "bf16, fp8 or fp4. (bf16)", _MEMORY)] = "bf16",
    refiner_precision: Annotated[str, _flag("refiner_precision", "bf16, fp8 or fp4. (bf16)", _MEMORY)] = "bf16",
    allow_camera_error: Annotated[
        bool, _flag("allow_camera_error", "Accept a number format that answers the camera differently.", _MEMORY)
    ] = False,
    chunk_interval_k: Annotated[
        float | None,
        _flag("chunk_interval_k", "chunk_flow_euler: part of a walk between chunks. (1 / chunks)", _STREAM),
    ] = None,
    denoising_step_list: Annotated[
        str | None, _flag("denoising_step_list", "self_forcing: timesteps. (streaming: 1000,960,889,727,0)", _STREAM)
    ] = None,
    num_frame_per_block: Annotated[
        int | None, _flag("num_frame_per_block", "Latent frames of a chunk. (3)", _STREAM)
    ] = None,
    num_cached_blocks: Annotated[
        int | None, _flag("num_cached_blocks", "Chunks that softmax blocks look back at; -1 = all. (2)", _STREAM)
    ] = None,
    sink_token: Annotated[
        bool, _switch("sink_token", "Whether the first chunk is always among them. (yes)", _STREAM)
    ] = True,
    save_state: Annotated[
        Path | None,
        _flag("save_state", "Stream, and save the world here (.safetensors) to go on with `sana-wm extend`.", _STREAM),
    ] = None,
    causal_vae_path: Annotated[
        str | None, _flag("causal_vae_path", "Another causal VAE folder. (the model's own)", _STREAM)
    ] = None,
    streaming_crf: Annotated[int, _flag("streaming_crf", "Quality of a streamed MP4, 0 to 51. (18)", _STREAM)] = 18,
    streaming_preset: Annotated[
        str, _flag("streaming_preset", "x264 preset of a streamed MP4. (medium)", _STREAM)
    ] = "medium",
    streaming_encoder: Annotated[
        str, _flag("streaming_encoder", "libx264, or h264_nvenc on an NVIDIA GPU. (libx264)", _STREAM)
    ] = "libx264",
    output_mode: Annotated[
        str,
        _flag(
            "output_mode", "Streamed frames: mp4, cpu (made, not written) or discard (left on the GPU). (mp4)", _STREAM
        ),
    ] = "mp4",
    no_mp4: Annotated[bool, _flag("no_mp4", "The same as --output_mode discard.", _STREAM)] = False,
    sample_frames_npz: Annotated[
        Path | None, _flag("sample_frames_npz", "Also write every n-th streamed frame into this .npz.", _STREAM)
    ] = None,
    sample_frame_stride: Annotated[int, _flag("sample_frame_stride", "That n. (16)", _STREAM)] = 16,
    benchmark_json: Annotated[
        Path | None, _flag("benchmark_json", "Write seconds and frames per second of the stream here.", _STREAM)
    ] = None,
    benchmark_repeats: Annotated[
        int, _flag("benchmark_repeats", "Make the stream this often: NAME_run01_streaming.mp4 and so on. (1)", _STREAM)
    ] = 1,
    profile_cuda: Annotated[
        bool, _flag("profile_cuda", "Mark the stream for nsys --capture-range=cudaProfilerApi.", _STREAM)
    ] = False,
    compile: Annotated[
        bool,
        _flag("compile", "torch.compile the transformer's blocks: a minute or more to start, kept on disk."),
    ] = False,
    no_compile: Annotated[bool, _flag("no_compile", "Do not compile, which is the default.", _STREAM)] = False,
    cuda_graphs: Annotated[
        bool, _flag("cuda_graphs", "Record the transformer's passes on the GPU and replay them.", _STREAM)
    ] = False,
    output_dir: Annotated[Path, _flag("output_dir", "Folder, made if absent. (out)", _OUT)] = Path("out"),
    name: Annotated[str, _flag("name", "File stem: NAME_generated.mp4. (output)", _OUT)] = "output",
    fps: Annotated[float | None, _flag("fps", "Frames per second of the MP4. (16)", _OUT)] = None,
    no_action_overlay: Annotated[bool, _flag("no_action_overlay", "Do not draw keys and joystick.", _OUT)] = False,
    no_refiner: Annotated[bool, _flag("no_refiner", "Decode stage-1 latents directly.", _REFINE)] = False,
    refiner_root: Annotated[str | None, _flag("refiner_root", "Refiner folder.", _REFINE)] = None,
    refiner_gemma_root: Annotated[str | None, _flag("refiner_gemma_root", "Its text encoder.", _REFINE)] = None,
    refiner_seed: Annotated[int | None, _flag("refiner_seed", "Its noise seed. (42)", _REFINE)] = None,
    sink_size: Annotated[int | None, _flag("sink_size", "Latent frames it keeps as they are. (1)", _REFINE)] = None,
    refiner_block_size: Annotated[
        int | None,
        _flag("refiner_block_size", "Latent frames refined together. (all; streaming: 3)", _REFINE),
    ] = None,
    refiner_kv_max_frames: Annotated[
        int | None, _flag("refiner_kv_max_frames", "Latent frames a block looks back at, sink included. (11)", _REFINE)
    ] = None,
    refiner_lora: Annotated[
        Path | None, _flag("refiner_lora", "Adapter folded into it (.safetensors).", _REFINE)
    ] = None,
    save_stage1: Annotated[bool, _flag("save_stage1", "Also write NAME_stage1_generated.mp4.", _REFINE)] = False,
    offload_refiner: Annotated[
        bool, _flag("offload_refiner", "Free the first stage before it is loaded, and it before decoding.", _REFINE)
    ] = False,
) -> None:
    """Make a video from a picture, a caption and a camera path.

    Without arguments the bundled pocket world flies through its demo:
    96x160 pixels, 65 frames, about a minute on two CPU cores.

    Writes out/output_generated.mp4, a JSON record and a contact sheet.

    A released model (--model Efficient-Large-Model/SANA-WM_bidirectional,
    SANA-WM_chunk_causal or SANA-WM_streaming) makes 704x1280 pixels and wants
    a GPU. The streaming one writes out/output_streaming.mp4 while it works; the
    file plays at any moment.

    Defaults in brackets; where they differ, each model has its own.
    """
    from sana_wm_cli.inputs import Request
    from sana_wm_cli.produce import produce

    given = {name: value for name, value in locals().items() if name in Request.__dataclass_fields__}
    produce(Request(**given))
