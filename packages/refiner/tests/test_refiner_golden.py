"""The block-wise refiner against stored vectors of two independent implementations."""

import json
from dataclasses import replace

import pytest
import torch
from refiner import Refiner, load_transformer
from refiner.refine import SIGMAS
from refiner_cases import GOLDEN, write_golden
from safetensors.torch import load_file

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def stored():
    return load_file(GOLDEN / "refiner.safetensors")


@pytest.fixture
def golden(tmp_path, stored, monkeypatch):
    """The stored refiner, its noise read from the file instead of drawn."""
    place = {"frame": 0}

    def randn(shape, generator=None, dtype=None):
        first = place["frame"]
        place["frame"] += shape[2]
        return stored["epsilon"][:, :, first : first + shape[2]].to(dtype)

    model = load_transformer(write_golden(tmp_path / "transformer"), dtype=torch.float32)
    monkeypatch.setattr("refiner.refine.torch.randn", randn)
    return Refiner(model, stored["prompt_embeds"], stored["prompt_attention_mask"], block=3)


@pytest.mark.parametrize("window", [11, 6])
def test_blocks_equal_the_stored_ones(golden, stored, window):
    assert tuple(round(float(s), 6) for s in stored["sigmas"]) == SIGMAS
    out = replace(golden, window=window)(stored["latents"])
    assert (out - stored[f"refined_kv{window}"]).abs().max() < TOLERANCE
    assert torch.equal(out[:, :, :1], stored["latents"][:, :, :1])


def test_a_stream_of_chunks_equals_the_stored_blocks(golden, stored):
    refiner, state, parts = replace(golden, window=6), {}, []
    for first, after in [(0, 4), (4, 7), (7, 10), (10, 13), (13, 16), (16, 19), (19, 20)]:
        part, state = refiner.chunk(stored["latents"][:, :, first:after], state)
        parts.append(part)
    assert (torch.cat(parts, dim=2) - stored["refined_kv6"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("window", [11, 6])
def test_history_and_sink_positions_follow_the_stored_schedule(golden, stored, window, monkeypatch):
    schedule = json.loads((GOLDEN / "config.json").read_text())[f"schedule_kv{window}"]
    seen = []
    rotary = Refiner._rotary
    monkeypatch.setattr(Refiner, "_rotary", lambda self, at, like: seen.append(list(at)) or rotary(self, at, like))
    replace(golden, window=window)(stored["latents"])
    sinks = [entry["sink_rope_frame"] for entry in schedule]
    blocks = [list(range(*entry["frames"])) for entry in schedule]
    expected = [[0]]
    for number, (sink, block) in enumerate(zip(sinks, blocks, strict=True)):
        expected += [[sink]] + [block] * (3 + (number + 1 < len(blocks)))
    assert seen == expected
