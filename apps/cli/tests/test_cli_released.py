"""The released variants through the real commands, on tiny random models in the published layouts."""

import json
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sana_wm_cli.main import app
from sana_wm_core.video import read_video
from typer.testing import CliRunner

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "tiny_models.py"
PROMPT = "a quiet street"
QUICK = ("--height", 64, "--width", 96, "--fov", 70, "--step", 2, "--device", "cpu")
SHORT = ("--denoising_step_list", "1000,500,0", "--height", 64, "--width", 96, "--fov", 70, "--device", "cpu")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a tiny model in every published layout."""
    folder = tmp_path_factory.mktemp("tiny")
    runpy.run_path(str(SCRIPT))["write_all"](folder)
    values = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(values).resize((200, 120)).save(folder / "photo.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, *arguments):
    return CliRunner().invoke(app, [command, *map(str, arguments)])


def make(tiny, model, *more, action="w-17"):
    picture = () if "--image" in more else ("--image", tiny / "photo.png")
    base = (*picture, "--prompt", PROMPT, "--action", action)
    return run("generate", "--model", tiny / model, *base, *more)


def fine(result):
    assert result.exit_code == 0, (result.output, result.stderr, result.exception)
    return result


def refused(result, *words):
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word.lower() in lines[0].lower(), (word, lines[0])


@pytest.mark.parametrize("model", ["SANA-WM_bidirectional", "SANA-WM_chunk_causal", "SANA-WM_bidirectional-diffusers"])
def test_whole_clips_with_and_without_refiner(tiny, here, model):
    result = fine(make(tiny, model, *QUICK, "--save_stage1", "--output_dir", "a"))
    refined = model != "SANA-WM_bidirectional-diffusers"
    assert ("no refiner" in result.stderr) != refined
    assert read_video("a/output_generated.mp4").shape == (16 if refined else 17, 64, 96, 3)
    assert Path("a/output_stage1_generated.mp4").is_file() == refined
    record = json.loads(Path("a/output_generated.json").read_text())
    chunked = model == "SANA-WM_chunk_causal"
    assert record["used"]["sampling_algo"] == ("chunk_flow_euler" if chunked else "flow_euler_ltx")
    assert (record["refiner"] is not None) == refined
    fine(make(tiny, model, *QUICK, "--no_refiner", "--output_dir", "b"))
    assert len(read_video("b/output_generated.mp4")) == 17


def test_flags_of_samplers_and_refiner_reach_them(tiny, here):
    videos = []
    for number, more in enumerate(
        (
            ("--no_refiner",),
            ("--no_refiner", "--sampling_algo", "flow_dpm-solver"),
            ("--no_refiner", "--sampling_algo", "chunk_flow_euler", "--num_frame_per_block", 1),
            (
                "--no_refiner",
                "--sampling_algo",
                "chunk_flow_euler",
                "--num_frame_per_block",
                1,
                "--chunk_interval_k",
                1,
            ),
            ("--no_refiner", "--sampling_algo", "self_forcing", "--num_frame_per_block", 1),
            (),
            ("--refiner_block_size", 1, "--refiner_kv_max_frames", 2),
            ("--refiner_seed", 7),
        )
    ):
        fine(make(tiny, "SANA-WM_bidirectional", *QUICK, "--no_action_overlay", "--output_dir", number, *more))
        videos.append(read_video(f"{number}/output_generated.mp4")[-16:])
    for i, one in enumerate(videos):
        assert not any(np.array_equal(one, other) for other in videos[:i]), i


def test_a_refined_clip_equals_diffusers(tiny):
    """First and second stage, from the published folder, against diffusers' two pipelines in a row."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaWMPipeline
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.sana_wm.refiner import SanaWMLTX2Refiner
    from sana_wm_cli.display import Display
    from sana_wm_cli.refining import RefinerPlan
    from sana_wm_core.layouts import open_world
    from transformers import AutoTokenizer, Gemma2Model, Gemma3ForConditionalGeneration

    world = open_world(tiny / "SANA-WM_bidirectional")
    plan = RefinerPlan(world.refiner.root, world.refiner.gemma)
    picture, lens = Image.open(tiny / "photo.png"), [150.0, 150.0, 100.0, 60.0]
    clip = world.pipeline(
        picture,
        PROMPT,
        action="w-8,jw-8",
        intrinsics=lens,
        height=64,
        width=96,
        steps=2,
        refine=plan.for_clips(world.pipeline, Display()),
        keep_stage1=True,
    )
    first = SanaWMPipeline.from_pretrained(
        tiny / "SANA-WM_bidirectional-diffusers",
        text_encoder=Gemma2Model.from_pretrained(tiny / "gemma-2-2b-it"),
        tokenizer=AutoTokenizer.from_pretrained(tiny / "gemma-2-2b-it"),
    )
    first.set_progress_bar_config(disable=True)
    stage1 = first(
        picture,
        PROMPT,
        action="w-8,jw-8",
        intrinsics=np.array(lens),
        height=64,
        width=96,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(42),
        chi_prompt=["Say: "],
        max_sequence_length=40,
    )
    root = tiny / "SANA-WM_bidirectional" / "refiner"
    second = SanaWMLTX2Refiner(
        SanaWMLTX2RefinerTransformer3DModel.from_pretrained(root / "transformer"),
        LTX2TextConnectors.from_pretrained(root / "connectors"),
        AutoTokenizer.from_pretrained(root / "text_encoder"),
        Gemma3ForConditionalGeneration.from_pretrained(root / "text_encoder"),
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=first.vae,
    )
    second.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(42)
    expected = second(stage1.latent, PROMPT, fps=16, block_size=2, generator=generator, output_type="latent")
    assert (clip.latents - expected).abs().max() < 1e-4
    frames = second(stage1.latent, PROMPT, fps=16, block_size=2, generator=torch.Generator().manual_seed(42))
    assert clip.video.shape == frames.shape and np.abs(clip.video - frames * 255).max() <= 2
    assert len(clip.stage1) == 17 and len(clip.c2w) == len(clip.video) == 16


