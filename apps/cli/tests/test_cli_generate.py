"""sana-wm generate on a tiny stand-in model: what it writes, and one clear line for every kind of bad input."""

import errno
import json
import os
import re

import numpy as np
import pytest
import sana_wm_core.loading
import torch
from camera_control.trajectory import Trajectory
from PIL import Image
from sana_wm_cli import inputs
from sana_wm_cli.main import app
from sana_wm_core.pipeline import Defaults, WorldPipeline
from sana_wm_core.video import read_video
from typer.testing import CliRunner


class ToyModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, hidden_states, timestep, encoder_hidden_states, **conditions):
        shift = conditions["chunk_plucker"].mean(dim=(1, 3, 4))[:, None, :, None, None]
        return (self.weight * hidden_states + shift,)


class ToyCodec(torch.nn.Module):
    temporal_stride, spatial_stride, latent_channels, dtype = 8, 16, 3, torch.float32

    def encode_image(self, image):
        return torch.nn.functional.avg_pool2d(image, 16).unsqueeze(2)

    def decode(self, latents):
        frames = torch.cat([latents[:, :, :1], latents[:, :, 1:].repeat_interleave(8, dim=2)], dim=2)
        return frames.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4).tanh()


class ToyText:
    def encode(self, prompts):
        return torch.full((len(prompts), 1, 4, 2), float(len(prompts[0]))), torch.ones(len(prompts), 4)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The pocket world replaced by a toy, with a demo, in a fresh working folder."""

    def load(folder):
        return WorldPipeline(ToyModel(), ToyCodec(), ToyText(), Defaults(96, 160, 17, 16, 2, 1.0, 2.0, 70.0, 0.05, 1.2))

    picture = tmp_path / "demo.png"
    values = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(values).resize((200, 120)).save(picture)
    monkeypatch.setattr(sana_wm_core.loading, "_load_pocket", load)
    monkeypatch.setattr(inputs, "demo_files", lambda: inputs.Demo(picture, "a demo place", "w-8,jw-8"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


def refused(result, *words):
    """Exit code 2 and one line on stderr that has the words."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word.lower() in lines[0].lower(), (word, lines[0])
    return lines[0]


def test_no_arguments_make_the_demo(toy):
    result = call()
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(toy / "out")) == [
        "output_contact_sheet.png",
        "output_generated.json",
        "output_generated.mp4",
    ]
    assert read_video(toy / "out/output_generated.mp4").shape == (17, 96, 160, 3)
    record = json.loads((toy / "out/output_generated.json").read_text())
    assert record["model"] == "pocket" and record["used"]["seed"] == 42 and record["used"]["frames"] == 17
    assert record["used"]["prompt"] == "a demo place" and record["versions"]["sana-wm"]
    assert re.fullmatch("[0-9a-f]{64}", record["sha256"]["inputs"]["image"])
    assert {"load", "sampling", "decoding", "write"} <= record["seconds"].keys()


def test_same_seed_same_bytes_and_another_seed_another_video(toy):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call("--output_dir", out, "--seed", seed).exit_code == 0
    a, b, c = ((toy / out / "output_generated.mp4").read_bytes() for out in "abc")
    assert a == b and a != c


@pytest.mark.parametrize("dash", [False, True])
def test_both_spellings_of_every_flag(toy, dash):
    np.save("k.npy", np.array([100.0, 100.0, 100.0, 60.0]))
    (toy / "p.txt").write_text("  a quiet lane \n")
    flags = {
        "image": "demo.png",
        "prompt": "p.txt",
        "negative_prompt": "blurry",
        "action": "w-30",
        "translation_speed": "0.1",
        "rotation_speed_deg": "2",
        "intrinsics": "k.npy",
        "num_frames": "25",
        "step": "3",
        "cfg_scale": "2",
        "flow_shift": "4",
        "sampling_algo": "flow_euler_ltx",
        "seed": "5",
        "output_dir": "there",
        "name": "lane",
        "fps": "8",
        "device": "cpu",
        "refiner_seed": "1",
        "sink_size": "1",
        "refiner_root": "r",
        "refiner_gemma_root": "g",
    }
    arguments = ["--no_action_overlay", "--no_refiner", "--offload_vae", "--offload_refiner"]
    for flag, value in flags.items():
        arguments += [f"--{flag}", value]
    if dash:
        arguments = [a.replace("_", "-") if a.startswith("--") else a for a in arguments]
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    used = json.loads((toy / "there/lane_generated.json").read_text())["used"]
    assert used["frames"] == 25 and used["steps"] == 3 and used["cfg_scale"] == 2 and used["flow_shift"] == 4
    assert used["prompt"] == "a quiet lane" and used["fps"] == 8 and used["translation_speed"] == 0.1
    assert "no refiner" in result.stderr


