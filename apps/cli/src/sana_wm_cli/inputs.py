"""What generate was asked for: the flags as one object, and the files they name, read and checked."""

from __future__ import annotations

import importlib.util
import re
import shutil
import time
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_LEAST_FREE_BYTES = 32 * 2**20
# Spelled here too, so that a wrong flag is answered before the model's code is imported.
ALGORITHMS = ("auto", "flow_euler_ltx", "flow_euler", "flow_dpm-solver", "chunk_flow_euler", "self_forcing")
PRECISIONS = ("bf16", "fp8", "fp4")
OUTPUT_MODES = ("mp4", "cpu", "discard")
ENCODERS = ("libx264", "h264_nvenc")
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass(frozen=True)
class Request:
    """The flags of sana-wm generate; None = the model's own default."""

    image: Path | None
    prompt: str | None
    negative_prompt: str
    camera: Path | None
    action: str | None
    translation_speed: float | None
    rotation_speed_deg: float | None
    intrinsics: Path | None
    fov: float | None
    model: str | None
    model_path: str | None
    config: str | None
    num_frames: int | None
    step: int | None
    cfg_scale: float | None
    flow_shift: float | None
    sampling_algo: str
    seed: int
    device: str
    offload_vae: bool
    output_dir: Path
    name: str
    fps: float | None
    no_action_overlay: bool
    no_refiner: bool
    refiner_root: str | None
    refiner_gemma_root: str | None
    refiner_seed: int | None
    sink_size: int | None
    offload_refiner: bool
    height: int | None = None
    width: int | None = None
    refiner_block_size: int | None = None
    refiner_kv_max_frames: int | None = None
    refiner_lora: Path | None = None
    save_stage1: bool = False
    chunk_interval_k: float | None = None
    denoising_step_list: str | None = None
    num_frame_per_block: int | None = None
    num_cached_blocks: int | None = None
    sink_token: bool = True
    save_state: Path | None = None
    causal_vae_path: str | None = None
    streaming_crf: int = 18
    streaming_preset: str = "medium"
    offload_text_encoder: bool = False
    offload_blocks: bool = False
    stage1_precision: str = "bf16"
    refiner_precision: str = "bf16"
    allow_camera_error: bool = False
    streaming_root: Path | None = None
    streaming_encoder: str = "libx264"
    output_mode: str = "mp4"
    no_mp4: bool = False
    sample_frames_npz: Path | None = None
    sample_frame_stride: int = 16
    benchmark_json: Path | None = None
    benchmark_repeats: int = 1
    profile_cuda: bool = False
    compile: bool = False
    no_compile: bool = False
    cuda_graphs: bool = False

    @property
    def frames_go_to(self) -> str:
        """Where streamed frames go: mp4, cpu or discard."""
        return "discard" if self.no_mp4 else self.output_mode

    @property
    def source(self) -> str:
        """The model asked for; --model_path or --config alone name the repository or folder they lie in."""
        if self.model is not None:
            return self.model
        if self.streaming_root is not None:
            return str(self.streaming_root)
        for path in (self.model_path, self.config):
            if path is None:
                continue
            if path.startswith("hf://"):
                return "/".join(path.removeprefix("hf://").split("/")[:2])
            parent = Path(path).expanduser().resolve().parent
            return str(parent.parent if parent.name in ("dit", "sana_dit", "transformer") else parent)
        return "pocket"

    @property
    def is_pocket(self) -> bool:
        """Whether a pocket world is asked for, a bundled one or one trained here."""
        from sana_wm_core.releases import BUNDLED

        return self.source in BUNDLED or (Path(self.source).expanduser() / "preset.json").is_file()


def bare_request(**given: Any) -> Request:
    """A request with these flags given and all others left at the model's own."""
    empty: dict[str, Any] = {
        name: None for name, spec in Request.__dataclass_fields__.items() if spec.default is MISSING
    }
    plain = {"negative_prompt": "", "sampling_algo": "auto", "seed": 42, "device": "auto", "offload_vae": False}
    plain |= {"output_dir": Path("out"), "name": "output", "no_action_overlay": False, "no_refiner": False}
    return Request(**(empty | plain | {"offload_refiner": False} | given))


@dataclass(frozen=True)
class Inputs:
    """What the pipeline takes, read from the files a request names; a world that goes on needs no picture."""

    image: Image.Image | None
    image_path: Path | None
    prompt: str
    action: str | None
    c2w: np.ndarray | None
    intrinsics: np.ndarray | None