def test_saving_memory_changes_nothing(tiny, here):
    saving = ("--offload_vae", "--offload_refiner", "--offload_text_encoder", "--offload_blocks")
    for model, file in (("SANA-WM_bidirectional", "generated"), ("SANA-WM_streaming", "streaming")):
        speed = SHORT if file == "streaming" else QUICK
        fine(make(tiny, model, *speed, "--output_dir", "plain"))
        fine(make(tiny, model, *speed, "--output_dir", "saved", *saving))
        plain, saved = (Path(f"{folder}/output_{file}.mp4").read_bytes() for folder in ("plain", "saved"))
        assert plain == saved


@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_fewer_bits(tiny, here, precision):
    pytest.importorskip("torchao")
    bits = ("--stage1_precision", precision, "--refiner_precision", precision)
    fine(make(tiny, "SANA-WM_bidirectional", *QUICK, "--output_dir", "full", "--no_action_overlay"))
    fine(make(tiny, "SANA-WM_bidirectional", *QUICK, "--output_dir", "less", "--no_action_overlay", *bits))
    full, less = (read_video(f"{folder}/output_generated.mp4").astype(float) for folder in ("full", "less"))
    assert 0 < np.abs(full - less).mean() < 40


@pytest.mark.parametrize("precision, most", [("fp8", 20), ("fp4", 40)])
def test_a_smaller_copy_makes_nearly_the_same_video(tiny, here, precision, most):
    """Both stages are read back from it; the second stage reads what the first stage's package wrote."""
    from refiner import load_transformer
    from sana_wm_core.stored import restored

    source = tiny / "SANA-WM_streaming"
    shutil.copytree(tiny / "gemma-2-2b-it", "models/gemma-2-2b-it")
    result = fine(run("quantize", source, "models/small", "--precision", precision, "--allow-camera-error"))
    assert "answers the camera" in result.output
    fine(make(tiny, "SANA-WM_streaming", *SHORT, "--output_dir", "full", action="w-24"))
    fine(make(here / "models", "small", *SHORT, "--output_dir", "less", "--image", tiny / "photo.png", action="w-24"))
    full, less = (read_video(f"{folder}/output_streaming.mp4").astype(float) for folder in ("full", "less"))
    assert 0 < np.abs(full - less).mean() < most
    held = load_file(next(Path("models/small/refiner_diffusers/transformer").glob("*.safetensors")))
    network = load_transformer("models/small/refiner_diffusers/transformer", dtype=torch.float32).state_dict()
    packed = [name for name in network if f"{name}_scale" in held]
    assert packed
    for name in packed:
        assert torch.equal(network[name], restored(name, held, held.__getitem__, tuple(network[name].shape)))


