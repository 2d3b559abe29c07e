"""Passes that need weights, against fakes of the public interfaces they call: DOVER, ptlflow, transformers, servers."""

import json
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pose_annotation.backends import Missing
from pose_annotation.backends.dover import Dover, _clips, _pieces, _spread
from pose_annotation.backends.unimatch import UniMatch
from pose_annotation.backends.vlm_scores import VlmScores
from pose_annotation.pipeline import Tools, annotate_video
from pose_annotation.policy import load_policy
from pose_annotation.settings import Request

sys.path.insert(0, str(Path(__file__).parent))
import tiny_videos as tiny


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "weights.onnx"
    file.write_bytes(b"x")
    return file


class Session:
    """onnxruntime's session over DOVER's export: two named inputs, the aesthetic score first."""

    inputs = (("aes_view", [1, 3, 32, 224, 224]), ("tech_view", [4, 3, 32, 224, 224]))
    seen: ClassVar[list] = []

    def __init__(self, path, providers):
        assert providers == ["CPUExecutionProvider"] and Path(path).is_file()

    def get_inputs(self):
        return [types.SimpleNamespace(name=name, shape=shape) for name, shape in self.inputs]

    def run(self, names, given):
        assert names is None
        Session.seen.append({name: value.shape for name, value in given.items()})
        assert all(value.dtype == np.float32 for value in given.values())
        return [np.array([-0.08285]), np.full(4, 0.1107) + 0.07355 * float(given["tech_view"].mean() > 0)]