def check_request(request: Request) -> None:
    """Refuse flags that cannot be right, before anything slow happens."""
    if request.sampling_algo not in ALGORITHMS:
        raise ValueError(
            f"--sampling_algo {request.sampling_algo} is not available; use one of {', '.join(ALGORITHMS)} "
            "(flow_euler_ltx is the released default)"
        )
    if request.camera is not None and request.action is not None:
        raise ValueError("give one of --camera (poses) and --action (keys), not both")
    if request.camera is None and request.action is None and not request.is_pocket:
        raise ValueError("give --camera FILE.npy (poses) or --action KEYS, such as --action w-80,jw-40")
    if not re.fullmatch(r"[^/\\\0]{1,200}", request.name) or request.name in (".", ".."):
        raise ValueError(f"--name must be a file stem without folders, such as output; got {request.name!r}")
    if request.fps is not None and not 0 < request.fps <= 1000:
        raise ValueError(f"--fps must be above 0 and at most 1000, such as 16; got {request.fps:g}")
    if request.num_frames is not None and request.num_frames < 9:
        raise ValueError(f"--num_frames must be at least 9 (1 + 8k), such as 65; got {request.num_frames}")
    if request.step is not None and request.step < 1:
        raise ValueError(f"--step must be at least 1, such as 60; got {request.step}")
    if request.fov is not None and not 25 <= request.fov <= 120:
        raise ValueError(f"--fov must be from 25 to 120 degrees, such as 70; got {request.fov:g}")
    if request.fov is not None and request.intrinsics is not None:
        raise ValueError("give one of --fov and --intrinsics, not both")
    _check_stages(request)
    for flag in ("translation_speed", "rotation_speed_deg", "cfg_scale", "flow_shift"):
        value = getattr(request, flag)
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise ValueError(f"--{flag} must be a number of at least 0; got {value:g}")


def _check_stages(request: Request) -> None:
    """The flags of streaming, of the refiner and of precision."""
    for flag, least in (
        ("sink_size", 1),
        ("refiner_block_size", 1),
        ("sample_frame_stride", 1),
        ("benchmark_repeats", 1),
        ("refiner_kv_max_frames", 2),
        ("num_frame_per_block", 1),
    ):
        value = getattr(request, flag)
        if value is not None and value < least:
            raise ValueError(f"--{flag} must be at least {least}; got {value}")
    interval = request.chunk_interval_k
    if interval is not None and not 0 < interval < float("inf"):
        raise ValueError(f"--chunk_interval_k must be above 0, such as 0.1; got {interval:g}")
    if not 0 <= request.streaming_crf <= 51:
        raise ValueError(f"--streaming_crf must be from 0 (lossless) to 51, such as 18; got {request.streaming_crf}")
    if request.streaming_preset not in PRESETS:
        raise ValueError(f"--streaming_preset {request.streaming_preset} is not one of {', '.join(PRESETS)}")
    for flag, allowed in (
        ("stage1_precision", PRECISIONS),
        ("refiner_precision", PRECISIONS),
        ("output_mode", OUTPUT_MODES),
        ("streaming_encoder", ENCODERS),
    ):
        if getattr(request, flag) not in allowed:
            raise ValueError(f"--{flag} {getattr(request, flag)} is not one of {', '.join(allowed)}")
    if request.compile and (request.no_compile or request.offload_blocks):
        other = "no_compile" if request.no_compile else "offload_blocks"
        raise ValueError(f"--compile and --{other} do not go together; leave one out")
    if request.cuda_graphs and request.offload_blocks:
        raise ValueError("--cuda_graphs and --offload_blocks do not go together; leave one out")
    _check_output(request)
    for flag in ("save_state", "refiner_lora"):
        path = getattr(request, flag)
        if path is not None and path.suffix != ".safetensors":
            raise ValueError(f"--{flag} takes a .safetensors file, such as world.safetensors; got {path}")
    if request.save_state is not None:
        folder = request.save_state.expanduser().resolve().parent
        if not folder.is_dir() and folder != request.output_dir.expanduser().resolve():  # that one will be made
            raise ValueError(f"--save_state {request.save_state}: its folder does not exist; make it first")


def _check_output(request: Request) -> None:
    """Where streamed frames and what is measured of them go."""
    if request.no_mp4 and request.output_mode == "cpu":
        raise ValueError("--no_mp4 drops the frames and --output_mode cpu keeps them; give one of the two")
    if request.sample_frames_npz is not None and request.frames_go_to == "discard":
        raise ValueError("--sample_frames_npz needs the frames; use it with --output_mode cpu or mp4")
    for flag, kind in (("sample_frames_npz", ".npz"), ("benchmark_json", ".json")):
        path = getattr(request, flag)
        if path is not None and path.suffix != kind:
            raise ValueError(f"--{flag} takes a {kind} file, such as stream{kind}; got {path}")
        if path is not None and not path.expanduser().resolve().parent.is_dir():
            raise ValueError(f"--{flag} {path}: its folder does not exist; make it first")
    root = request.streaming_root
    if root is not None and request.model is not None:
        raise ValueError("give one of --streaming_root and --model, not both; they name the same thing")
    if root is not None and not root.expanduser().is_dir():
        raise ValueError(f"--streaming_root does not exist: {root}; it is a local folder with sana_dit/ in it")
    if root is not None and not (root.expanduser() / "sana_dit").is_dir():
        raise ValueError(
            f"--streaming_root {root}: no sana_dit/ in it; expected SANA-WM_streaming, see --model for others"
        )