def test_the_overlay_can_be_left_out(toy):
    assert call("--output_dir", "with").exit_code == call("--output_dir", "without", "--no_action_overlay").exit_code
    with_it, without = (read_video(toy / f"{d}/output_generated.mp4").astype(int) for d in ("with", "without"))
    changed = np.abs(with_it - without).max(axis=(0, 3)) > 40
    assert changed[60:, :60].any() and changed[60:, 120:].any() and not changed[:50].any()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--action", "q-8"], ["unknown", "q"]),
        (["--action", "w-0"], ["w-0"]),
        (["--action", "w--4"], ["w--4"]),
        (["--action", "w-1.5"], ["w-1.5"]),
        (["--action", ""], ["empty"]),
        (["--action", "w"], ["w"]),
        (["--action", "w-8,"], ["segment"]),
        (["--action", "w-4"], ["9"]),
        (["--action", "w-16", "--camera", "x.npy"], ["--camera", "--action", "not both"]),
        (["--model", "some_folder"], ["--camera", "--action"]),
        (["--model", "some_folder", "--action", "w-16"], ["--image"]),
        (["--num_frames", "8"], ["--num_frames", "9"]),
        (["--num_frames", "0"], ["--num_frames"]),
        (["--num_frames", "-1"], ["--num_frames"]),
        (["--step", "0"], ["--step"]),
        (["--fov", "24.9"], ["--fov", "25"]),
        (["--fov", "120.1"], ["--fov", "120"]),
        (["--fov", "nan"], ["--fov"]),
        (["--fps", "0"], ["--fps"]),
        (["--cfg_scale", "nan"], ["--cfg_scale"]),
        (["--flow_shift", "-1"], ["--flow_shift"]),
        (["--flow_shift", "0"], ["shift"]),
        (["--name", "a/b"], ["--name"]),
        (["--sampling_algo", "ddim"], ["flow_euler_ltx", "self_forcing"]),
        (["--chunk_interval_k", "0"], ["--chunk_interval_k"]),
        (["--streaming_crf", "52"], ["--streaming_crf", "51"]),
        (["--streaming_preset", "warp"], ["--streaming_preset", "medium"]),
        (["--stage1_precision", "int8"], ["--stage1_precision", "fp8"]),
        (["--sink_size", "0"], ["--sink_size"]),
        (["--refiner_block_size", "0"], ["--refiner_block_size"]),
        (["--refiner_kv_max_frames", "1"], ["--refiner_kv_max_frames"]),
        (["--refiner_lora", "adapter.pt"], ["--refiner_lora", ".safetensors"]),
        (["--save_state", "world.pt"], ["--save_state", ".safetensors"]),
        (["--save_state", "no/where/world.safetensors"], ["--save_state", "folder"]),
        (["--denoising_step_list", "1000,500"], ["end", "0"]),
        (["--denoising_step_list", "1000,x,0"], ["comma"]),
        (["--device", "tpu9000"], ["--device"]),
        (["--image", "absent.png", "--prompt", "x"], ["absent.png", "no such"]),
        (["--image", "demo.png"], ["--prompt"]),
        (["--prompt", " "], ["empty"]),
        (["--prompt", "absent.txt"], ["absent.txt"]),
        (["--camera", "absent.npy"], ["absent.npy"]),
        (["--intrinsics", "absent.npy"], ["absent.npy"]),
    ],
)
def test_bad_flags_get_one_line(toy, arguments, words):
    refused(call(*arguments), *words)
    assert not list(toy.glob("out/*"))


def _path_with(change):
    poses = np.tile(np.eye(4, dtype=np.float32), (17, 1, 1))
    poses[:, 2, 3] = np.arange(17) * 0.05
    return change(poses)


def _poke(index, value):
    def change(poses):
        poses[index] = value
        return poses

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda p: p[:, :3], ["(F, 4, 4)", "(17, 3, 4)"]),
        (lambda p: p[0], ["(F, 4, 4)"]),
        (lambda p: p[:5], ["9"]),
        (lambda p: p[:0], ["(0, 4, 4)"]),
        (_poke((3, 0, 3), np.nan), ["frame 3", "NaN"]),
        (_poke((4, 1, 3), np.inf), ["frame 4"]),
        (_poke((5, 0, 0), 1.2), ["frame 5", "orthonormal"]),
        (_poke((6, 0, 0), -1.0), ["frame 6", "left-handed"]),
        (_poke((7, 3, 2), 0.5), ["frame 7", "0 0 0 1"]),
        (lambda p: p.astype(str), ["--camera"]),
        (lambda p: np.array([{"a": 1}], dtype=object), ["--camera", "numbers"]),
    ],
)
def test_bad_camera_paths_get_one_line(toy, change, words):
    np.save("poses.npy", _path_with(change), allow_pickle=True)
    refused(call("--camera", "poses.npy"), *words)
    assert not list(toy.glob("out/*.mp4"))


