"""Mistakes in training data, stages and layouts through the real command: one line, an exit code, files intact."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sana_wm_cli.main import app
from sana_wm_core.pocket import BUNDLED
from sana_wm_core.training.run import read_job
from sana_wm_core.training.starting import begin
from sana_wm_core.video import read_video, write_video
from typer.testing import CliRunner

STAGE = """
name = "mine"
purpose = "a test"
[model]
in_channels = 3
num_layers = 2
hidden_size = 32
num_attention_heads = 2
linear_head_dim = 16
caption_channels = 8
softmax_every_n = 2
[data]
raw_frames = 17
rows = 2
columns = 2
[objective]
shift = 2.0
[train]
steps = 1
global_batch = 2
log_every = 1
[precision]
compute = "fp32"
"""


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def fine(result):
    assert result.exit_code == 0, (result.output, result.stderr, result.exception)
    return result


def refused(result, *words, code=2):
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ")
    for word in words:
        assert word in line, (word, line)


def write_clip(folder, name, **broken):
    """A clip in files of its own; `broken` replaces a part of it."""
    latents = broken.get("latents", torch.randn(3, 3, 2, 2))
    save_file({"z": latents}, folder / f"{name}.safetensors")
    save_file({"text": torch.randn(4, 8)}, folder / f"{name}_text.safetensors")
    np.save(folder / f"{name}_pose.npy", np.tile(np.eye(4), (broken.get("poses", 17), 1, 1)))
    np.save(folder / f"{name}_k.npy", np.tile([64.0, 64.0, 32.0, 32.0], (broken.get("lenses", 17), 1)))
    return {
        "id": name,
        "latent_path": f"{name}.safetensors",
        "latent_shape": broken.get("said", [3, 3, 2, 2]),
        "pose_path": f"{name}_pose.npy",
        "intrinsics_path": f"{name}_k.npy",
        "height": 64,
        "width": 64,
        "caption": name,
        "text_embed_path": f"{name}_text.safetensors",
    }


@pytest.fixture
def place(tmp_path):
    """A stage and two clips in a manifest."""
    (tmp_path / "mine.toml").write_text(STAGE)
    save_file({"text": torch.zeros(2, 8)}, tmp_path / "text_null.safetensors")
    rows = [write_clip(tmp_path, name) for name in ("good", "other")]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def train(place, *more, out="run"):
    return run("train", place / "mine.toml", "--data", place / "clips.jsonl", "--out", place / out, *more)


NAN = torch.zeros(3, 3, 2, 2).index_fill(1, torch.tensor([1]), float("nan"))


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ({"gone": ".safetensors"}, "bad: no file"),
        ({"gone": "_pose.npy"}, "bad: no file"),
        ({"gone": "_text.safetensors"}, "bad: no file"),
        ({"latents": torch.zeros(3, 2, 2, 2)}, "bad: latents have shape [3, 2, 2, 2], the manifest says [3, 3, 2, 2]"),
        ({"latents": NAN}, "bad: 12 latent values are NaN or infinite"),
        ({"poses": 16}, "bad: poses have shape (16, 4, 4); 3 latent frames need (17, 4, 4)"),
        ({"lenses": 18}, "bad: intrinsics have shape (18, 4); 3 latent frames need (17, 4)"),
    ],
)
def test_a_clip_that_cannot_be_used_is_named_and_stops_the_run(place, broken, line):
    row = write_clip(place, "bad", **broken)
    if "gone" in broken:
        (place / f"bad{broken['gone']}").unlink()
    (place / "clips.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row}) + "\n")
    refused(train(place), line)
    assert not list((place / "run").glob("step-*"))
    found = run("data", "check", place / "clips.jsonl")
    assert found.exit_code == 2 and line in found.output


def test_a_clip_that_cannot_be_used_may_be_left_out_but_is_written_down(place):
    rows = [write_clip(place, "bad", latents=NAN), write_clip(place, "good")]
    (place / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fine(train(place, "--set", "data.bad=skip"))
    (left_out,) = map(json.loads, (place / "run/bad_clips.jsonl").read_text().splitlines())
    assert left_out == {"id": "bad", "why": "bad: 12 latent values are NaN or infinite"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"id": "x"', "line 1 is not JSON"),
        ('{"id": "x"}', "line 1 (x) lacks latent_path, latent_shape, pose_path"),
        ("", "no clips in it"),
    ],
)
def test_a_manifest_that_is_none_is_refused(place, text, line):
    (place / "clips.jsonl").write_text(text)
    refused(train(place), line)


def test_unknown_stages_and_fields_and_layouts_that_do_not_divide_are_refused(place, monkeypatch):
    refused(run("train", "stage9"), "no preset 'stage9'; there are [")
    refused(run("train", "stage3_minute_camera", "--plan", "--set", "optim.rate=1"), "unknown field optim.rate=1")
    refused(run("train", "stage3_minute_camera", "--plan", "--set", "optin.x=1"), "unknown field optin=")
    refused(run("train", "stage3_minute_camera", "--plan", "--set", "optim=1"), "must read section.field=value")
    refused(train(place, "--set", "mesh.cp=2"), "cp=2", "processes")
    monkeypatch.setenv("WORLD_SIZE", "3")
    refused(train(place, "--plan", "--set", "mesh.cp=2"), "cp=2", "3")
    assert not (place / "run").exists()


def test_a_resume_with_other_settings_names_them_and_changes_no_file(place):
    fine(train(place))
    held = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    more = ("--set", "optim.learning_rate=0.5", "--set", "model.hidden_size=64", "--set", "train.seed=4")
    refused(
        run("train", "--resume", place / "run", *more),
        "other settings: model.hidden_size: 32 -> 64; optim.learning_rate: 1e-05 -> 0.5; train.seed: 3407 -> 4",
    )
    assert {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()} == held
    refused(train(place), "already holds a run of mine")


@pytest.mark.parametrize(
    ("weight", "what"),
    [
        ("x_embedder.proj.weight", "step 0: the loss is nan of clip"),
        # Where the outputs of blocks are still silent only the gradient shows it.
        ("blocks.1.attn.qkv.weight", "step 0: the gradient of x_embedder.proj.weight is not finite, of clips"),
    ],
)
def test_numbers_that_are_not_finite_are_exit_code_3_and_leave_no_half_checkpoint(place, weight, what):
    fine(train(place, out="first"))
    job = read_job(place / "first")
    model, _ = begin(job.stage.model, job.stage.start, 0)
    state = model.state_dict()
    state[weight][0, 0] = float("inf")
    save_file(state, place / "inf.safetensors")
    named = f"first tensor that is not finite: {weight}"
    refused(train(place, "--init", place / "inf.safetensors"), what, "other", named, code=3)
    assert not list((place / "run").glob("*step-*")) and (place / "run/stage.json").is_file()


@pytest.fixture
def annotated(tmp_path):
    """Two clips as `sana-wm annotate` leaves them: one moves a lot, the other's lens is not known."""
    folder = tmp_path / "walks"
    for name in ("clips", "poses", "intrinsics", "records"):
        (folder / name).mkdir(parents=True)
    for name, scores, flags in (("lively", {"flow": 138.8}, []), ("blurred", {"flow": 9.0}, ["focal_unobservable"])):
        write_video(folder / f"clips/{name}.mp4", np.zeros((17, 96, 160, 3), np.uint8), 16)
        np.save(folder / f"poses/{name}.npy", np.tile(np.eye(4), (17, 1, 1)))
        np.save(folder / f"intrinsics/{name}.npy", np.tile([140.0, 140.0, 80.0, 48.0], (17, 1)))
        record = {
            "id": name, "status": "ok", "reason": "", "scores": scores, "flags": flags, "source": "video",
            "metric": False, "caption": {"accepted": True, "text": "", "source": "none"}, "split": "train",
            "fps": 16.0, "frames": 17, "height": 96, "width": 160, "licence": "unknown", "pixels_sha256": "",
        }  # fmt: skip
        (folder / f"records/{name}.json").write_text(json.dumps(record))
    return folder


