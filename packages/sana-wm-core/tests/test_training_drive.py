"""The training command: plan, run, resume, export, and one line with an exit code for everything that goes wrong."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sana_wm_core.training import __main__ as front
from sana_wm_core.training.curve import draw_curves, read_curve, smooth
from sana_wm_core.training.objective import FrameErrors
from sana_wm_core.training.run import export_run, load_run
from sana_wm_core.training.stage_loop import StageTrainer
from sana_wm_core.training.starting import begin
from sana_wm_core.weights import load_transformer

sys.path.insert(0, str(Path(__file__).parent))

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
steps = 2
global_batch = 2
log_every = 1

[precision]
compute = "fp32"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drive")
    (folder / "mine.toml").write_text(STAGE)
    poses = np.tile(np.eye(4), (17, 1, 1))
    np.save(folder / "pose.npy", poses)
    np.save(folder / "k.npy", np.tile([64.0, 64.0, 32.0, 32.0], (17, 1)))
    save_file({"text": torch.zeros(2, 8)}, folder / "text_null.safetensors")
    rows = []
    for name in "abc":
        save_file({"z": torch.randn(3, 3, 2, 2)}, folder / f"{name}.safetensors")
        save_file({"text": torch.randn(4, 8)}, folder / f"{name}_text.safetensors")
        rows.append(
            {"id": name, "latent_path": f"{name}.safetensors", "latent_shape": [3, 3, 2, 2], "pose_path": "pose.npy",
             "intrinsics_path": "k.npy", "height": 64, "width": 64, "caption": name,
             "text_embed_path": f"{name}_text.safetensors"}
        )  # fmt: skip
    (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def _call(place: Path, *words: str) -> int:
    return front.main([word.replace("@", str(place) + "/") for word in words])


def test_plan_run_resume_export_and_curve(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(place, "@mine.toml", "--plan") == 0
    assert "mine: a test" in capsys.readouterr().out and not (place / "run").exists()
    assert _call(place, "@mine.toml", "--data", "@clips.jsonl", "--out", "@run") == 0
    out = capsys.readouterr().out
    assert "     2/2  loss" in out and "min left" in out
    assert _call(place, "@mine.toml", "--data", "@clips.jsonl", "--out", "@run") == 2
    assert "already holds a run of mine" in capsys.readouterr().err
    assert _call(place, "--resume", "@run", "--set", "train.steps=3") == 0
    assert "     3/3  loss" in capsys.readouterr().out
    steps = [json.loads(line)["step"] for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    short = ("--set", "train.log_every=50", "--set", "train.steps=4")
    assert _call(place, "--resume", "@run", *short) == 0, "the last step is always written down"
    assert json.loads((place / "run/metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    assert _call(place, "--resume", "@run", "--set", "optim.learning_rate=0.5") == 2
    assert "other settings: optim.learning_rate: 1e-05 -> 0.5" in capsys.readouterr().err
    export_run(place / "run", place / "weights")
    _, model = load_run(place / "run")
    read = load_transformer(place / "weights", subfolder="transformer")
    assert all(torch.equal(v, read.state_dict()[k]) for k, v in model.state_dict().items())
    assert len(read_curve(place / "run")) == 4
    draw_curves([place / "run", place / "run"], place / "loss.png")
    assert (place / "loss.png").stat().st_size > 2000
    assert smooth([(1, 2.0), (2, 2.0)]) == [(1, pytest.approx(2.0)), (2, pytest.approx(2.0))]


def test_adapters_are_merged_when_the_run_is_done(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data", "@clips.jsonl", "--out", "@lora", "--set", "lora.rank=2", "--set", "lora.alpha=4")
    assert _call(place, "@mine.toml", *words, "--set", "optim.learning_rate=0.05") == 0
    assert "generate --model BASE --model_path" in capsys.readouterr().out
    ready = load_transformer(place / "lora/weights", subfolder="transformer")
    stage, merged = load_run(place / "lora")
    assert all(torch.equal(v, ready.state_dict()[k]) for k, v in merged.state_dict().items())
    plain, _ = begin(stage.model, stage.start, stage.train.seed)
    assert not torch.equal(ready.blocks[0].attn.qkv.weight, plain.blocks[0].attn.qkv.weight)
    assert (place / "lora/weights/adapter/adapter_model.safetensors").is_file()


def test_metrics_go_to_tensorboard_where_it_is_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("@mine.toml", "--data", "@clips.jsonl", "--set", "train.tensorboard=true")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert _call(place, *words, "--out", "@board-none") == 2
    assert "needs the tensorboard package" in capsys.readouterr().err
    written: list[tuple[str, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(place / "board/tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def flush(self) -> None:
            pass

    board = types.ModuleType("torch.utils.tensorboard")
    board.__dict__["SummaryWriter"] = SummaryWriter  # the package is optional and not installed for tests
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    assert _call(place, *words, "--out", "@board") == 0
    assert {("loss", 1), ("loss", 2), ("grad_norm", 2)} <= set(written)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nosuch"], "no preset 'nosuch'"),
        ([], "give a stage preset"),
        (["@mine.toml", "--data", "@clips.jsonl"], "--out is missing"),
        (["@mine.toml", "--out", "@x"], "--data is missing"),
        (["@mine.toml", "--out", "@x", "--data", "@nowhere"], "no clips to train on"),
        (["@mine.toml", "--out", "@x", "--data", "@clips.jsonl", "--set", "mesh.cp=2"], "cp=2 needs 2 processes"),
        (["@mine.toml", "--out", "@x", "--data", "@clips.jsonl", "--init", "@gone"], "no weights there"),
        (
            ["@mine.toml", "--out", "@x", "--data", "@clips.jsonl", "--set", "data.rows=3"],
            "the stage wants (3, 3, 3, 2)",
        ),
        (["--resume", "@nothing"], "nothing to resume"),
        (["@mine.toml", "--resume", "@run"], "nothing to resume|goes on with its own stage"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert _call(place, *words) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and any(part in message for part in line.split("|"))


def test_numbers_that_are_not_finite_are_exit_code_3(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = StageTrainer.errors

    def broken(self: StageTrainer, batch: object) -> object:
        errors, counted = plain(self, batch)  # type: ignore[arg-type]
        return FrameErrors(errors.error_bt * float("nan"), errors.weight_bt), counted

    monkeypatch.setattr(StageTrainer, "errors", broken)
    assert _call(place, "@mine.toml", "--data", "@clips.jsonl", "--out", "@broken") == 3
    assert "stopped: step 0: the loss is nan of clip" in capsys.readouterr().err