@pytest.mark.parametrize(
    "values, words",
    [
        (np.ones(3), ["intrinsics", "(3,)"]),
        (np.ones((2, 2, 2)), ["intrinsics"]),
        (np.array([np.nan, 1, 1, 1]), ["finite"]),
        (np.array([-9.0, 100, 100, 60]), ["focal"]),
        (np.array([1000.0, 1000, 100, 60]), ["field of view", "25"]),
        (np.array([20.0, 20, 100, 60]), ["field of view", "120"]),
    ],
)
def test_bad_intrinsics_get_one_line(toy, values, words):
    np.save("k.npy", values)
    refused(call("--intrinsics", "k.npy"), *words)


def test_a_text_that_is_no_npy_gets_one_line(toy):
    (toy / "poses.npy").write_bytes(b"\x93NUMPY half")
    refused(call("--camera", "poses.npy"), "poses.npy", ".npy")


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "folder", "svg"])
def test_bad_pictures_get_one_line(toy, kind):
    path = toy / "bad.png"
    if kind == "folder":
        path.mkdir()
    else:
        good = (toy / "demo.png").read_bytes()
        path.write_bytes({"text": b"hello", "empty": b"", "cut": good[: len(good) // 2], "svg": b"<svg/>"}[kind])
    refused(call("--image", "bad.png", "--prompt", "a place"), "bad.png")


def test_a_folder_that_cannot_be_written_gets_one_line(toy, monkeypatch):
    (toy / "file").write_text("")
    refused(call("--output_dir", "file"), "file")
    refused(call("--output_dir", "file/below"), "file")
    monkeypatch.setattr("pathlib.Path.mkdir", _raise(PermissionError(errno.EACCES, "Permission denied", "locked")))
    refused(call("--output_dir", "locked"), "permission", "locked")


def _raise(error):
    def function(*arguments, **more):
        raise error

    return function


def test_a_full_disk_is_noticed_before_the_model_is_loaded(toy, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 4096))
    monkeypatch.setattr(sana_wm_core.loading, "_load_pocket", _raise(AssertionError("loaded")))
    refused(call(), "full")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits need a POSIX system")
def test_a_disk_that_fills_up_while_writing_leaves_nothing(toy):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        result = call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(result, "full")
    assert os.listdir(toy / "out") == []


def test_ctrl_c_leaves_no_half_file(toy, monkeypatch):
    def stop(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(ToyModel, "forward", stop)
    result = call()
    assert result.exit_code == 130 and len(result.stderr.strip().splitlines()) == 1
    assert os.listdir(toy / "out") == []


def test_ctrl_c_while_encoding_the_video_leaves_no_half_file(toy, monkeypatch):
    import av

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", _raise(KeyboardInterrupt()), raising=False)
    assert call().exit_code == 130
    assert os.listdir(toy / "out") == []


@pytest.mark.parametrize("size, used", [((120, 200), 150.0), ((60, 100), 150.0), ((100, 100), None)])
def test_paths_of_the_camera_tool_are_read_with_their_lens(toy, size, used):
    path = Trajectory(_path_with(lambda p: p), [0.75 * size[1], 0.75 * size[1], size[1] / 2, size[0] / 2], 16, size)
    path.save("path.npz")
    assert call("--camera", "path.npz").exit_code == 0
    record = json.loads((toy / "out/output_generated.json").read_text())
    focal = 200 / 2 / np.tan(np.radians(35)) if used is None else used
    np.testing.assert_allclose(record["used"]["intrinsics_px_first_frame"][0], focal * 160 / 200, rtol=1e-4)


def test_missing_models_say_what_to_do(toy, monkeypatch):
    base = ("--image", "demo.png", "--prompt", "x", "--action", "w-16", "--fov", 70)
    refused(call(*base, "--model", "./nowhere"), "nowhere", "hub id")
    (toy / "empty").mkdir()
    refused(call(*base, "--model", "empty"), "model_index.json", "dit/")
    refused(call(*base, "--model_path", "absent.safetensors", "--model", "empty"), "empty")
    monkeypatch.setattr("huggingface_hub.snapshot_download", _raise(ConnectionError("no route to host")))
    hub_id = "Efficient-Large-Model/SANA-WM_bidirectional"
    refused(call(*base, "--model", hub_id), hub_id, "10 GB", "12 GB in all", "--model FOLDER", "hf download")


def test_a_bug_keeps_its_traceback(toy, monkeypatch):
    monkeypatch.setattr(ToyModel, "forward", _raise(TypeError("a bug")))
    result = call()
    assert isinstance(result.exception, TypeError)
