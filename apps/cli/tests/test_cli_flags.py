"""Every flag of the original scripts is taken, in both spellings, with the meaning it had."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from sana_wm_cli.generate import app as generate_app
from sana_wm_cli.main import app
from sana_wm_core.sampling.choice import ALGORITHMS
from sana_wm_core.video import read_video
from typer.testing import CliRunner

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "tiny_models.py"
# Flags of the scripts for whole clips and for streams, with an argument where they take one.
WHOLE_CLIPS = """
image=x.png prompt=x.txt output_dir=out name=x camera=x.npy action=w-8 translation_speed=0.1 rotation_speed_deg=1
intrinsics=x.npy num_frames=161 fps=16 step=60 cfg_scale=5 flow_shift=9.8 sampling_algo=flow_euler negative_prompt=x
seed=1 no_action_overlay config=x.yaml model_path=x.safetensors no_refiner refiner_root=x refiner_gemma_root=x
refiner_seed=1 sink_size=1 offload_vae offload_refiner chunk_interval_k=0.1 num_cached_blocks=-1 sink_token
num_frame_per_block=3 denoising_step_list=1000,0 save_stage1 refiner_block_size=3 refiner_kv_max_frames=11
"""
STREAMS = """
streaming_root=x causal_vae_path=x no_sink_token streaming_crf=18 streaming_preset=medium streaming_encoder=libx264
output_mode=mp4 no_mp4 benchmark_json=x.json benchmark_repeats=2 profile_cuda sample_frames_npz=x.npz
sample_frame_stride=4 no_compile offload_text_encoder stage1_precision=fp8 refiner_precision=fp4
"""
QUICK = ("--height", 64, "--width", 96, "--fov", 70, "--device", "cpu", "--denoising_step_list", "1000,500,0")


@pytest.mark.parametrize("flag", (WHOLE_CLIPS + STREAMS).split())
def test_flags_of_the_original_scripts_are_taken(flag):
    name, _, value = flag.partition("=")
    command = typer.main.get_command(generate_app)
    for spelling in (f"--{name}", f"--{name.replace('_', '-')}"):
        with command.make_context("generate", [spelling, *([value] if value else [])]) as context:
            held = name.removeprefix("no_") if name == "no_sink_token" else name
            parsed = context.params[held]
        expected = value or name != "no_sink_token"
        assert str(parsed) == str(expected) or float(parsed) == float(value), (spelling, parsed)


def test_every_sampler_of_the_original_scripts_is_known():
    named = {"auto", "flow_euler_ltx", "flow_euler", "flow_dpm-solver", "chunk_flow_euler", "self_forcing"}
    assert named == set(ALGORITHMS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    runpy.run_path(str(SCRIPT))["write_all"](folder)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder / "photo.png")
    return folder


@pytest.fixture
def stream(tiny, tmp_path, monkeypatch):
    """Streams 49 frames of the tiny model with more flags, and gives back what the command said."""
    monkeypatch.chdir(tmp_path)

    def make(*more, where="--streaming_root", model="SANA-WM_streaming"):
        base = ("--image", tiny / "photo.png", "--prompt", "a street", "--action", "w-48", "--no_refiner", *QUICK)
        return CliRunner().invoke(app, ["generate", where, *map(str, (tiny / model, *base, *more))])

    return make


def one_line(result, *words):
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), result.stderr


def test_streamed_frames_go_where_they_are_wanted(stream):
    runs = {}
    for number, more in enumerate(
        (
            ("--sample_frames_npz", "a.npz", "--sample_frame_stride", 10, "--streaming_crf", 0),
            ("--sample_frames_npz", "b.npz", "--sample_frame_stride", 10, "--output_mode", "cpu"),
            ("--no_mp4", "--benchmark_json", "c.json", "--benchmark_repeats", 2),
            ("--benchmark_repeats", 2),
        )
    ):
        runs[number] = stream("--name", number, *more)
        assert runs[number].exit_code == 0, (runs[number].output, runs[number].exception)
    a, b = np.load("a.npz"), np.load("b.npz")
    assert a["numbers"].tolist() == [0, 10, 20, 30, 40] and a["fps"] == 16
    assert a["frames"].shape == (5, 64, 96, 3) and a["frames"].std() > 1 and np.array_equal(a["frames"], b["frames"])
    # Lossless H.264 keeps brightness, and colour at half the size; this clip is coloured noise.
    shown, bright = read_video("out/0_streaming.mp4")[::10], np.array([0.299, 0.587, 0.114])
    assert np.abs(shown @ bright - a["frames"] @ bright).mean() < 12
    assert np.abs(shown[1:] @ bright - a["frames"][:-1] @ bright).mean() > 30
    assert sorted(path.name for path in Path("out").glob("*.mp4")) == [
        "0_streaming.mp4",
        "3_run01_streaming.mp4",
        "3_run02_streaming.mp4",
    ]
    first, second = (Path(f"out/3_run0{n}_streaming.mp4").read_bytes() for n in (1, 2))
    assert first == second
    told = json.loads(Path("c.json").read_text())
    assert len(told["runs"]) == 2 and told["output_mode"] == "discard" and told["steps"] == [1000, 500, 0]
    for lap in told["runs"]:
        assert lap["frames"] == 49 and 0 < lap["first_chunk_s"] <= lap["wall_s"] and lap["frames_per_s"] > 0
    assert min(lap["wall_s"] for lap in told["runs"]) <= told["median"]["wall_s"] and told["peak"]["main_gb"] > 0
    record = json.loads(Path("out/2_run02_streaming.json").read_text())
    assert record["used"]["frames"] == 49


def test_flags_of_streams_that_cannot_be_right(stream, tiny):
    one_line(stream("--no_mp4", "--output_mode", "cpu"), "--no_mp4", "cpu")
    one_line(stream("--output_mode", "tape"), "tape", "discard")
    one_line(stream("--sample_frame_stride", 0), "--sample_frame_stride", "1")
    one_line(stream("--benchmark_repeats", 0), "--benchmark_repeats", "1")
    one_line(stream("--sample_frames_npz", "x.npz", "--no_mp4"), "--sample_frames_npz", "cpu")
    one_line(stream("--sample_frames_npz", "x.png"), ".npz")
    one_line(stream("--benchmark_json", "absent/x.json"), "absent", "folder")
    one_line(stream("--streaming_encoder", "vp9"), "vp9", "h264_nvenc")
    one_line(stream("--profile_cuda"), "--profile_cuda", "cpu")
    one_line(stream("--cuda_graphs"), "--cuda_graphs", "cpu")
    one_line(stream("--cuda_graphs", "--offload_blocks"), "--offload_blocks", "leave one out")
    one_line(stream("--compile", "--no_compile"), "--compile", "--no_compile")
    one_line(stream("--compile", "--offload_blocks"), "--offload_blocks", "leave one out")
    one_line(stream("--model", tiny / "SANA-WM_streaming"), "--streaming_root", "--model")
    one_line(stream(model="absent"), "--streaming_root does not exist")
    one_line(stream(model="SANA-WM_bidirectional"), "sana_dit")
    one_line(stream("--no_mp4", where="--model", model="SANA-WM_bidirectional"), "--no_mp4", "whole clip")
    other = ("--causal_vae_path", tiny / "SANA-WM_streaming" / "ltx2_causal_vae")
    one_line(stream(*other, where="--model", model="SANA-WM_bidirectional"), "--causal_vae_path", "no use")
    assert not list(Path().glob("out/*.mp4"))


def test_an_encoder_that_does_not_work_here_is_refused_before_anything_is_made(stream, monkeypatch):
    import av

    def closed(*arguments):
        raise av.error.ExternalError(542398533, "Generic error in an external library")

    monkeypatch.setattr(av.CodecContext, "create", closed)
    one_line(stream("--streaming_encoder", "h264_nvenc"), "h264_nvenc", "libx264")
    assert not list(Path().glob("out/*.mp4"))


def test_the_configuration_may_have_the_name_of_the_original_script(tiny, tmp_path):
    from sana_wm_core.layouts import open_world

    for path in (tiny / "SANA-WM_streaming").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "gemma-2-2b-it").symlink_to(tiny / "gemma-2-2b-it")
    steps = "scheduler: {denoising_step_list: [1000, 400, 0]}\n"
    (tmp_path / "sana_wm_streaming_1600m_720p.yaml").write_text(steps)
    assert open_world(tmp_path).pipeline.defaults.step_list == (1000.0, 400.0, 0.0)
    (tmp_path / "other.yaml").write_text(steps)
    assert open_world(tmp_path).pipeline.defaults.step_list == (1000.0, 960.0, 889.0, 727.0, 0.0)