def test_dover_gets_its_two_views_and_is_fused_as_released(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    dover, Session.seen = Dover(weights), []
    frames = np.full((100, 240, 320, 3), 200, np.uint8)
    found = dover.score(frames, 16.0, 640)
    assert Session.seen == [{"aes_view": (1, 3, 32, 224, 224), "tech_view": (4, 3, 32, 224, 224)}]
    assert found["dover_aesthetic"] == pytest.approx(0.5) and found["dover_technical"] == pytest.approx(
        0.7311, abs=1e-4
    )
    # One technical deviation above the middle: 1 / (1 + exp(-0.6104)).
    assert found["dover"] == pytest.approx(0.64803, abs=1e-4)
    assert dover.score(frames // 20, 16.0, 640)["dover"] == pytest.approx(0.5)
    Session.seen = []
    dover.score(frames[:20, :100, :120], 16.0, 120)  # short and small
    dover.score(np.concatenate([frames, frames[:60]]), 16.0, 320)  # ten seconds: two pieces
    assert len(Session.seen) == 3
    monkeypatch.setattr(Session, "inputs", (("image", [1]),))
    with pytest.raises(ValueError, match=r"takes \['image'\]; allowed: DOVER's export"):
        Dover(weights)


def test_dovers_views_cover_the_clip_and_the_picture():
    assert _spread(64).tolist() == list(range(1, 64, 2)) and _spread(3).max() == 2
    runs = _clips(160, 3)
    assert [int(run[0]) for run in runs] == [16, 48, 80] and all(np.diff(run).tolist() == [2] * 31 for run in runs)
    assert _clips(10, 2)[0].tolist()[-1] == 9
    ramp = np.broadcast_to(np.arange(448)[None, None, :, None], (1, 448, 448, 1)).repeat(3, -1)
    pieces = _pieces(ramp.astype(np.int32))
    assert pieces.shape == (1, 224, 224, 3)
    row = pieces[0, 0, :, 0]
    # Seven runs of 32 neighbouring pixels, each in the middle of its 64 pixel cell.
    assert row[:32].tolist() == list(range(16, 48)) and row[32] == 80 and row[-1] == 431


class Flow:
    """A model of ptlflow that answers with one flow for every pixel."""

    output_stride = 8

    def eval(self):
        return self

    def __call__(self, inputs):
        import torch

        height, width = inputs["images"].shape[-2:]
        first = inputs["images"][0, 0, :, 0, 0]
        assert first.tolist() == [1, 2, 3]  # blue, green, red
        return {"flows": torch.tensor([3.0, 4.0]).reshape(1, 1, 2, 1, 1).expand(1, 1, 2, height, width)}


class Adapter:
    def __init__(self, model, input_size):
        assert model.output_stride == 8 and tuple(input_size) == (48, 80)

    def prepare_inputs(self, images):
        import torch

        assert len(images) == 2
        return {"images": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[None].float()}


def test_unimatch_is_asked_every_half_second_and_counts_in_source_pixels(weights, monkeypatch):
    pytest.importorskip("torch", reason="torch is an extra")
    asked = []

    def get_model(name, ckpt_path):
        asked.append((name, ckpt_path))
        return Flow()

    package = types.ModuleType("ptlflow")
    package.get_model = get_model
    adapter = types.ModuleType("ptlflow.utils.io_adapter")
    adapter.IOAdapter = Adapter
    for name, module in (("ptlflow", package), ("ptlflow.utils", types.ModuleType("u")), (adapter.__name__, adapter)):
        monkeypatch.setitem(sys.modules, name, module)
    flow = UniMatch(weights)
    frames = np.broadcast_to(np.array([3, 2, 1], np.uint8), (33, 48, 80, 3))
    assert flow.score(frames, 16.0, 320) == {"flow": 20.0} and asked == [("unimatch", str(weights))]
    assert flow.score(frames[:8], 16.0, 320) == {"flow": None}


class Says:
    name, version, weights_id, licence = "server:m", "1", "m", "x"

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def caption(self, frames, prompt):
        self.prompts.append(prompt)
        return self.answers.pop(0)


def test_a_model_that_sees_counts_and_judges_or_gives_no_score():
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    good = 'Sure:\n```json\n{"people": 2, "vehicles": 1, "animals": 0, "good": true}\n```'
    model = Says(good)
    assert VlmScores(model).score(frames, 16.0, 48) == {"entities": 3.0, "vlm_quality": 1.0}
    assert "JSON" in model.prompts[0] and VlmScores(model).name == "vlm:server:m"
    for answer in (
        "many people",
        "{people: 2}",
        '{"people": 2, "vehicles": 1, "good": true}',
        '{"people": -1, "vehicles": 1, "animals": 0, "good": true}',
        '{"people": 1, "vehicles": 1, "animals": 0, "good": "yes"}',
    ):
        assert VlmScores(Says(answer)).score(frames, 16.0, 48) == {"entities": None, "vlm_quality": None}


class Fixed:
    name, version, weights_id, licence = "fixed", "1", "w7", "x"

    def __init__(self):
        self.calls = 0

    def score(self, frames, fps, source_width):
        self.calls += 1
        assert frames.shape[-1] == 3 and fps == 16.0 and source_width == 160
        return {"dover": 0.9, "flow": 12.0}


def test_scores_of_backends_are_stored_once_and_judged(tmp_path):
    video, scorer = tiny.write(tmp_path / "v.mp4", tiny.sliding(18)), Fixed()
    tools = Tools(scorers=(scorer,))
    row = annotate_video(Request(video), tmp_path / "out", tools=tools, cache=tmp_path / "stages")
    record = json.loads((tmp_path / "out" / "records" / f"{row['clips'][0]}.json").read_text())
    assert record["scores"]["dover"] == 0.9 and record["scores"]["flow"] == 12.0 and scorer.calls == 1
    assert record["tools"]["scores"] == [{"name": "fixed", "version": "1", "weights_id": "w7", "licence": "x"}]
    verdict = load_policy().judge(record["scores"], [], "miradata")
    assert "dover" not in verdict.unknown
    annotate_video(Request(video), tmp_path / "again", tools=tools, cache=tmp_path / "stages")
    assert scorer.calls == 1


def test_missing_packages_are_one_line(weights, monkeypatch):
    for module, make in (("onnxruntime", Dover), ("ptlflow", UniMatch)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(Missing, match=f"{module} is not installed; allowed: pip install"):
            make(weights)
    with pytest.raises(Missing, match="nothing is downloaded"):
        Dover(weights.with_name("gone.onnx"))


def test_a_local_model_of_transformers_answers_from_its_folder_only(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from pose_annotation.backends.local_vlm import LocalVlm

    (tmp_path / "model.safetensors").write_bytes(b"x")
    seen: dict = {}

    class Batch(dict):
        def to(self, device):
            return self

    class Processor:
        @classmethod
        def from_pretrained(cls, folder, **given):
            seen["processor"] = given
            return cls()

        def apply_chat_template(self, messages, **options):
            seen["messages"], seen["options"] = messages, options
            return Batch(input_ids=torch.tensor([[5, 6, 7]]))

        def batch_decode(self, tokens, skip_special_tokens):
            assert tokens.tolist() == [[8, 9]] and skip_special_tokens
            return [" A room. "]

    class Model:
        @classmethod
        def from_pretrained(cls, folder, **given):
            seen["model"] = given
            return cls()

        def to(self, device):
            return self

        def eval(self):
            return self

        def generate(self, input_ids, max_new_tokens, do_sample):
            assert max_new_tokens == 256 and do_sample is False
            return torch.cat([input_ids, torch.tensor([[8, 9]])], 1)

    fake = types.ModuleType("transformers")
    fake.AutoProcessor, fake.AutoModelForImageTextToText = Processor, Model
    monkeypatch.setitem(sys.modules, "transformers", fake)
    model = LocalVlm(tmp_path, width=48)
    assert model.caption(np.zeros((20, 64, 96, 3), np.uint8), "What is here?") == "A room."
    (message,) = seen["messages"]
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["image"] * 8 + ["text"] and message["content"][0]["image"].size == (48, 32)
    assert seen["options"]["add_generation_prompt"] and seen["options"]["return_dict"]
    for given in (seen["processor"], seen["model"]):
        assert given["local_files_only"] and given["trust_remote_code"] is False
    assert seen["model"]["use_safetensors"] and model.name.startswith("local:")