def test_a_stream_is_written_while_it_is_made(tiny, here, monkeypatch):
    from sana_wm_core.video import GrowingVideo

    playable = []
    append = GrowingVideo.append

    def watch(self, frames):
        append(self, frames)
        playable.append(len(read_video(self.path)))

    monkeypatch.setattr(GrowingVideo, "append", watch)
    fine(make(tiny, "SANA-WM_streaming", *SHORT, action="w-72"))
    assert len(playable) == 3 and playable[0] >= 8 and playable[1] >= 32 and playable[0] < playable[1] < playable[2]
    assert read_video("out/output_streaming.mp4").shape == (72, 64, 96, 3)
    with Image.open("out/output_contact_sheet.png") as sheet:  # all twelve cells, the last frame in the last
        assert np.asarray(sheet)[-120:-60, -200:-100].std() > 5
    record = json.loads(Path("out/output_streaming.json").read_text())
    assert record["used"]["denoising_step_list"] == [1000, 500, 0] and record["refiner"]["block"] == 3


def test_later_keys_change_no_earlier_frame(tiny, here):
    for folder, action in (("a", "w-48"), ("b", "w-24,jl-24")):
        fine(make(tiny, "SANA-WM_streaming", *SHORT, "--output_dir", folder, action=action))
    a, b = (read_video(f"{folder}/output_streaming.mp4") for folder in "ab")
    assert np.array_equal(a[:24], b[:24]) and not np.array_equal(a[24:], b[24:])