def test_videos_of_ones_own_are_judged_by_their_cameras_only(annotated):
    out = annotated.parent / "walks96"
    words = ("data", "prepare", annotated, "--out", out, "--height", 96, "--width", 160)
    fine(run("annotate", "judge", annotated))
    # What the first of them lacks, and what can be done about it.
    refused(run(*words), "blurred: flag focal_unobservable", "--own", "annotate clip VIDEO --intrinsics")
    said = fine(run(*words, "--own")).output
    assert "1 of 2 clips have a camera" in said and "1 left out: flag focal_unobservable" in said
    assert [json.loads(line)["id"] for line in (out / "train.jsonl").read_text().splitlines()] == ["lively"]


def test_two_processes_share_every_clip_and_one_generates_from_their_checkpoint(tmp_path):
    """torchrun with FSDP2 over two ranks that share clips along time, at the pocket's width."""
    clips, frames = tmp_path / "clips", 3
    (clips / "latents").mkdir(parents=True)
    rows, tensors = [], {}
    preset = json.loads((BUNDLED["pocket"] / "preset.json").read_text())
    channels = len(preset["latent_spread"])
    for i in range(2):
        tensors[f"c{i}.latents"] = torch.randn(channels, frames, 6, 10).half()
        tensors[f"c{i}.c2w"] = torch.eye(4).repeat(17, 1, 1)
        tensors[f"c{i}.intrinsics"] = torch.tensor([80.0, 80.0, 80.0, 48.0]).repeat(17, 1)
        rows.append({"id": f"c{i}", "shard": "latents/0.safetensors", "split": "train", "caption": "a room"})
    save_file(tensors, clips / "latents/0.safetensors", metadata={"height": "96", "width": "160"})
    (clips / "latents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sana_wm_core.training"]
    words += ["tiny_camera", "--data", str(clips), "--out", str(tmp_path / "run"), "--init", "pocket"]
    changes = ["mesh.cp=2", "train.steps=2", "train.log_every=1", "data.raw_frames=17"]
    changes += ["train.global_batch=1", "train.micro_batch=1"]
    words += [part for change in changes for part in ("--set", change)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=quiet, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 = 1 copies x 1 shards x 2 along time" in done.stdout and "     2/2  loss" in done.stdout, done.stdout
    fine(run("train", "weights", tmp_path / "run", "--out", tmp_path / "weights"))
    model = ("--model", tmp_path / "weights", "--action", "w-16", "--step", 1, "--output_dir", tmp_path / "video")
    fine(run("generate", *model))
    assert read_video(tmp_path / "video/output_generated.mp4").shape == (17, 96, 160, 3)
