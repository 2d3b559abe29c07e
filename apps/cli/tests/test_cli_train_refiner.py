"""The refiner's adapter from annotated videos to merged weights, through the real commands on a tiny random LTX-2."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refiner import load_transformer, merge_lora
from refiner.training import Pairs
from safetensors.torch import load_file, save_file
from sana_wm_cli.main import app
from typer.testing import CliRunner

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "tiny_models.py"
FRAMES, HEIGHT, WIDTH = 17, 64, 96
SMALL = ("--set", "lora.rank=4", "--set", "lora.alpha=4", "--set", "train.log_every=1", "--set", "train.warmup=1")


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def fine(result):
    assert result.exit_code == 0, (result.output, result.stderr, result.exception)
    return result


def refused(result, *words, code=2):
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line, (word, line)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny released model, two annotated clips of noise, and the pairs of them."""
    folder = tmp_path_factory.mktemp("tiny")
    runpy.run_path(str(SCRIPT))["write_all"](folder)
    clips = folder / "clips"
    clips.mkdir()
    dice, rows = np.random.default_rng(0), []
    c2w = np.tile(np.eye(4), (FRAMES + 2, 1, 1))
    c2w[:, 2, 3] = np.linspace(0, 0.5, FRAMES + 2)
    np.save(clips / "pose.npy", c2w)
    np.save(clips / "k.npy", np.tile([80.0, 80.0, WIDTH / 2, HEIGHT / 2], (FRAMES + 2, 1)))
    for name in ("a", "b"):
        np.savez(clips / f"{name}.npz", rgb=dice.integers(0, 255, (FRAMES + 2, HEIGHT, WIDTH, 3), dtype=np.uint8))
        rows.append(
            {"id": name, "split": "train", "video_path": f"{name}.npz", "pose_path": "pose.npy", "height": HEIGHT,
             "width": WIDTH, "intrinsics_path": "k.npy", "captions": {"static": f"street {name}"}}
        )  # fmt: skip
    (clips / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fine(pair(folder, "pairs", "stage1"))
    return folder


def pair(tiny, out, low, *more):
    size = ("--height", HEIGHT, "--width", WIDTH, "--step", 2)
    model = () if "--model" in more else ("--model", tiny / "SANA-WM_bidirectional")
    return run("data", "pairs", tiny / "clips", "--out", tiny / out, *model, "--low", low, *size, *more)


def base(tiny):
    return tiny / "SANA-WM_bidirectional" / "refiner" / "transformer"


def train(tiny, out, *more):
    return run("train", "refiner", "--base", base(tiny), "--data", tiny / "pairs", "--out", out, *SMALL, *more)


def test_pairs_come_from_a_first_stage_or_from_degraded_video(tiny):
    sampled = Pairs(tiny / "pairs")
    fine(pair(tiny, "halves", "down2"))
    halved = Pairs(tiny / "halves")
    for set_, kind in ((sampled, "stage1"), (halved, "down2")):
        assert [(row["id"], row["kind"]) for row in set_.rows] == [("a", kind), ("b", kind)]
    one, other = sampled.load(0), halved.load(0)
    # 19 frames are cut to 17: three latent frames.
    assert one.low.shape == other.low.shape == (1, 8, 3, 2, 3) and sampled.shape(0) == (8, 3, 2, 3)
    assert torch.equal(one.high, other.high) and not torch.equal(one.low, other.low)
    assert not torch.equal(one.low, one.high) and not torch.equal(other.low, other.high)
    # The first stage keeps the picture it is given; degrading does not.
    first = (one.low - one.high)[:, :, 0].abs().max()
    assert first < 0.02 < (other.low - other.high)[:, :, 0].abs().max()
    before = (tiny / "pairs/a.safetensors").stat().st_mtime_ns
    fine(pair(tiny, "pairs", "stage1"))
    assert (tiny / "pairs/a.safetensors").stat().st_mtime_ns == before
    refused(pair(tiny, "x", "half"), "--low 'half' must be stage1, or down")
    refused(pair(tiny, "x", "down1"), "a factor above 1, such as down2")
    refused(pair(tiny, "x", "down2", "--frames", 8), "a: 8 frames are too few")
    refused(pair(tiny, "y", "stage1", "--model", tiny / "SANA-WM_streaming"), "works chunk by chunk; take the bidirec")


def test_train_resume_merge_and_generate(tiny, tmp_path):
    out = tmp_path / "run"
    said = fine(train(tiny, out, "--set", "train.steps=2", "--plan")).output
    assert "adapters of rank 4 (alpha 4) on 20 layers" in said and "12 tokens" in said and "GiB on cpu" in said
    assert not out.exists()
    assert "rank 384" in fine(run("train", "refiner", "--base", base(tiny), "--data", tiny / "pairs", "--plan")).output
    assert "     2/2  loss" in fine(train(tiny, out, "--set", "train.steps=2")).output
    refused(train(tiny, out), "already holds a run; --resume")
    refused(
        run("train", "refiner", "--resume", out, "--set", "lora.rank=8", "--set", "train.batch=2"),
        "other settings: lora.rank: 4 -> 8; train.batch: 1 -> 2",
    )
    fine(run("train", "refiner", "--resume", out, "--set", "train.steps=4", "--set", "train.save_every=1"))
    whole = tmp_path / "whole"
    fine(train(tiny, whole, "--set", "train.steps=4"))
    ours, theirs = (load_file(folder / "adapter.safetensors") for folder in (out, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]

    merged = tmp_path / "merged"
    assert "20 layers changed" in fine(run("train", "merge", out, "--base", base(tiny), "--out", merged)).output
    plain = load_transformer(base(tiny), dtype=torch.bfloat16)
    before = {k: t.clone() for k, t in plain.state_dict().items()}
    merge_lora(plain, out / "adapter.safetensors", 1.0)
    read = load_transformer(merged, dtype=torch.bfloat16).state_dict()
    assert read.keys() == before.keys() and all(torch.equal(read[k], t) for k, t in plain.state_dict().items())
    assert sum(not torch.equal(read[k], before[k]) for k in read) > 0
    action = ("--action", "w-17", "--height", HEIGHT, "--width", WIDTH, "--fov", 70, "--step", 2)
    lora = ("--refiner_lora", out / "adapter.safetensors", "--output_dir", tmp_path / "video", "--no_action_overlay")
    picture = tmp_path / "photo.png"
    Image.fromarray(np.load(tiny / "clips/a.npz")["rgb"][0]).save(picture)
    fine(
        run("generate", "--model", tiny / "SANA-WM_bidirectional", "--image", picture, "--prompt", "x", *action, *lora)
    )
    assert json.loads((tmp_path / "video/output_generated.json").read_text())["refiner"]["lora"] == str(lora[1])


def test_numbers_that_are_not_finite_are_exit_code_3_and_leave_the_files(tiny, tmp_path):
    out, broken = tmp_path / "run", tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((base(tiny) / "config.json").read_bytes())
    (weights,) = base(tiny).glob("*.safetensors")
    state = load_file(weights)
    state["proj_out.weight"][0, 0] = float("nan")
    save_file(state, broken / "x.safetensors")
    fine(train(tiny, out, "--set", "train.steps=1"))
    held = {p.name: p.read_bytes() for p in out.iterdir()}
    job = json.loads((out / "refiner_run.json").read_text())
    (out / "refiner_run.json").write_text(json.dumps(job | {"base": str(broken)}))
    result = run("train", "refiner", "--resume", out, "--set", "train.steps=2")
    refused(result, "step 1: the loss is nan on pair", "first tensor that is not finite: proj_out.weight", code=3)
    assert re.search(r"on pair [ab];", result.stderr)
    assert all((out / name).read_bytes() == data for name, data in held.items() if name != "refiner_run.json")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "--base is missing"),
        (("--base", "@b"), "--data is missing"),
        (("--base", "@nowhere", "--data", "@pairs"), "config.json: no such file"),
        (("--base", "@b", "--data", "@clips"), "no pairs.jsonl in it"),
        (("--base", "@b", "--data", "@pairs"), "--out is missing"),
        (("--base", "@b", "--data", "@pairs", "--set", "lora.rnk=3"), "unknown field lora.rnk; there are rank, alpha"),
        (("--base", "@b", "--data", "@pairs", "--set", "lara.rank=3"), "no section lara; there are lora, path, law"),
        (("--base", "@b", "--data", "@pairs", "--set", "lora.rank=many"), "lora.rank='many' must be a whole number"),
        (("--base", "@b", "--data", "@pairs", "--set", "path.start=2"), "must start in (0, 1]"),
        (("--base", "@b", "--data", "@pairs", "--set", "law.std=0"), "law.std=0 must be above 0"),
        (("--base", "@b", "--data", "@pairs", "--out", "@o", "--set", "train.reference=3"), "all of them reference"),
        (("@none.toml", "--base", "@b", "--data", "@pairs"), "no such settings file"),
        (("--resume", "@nothing"), "nothing to resume"),
        (("--resume", "@nothing", "--base", "@b"), "goes on with its own settings and base"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tiny, tmp_path, words, line):
    places = {"@b": base(tiny), "@o": tmp_path / "o"}
    given = [places.get(w, tiny / w[1:] if w.startswith("@") else w) for w in words]
    refused(run("train", "refiner", *given), line)


def test_merging_what_is_not_there_is_refused(tiny, tmp_path):
    refused(run("train", "merge", tmp_path, "--base", base(tiny), "--out", tmp_path / "m"), "no such file; give a run")