@pytest.mark.parametrize("refiner", [True, False], ids=["refined", "stage1"])
def test_a_saved_world_goes_on_as_if_it_had_never_stopped(tiny, here, refiner):
    model = tiny / "SANA-WM_streaming"
    more = () if refiner else ("--no_refiner",)
    exact = ("--streaming_crf", 0, *SHORT, *more)
    fine(make(tiny, "SANA-WM_streaming", *exact, "--output_dir", "whole", action="w-24,jw-24"))
    fine(make(tiny, "SANA-WM_streaming", *exact, "--save_state", "world.safetensors", action="w-24"))
    go_on = ("world.safetensors", "--model", model, "--device", "cpu", "--streaming_crf", 0, "--action", "jw-24")
    for name in ("one", "two"):
        fine(run("extend", *go_on, "--name", name, "--save_state", f"{name}.safetensors"))
    fine(run("extend", *go_on, "--name", "other", "--seed", 7))
    whole = read_video("whole/output_streaming.mp4")
    one, two, other = (read_video(f"out/{name}_streaming.mp4") for name in ("one", "two", "other"))
    assert np.array_equal(np.concatenate([read_video("out/output_streaming.mp4"), one]), whole)
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    first, second = load_file("one.safetensors"), load_file("two.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    refused(run("extend", "world.safetensors", "--action", "w-24"), "another model")
    np.save("path.npy", np.tile(np.eye(4, dtype=np.float32), (25, 1, 1)))
    base = ("world.safetensors", "--model", model, "--device", "cpu", "--name", "path")
    fine(run("extend", *base, "--camera", "path.npy", "--prompt", "the sea"))
    assert read_video("out/path_streaming.mp4").shape == (24, 64, 96, 3)


def test_states_that_cannot_be_used(tiny, here):
    model = ("--model", tiny / "SANA-WM_streaming", "--device", "cpu")
    fine(make(tiny, "SANA-WM_streaming", *SHORT, "--no_refiner", "--save_state", "world.safetensors", action="w-24"))
    held = Path("world.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(held[: len(held) // 2])
    Path("text.safetensors").write_text("hello")
    for name, word in (("cut", "damaged"), ("text", "damaged"), ("absent", "no such file")):
        refused(run("extend", f"{name}.safetensors", *model, "--action", "w-24"), name, word)
    refused(run("extend", "world.safetensors", *model), "--action", "--camera")
    refused(run("extend", "world.safetensors", *model, "--action", "q-8"), "unknown", "q")
    refused(run("extend", "world.safetensors", *model, "--action", "w-8", "--save_state", "x.pt"), ".safetensors")
    np.save("few.npy", np.tile(np.eye(4, dtype=np.float32), (9, 1, 1)))
    refused(run("extend", "world.safetensors", *model, "--camera", "few.npy"), "25")


def test_ctrl_c_keeps_what_was_made(tiny, here, monkeypatch):
    from sana_wm_core.streaming import Session

    make_piece, count = Session._sample, []

    def stop(self, *arguments):
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return make_piece(self, *arguments)

    monkeypatch.setattr(Session, "_sample", stop)
    result = make(tiny, "SANA-WM_streaming", *SHORT, "--no_refiner", "--save_state", "world.safetensors", action="w-72")
    assert result.exit_code == 130 and "25 frames and plays" in result.stderr
    assert len(read_video("out/output_streaming.mp4")) == 25 and Path("world.safetensors").is_file()
    monkeypatch.undo()
    os.chdir(here)
    fine(run("extend", "world.safetensors", "--model", tiny / "SANA-WM_streaming", "--action", "w-24"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits need a POSIX system")
def test_a_disk_that_fills_up_keeps_what_was_written(tiny, here):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        result = make(tiny, "SANA-WM_streaming", *SHORT, "--no_refiner", action="w-96")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(result, "disk is full", "plays")
    assert len(read_video("out/output_streaming.mp4")) >= 8


def test_what_is_asked_and_what_is_made(tiny, here):
    result = fine(make(tiny, "SANA-WM_bidirectional", *QUICK, "--no_refiner", "--num_frames", 12))
    assert "--num_frames 12 became 9" in result.stderr and len(read_video("out/output_generated.mp4")) == 9
    without = [flag for flag in QUICK if flag not in ("--fov", 70)]
    refused(make(tiny, "SANA-WM_bidirectional", *without), "--fov", "--intrinsics", "Pi3X")
    lens = np.tile([150.0, 150.0, 100.0, 60.0], (30, 1))
    np.save("lens.npy", lens * np.linspace(1, 1.2, 30)[:, None])
    zoom = [flag for flag in SHORT if flag not in ("--fov", 70)] + ["--no_refiner", "--intrinsics", "lens.npy"]
    refused(make(tiny, "SANA-WM_streaming", *zoom), "one lens")
    refused(make(tiny, "SANA-WM_streaming", *SHORT, "--sink_size", 2), "--sink_size")
    refused(make(tiny, "SANA-WM_bidirectional", *QUICK, "--save_state", "w.safetensors"), "looks ahead")


def test_a_full_gpu_gets_the_smallest_change_that_fits(tiny, here, monkeypatch):
    from sana_wm_core.pipeline import WorldPipeline
    from sana_wm_core.streaming import Session

    message = "CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has 79 GiB of which 1.50 GiB is free."
    make_piece, count = Session._sample, []

    def full(*arguments, **more):
        raise torch.OutOfMemoryError(message)

    def full_later(self, *arguments):
        count.append(1)
        return make_piece(self, *arguments) if len(count) == 1 else full()

    monkeypatch.setattr(WorldPipeline, "__call__", full)
    monkeypatch.setattr(Session, "_sample", full_later)
    clip = ("SANA-WM_bidirectional", *QUICK, "--no_refiner")
    refused(make(tiny, *clip), "1.6 GB", "fewer --num_frames", "--offload_blocks")
    message = "CUDA out of memory."
    refused(make(tiny, *clip), "smallest change that fits: --offload_text_encoder")
    refused(make(tiny, *clip, "--offload_text_encoder"), "smallest change that fits: --")
    result = make(tiny, "SANA-WM_streaming", *SHORT, "--no_refiner", "--save_state", "w.safetensors", action="w-72")
    refused(result, "smallest change that fits")
    assert "holds 25 frames and plays" in result.stderr and len(read_video("out/output_streaming.mp4")) == 25
    monkeypatch.undo()
    os.chdir(here)
    fine(run("extend", "w.safetensors", "--model", tiny / "SANA-WM_streaming", "--action", "w-24"))


def test_which_change_fits():
    from sana_wm_cli.rescue import Change, missing_bytes, smallest_change

    changes = [Change("--a", 10**9), Change("--b", 3 * 10**9), Change("--c", 4 * 10**9)]
    for missing, words in (
        (0, "fits: --a "),
        (5 * 10**8, "fits: --a "),
        (2 * 10**9, "fits: --b "),
        (6 * 10**9, "fits: --c --b (frees 7.0"),
        (9 * 10**9, "--c --b --a (frees 8.0 GB) and fewer --num_frames"),
    ):
        assert words in smallest_change(changes, missing), missing
    assert "use fewer" in smallest_change([], 1)
    text = "Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 31.4 GiB of which 12.00 MiB is free."
    assert missing_bytes(text) == 500 * 2**20 and missing_bytes("out of memory") == 0


@pytest.mark.parametrize(
    "model, change, words",
    [
        ("SANA-WM_bidirectional", lambda m: shutil.rmtree(m / "refiner"), ["refiner", "--no_refiner"]),
        ("SANA-WM_bidirectional", lambda m: (m / "refiner/connectors/config.json").unlink(), ["connectors"]),
        ("SANA-WM_bidirectional", lambda m: shutil.copy(*_twice(m / "dit")), ["found 2"]),
        ("SANA-WM_streaming", lambda m: (m / "sana_dit/model.pt").unlink(), ["model.pt"]),
        ("SANA-WM_streaming", lambda m: (m / "sana_dit/model.pt").write_bytes(b"half"), ["model.pt", "damaged"]),
        ("SANA-WM_streaming", lambda m: torch.save({"generator": {}}, m / "sana_dit/model.pt"), ["no model"]),
        ("SANA-WM_streaming", lambda m: torch.save({"x": Path("a")}, m / "sana_dit/model.pt"), ["more than weights"]),
        ("SANA-WM_streaming", lambda m: shutil.rmtree(m / "ltx2_causal_vae"), ["ltx2_causal_vae"]),
        ("SANA-WM_streaming", lambda m: _look_ahead(m / "ltx2_causal_vae"), ["looks ahead"]),
        ("SANA-WM_streaming", lambda m: shutil.rmtree(m / "gemma3_12b"), ["gemma3_12b"]),
        ("SANA-WM_streaming", lambda m: _steps(m), ["1000,800,0", "know no others"]),
        ("SANA-WM_streaming", lambda m: _other_codec(m / "ltx2_causal_vae"), ["latent channels", "different models"]),
        ("SANA-WM_bidirectional", lambda m: _no_text(m), ["gemma-2-2b-it", "no route"]),
    ],
)
def test_broken_layouts_get_one_line(tiny, here, monkeypatch, model, change, words):
    def unreachable(*arguments, **more):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    shutil.copytree(tiny / model, here / "models" / model)
    shutil.copytree(tiny / "gemma-2-2b-it", here / "models" / "gemma-2-2b-it")
    change(here / "models" / model)
    base = ("--image", tiny / "photo.png", "--prompt", PROMPT, "--action", "w-24", *QUICK)
    refused(run("generate", "--model", here / "models" / model, *base), *words)
    assert not list(here.glob("out/*.mp4"))


def _twice(folder):
    file = next(folder.glob("*.safetensors"))
    return file, folder / "second.safetensors"


def _look_ahead(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder_causal": False}))


def _steps(model):
    (model / "config.yaml").write_text("scheduler: {denoising_step_list: [1000, 800, 0]}\n")


def _other_codec(folder):
    from diffusers import AutoencoderKLLTX2Video

    sizes = {"block_out_channels": (8, 16, 32, 64), "decoder_block_out_channels": (8, 16, 32), "latent_channels": 4}
    layers = {"layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1)}
    strides = {"spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
    shutil.rmtree(folder)
    AutoencoderKLLTX2Video(**sizes, **layers, **strides, decoder_causal=True).save_pretrained(folder)


def _no_text(model):
    shutil.rmtree(model.parent / "gemma-2-2b-it")