def read_inputs(request: Request) -> Inputs:
    """Read and check the files of a request; the pocket world fills gaps with its demo."""
    from sana_wm_core.images import open_picture

    image, prompt, action = request.image, request.prompt, request.action
    if request.is_pocket:
        demo = demo_files()
        if image is None:
            image = demo.picture
            prompt = demo.prompt if prompt is None else prompt
        if request.camera is None and action is None:
            action = demo.action
    if image is None:
        raise ValueError("--image is needed: the first frame, a PNG, JPEG or WebP file")
    if prompt is None:
        raise ValueError("--prompt is needed: a text file or a text that describes the scene")
    if action is not None:
        from camera_control.actions import parse_actions

        parse_actions(action)
    picture = open_picture(image)
    c2w, lens = (None, None) if request.camera is None else read_path(request.camera, picture.size)
    if request.intrinsics is not None:
        lens = read_array("--intrinsics", request.intrinsics, "(4,) or (3, 3)")
    return Inputs(picture, image, read_prompt(prompt), action, c2w, None if request.fov is not None else lens)


def read_path(path: Path, picture_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Read camera poses, and intrinsics where the file has them for a picture of the same shape.

    Besides .npy, every format of sana-wm camera is read: .npz, TUM, nerfstudio, COLMAP.
    """
    if path.suffix == ".npy":
        return read_array("--camera", path, "(F, 4, 4)"), None
    from camera_control.trajectory import Trajectory

    trajectory = Trajectory.load(path)
    if trajectory.intrinsics is None or trajectory.image_size is None:
        return trajectory.c2w, None
    height, width = trajectory.image_size
    if abs(picture_size[0] * height / (picture_size[1] * width) - 1) > 0.01:
        # Another shape of picture means another lens; the numbers in the file would bend this one.
        return trajectory.c2w, None
    scale = np.array([picture_size[0] / width, picture_size[1] / height] * 2)
    return trajectory.c2w, trajectory.intrinsics * scale


def read_prompt(prompt: str) -> str:
    """Return the caption: the content of a text file if there is one of that name, else the words themselves."""
    text = prompt
    if len(prompt) < 1024 and "\n" not in prompt and "\0" not in prompt:
        path = Path(prompt).expanduser()
        try:
            is_file = path.is_file()
        except OSError:
            is_file = False
        if is_file:
            text = path.read_bytes().decode("utf-8", errors="replace")
        elif path.suffix in (".txt", ".md"):
            raise FileNotFoundError(f"{prompt}: no such prompt file; --prompt takes a text file or the text itself")
    if not text.strip():
        raise ValueError("the prompt is empty; describe the scene in a sentence")
    return text.strip()


def read_array(flag: str, path: Path, expected: str) -> np.ndarray:
    """Read a .npy file of numbers; never unpickles."""
    if not path.is_file():
        raise FileNotFoundError(f"{flag} {path}: no such file; a .npy of shape {expected} is expected")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{flag} {path}: not a readable .npy file of numbers; shape {expected} is expected") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{flag} {path}: not an array of numbers; a .npy of shape {expected} is expected")
    if flag == "--camera" and (array.ndim != 3 or array.shape[1:] != (4, 4)):
        raise ValueError(f"--camera must be a (F, 4, 4) .npy; got {array.shape} in {path}")
    return array


def check_folder(folder: Path) -> None:
    """Make the output folder, and make sure a file can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".sana-wm-{time.monotonic_ns()}"
    try:
        probe.write_bytes(b"\0" * 4096)
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE_BYTES:
        raise ValueError(f"the disk of {folder} is full ({free / 2**20:.0f} MiB free); choose another --output_dir")


class Demo(NamedTuple):
    """The bundled first picture, caption file and action of the pocket world."""

    picture: Path
    prompt: str
    action: str


def demo_files() -> Demo:
    """Find the bundled demo without importing the model."""
    spec = importlib.util.find_spec("sana_wm_core")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "pocket" / "demo"
    if not folder.is_dir():
        raise ValueError(f"{folder}: the demo is missing from this installation; give --image, --prompt and --action")
    return Demo(folder / "picture.png", str(folder / "prompt.txt"), (folder / "action.txt").read_text().strip())
