"""What sees what, and that the recurrences cannot amplify (invariants 10 to 14)."""

import sys
from pathlib import Path

import pytest
import torch
from sana_wm_core.model.memory import BlockMemory, Window, after_chunk
from sana_wm_core.training.watch import transition_norms, watching
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_toys import make_model, make_stage


def _velocity(latents: Tensor, chunks: list[int] | None) -> Tensor:
    model = make_model(make_stage())
    camera = torch.zeros(1, latents.shape[2], 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 16:] = torch.tensor([2.0, 2.0, 1.0, 1.0])
    with torch.no_grad(), watching(model) as norms:
        out = model(
            latents, torch.full((1, 1, latents.shape[2]), 500.0), torch.ones(1, 1, 3, 8), torch.ones(1, 3),
            return_dict=False, camera_conditions=camera, chunk_index=chunks,
        )[0]  # fmt: skip
    assert len(norms) == 2 and max(norms) <= 1 + 1e-6
    return out


@pytest.mark.parametrize("chunks", [[0, 4, 7], None])
def test_invariants_10_11_later_chunks_are_seen_both_ways_or_not_at_all(chunks: list[int] | None) -> None:
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 3, 10, 2, 2, generator=g)
    whole = _velocity(latents, chunks)
    for start in (4, 7):
        other = latents.clone()
        other[:, :, start:] += torch.randn(other[:, :, start:].shape, generator=g)
        changed = _velocity(other, chunks)
        assert torch.equal(changed[:, :, :start], whole[:, :, :start]) == (chunks is not None)
        assert not torch.equal(changed[:, :, start:], whole[:, :, start:])


def test_invariant_12_chunk_by_chunk_from_memory_is_the_whole_pass() -> None:
    model, chunks, frames = make_model(make_stage()), [0, 4, 7], 10
    g = torch.Generator().manual_seed(0)
    latents, timestep = torch.randn(1, 3, frames, 2, 2, generator=g), torch.full((1, 1, frames), 500.0)
    camera = torch.zeros(1, frames, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 3] = torch.linspace(0, 1, frames)
    camera[..., 16:] = torch.tensor([2.0, 2.0, 1.0, 1.0])
    rays = torch.randn(1, 48, frames, 2, 2, generator=g)
    text = {"encoder_hidden_states": torch.ones(1, 1, 3, 8), "encoder_attention_mask": torch.ones(1, 3)}
    whole = {"camera_conditions": camera, "chunk_plucker": rays, "chunk_index": chunks, "return_dict": False}
    memory, parts = None, []
    with torch.no_grad():
        want = model(latents, timestep, **text, **whole)[0]
        for a, b in ((0, 4), (4, 7), (7, 10)):
            kept: list[BlockMemory] = []
            piece = {"camera_conditions": camera[:, a:b], "chunk_plucker": rays[:, :, a:b], "return_dict": False}
            given = (latents[:, :, a:b], timestep[..., a:b])
            parts.append(model(*given, **text, **piece, memory=memory, kept=kept)[0])
            memory = after_chunk(memory, kept, b - a, Window(0, False))
    got = torch.cat(parts, 2)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    # Without the memory the later chunks come out otherwise.
    alone = model(latents[:, :, 4:7], timestep[..., 4:7], **text, camera_conditions=camera[:, 4:7], return_dict=False)
    assert not torch.allclose(alone[0], want[:, :, 4:7], atol=1e-3)


def test_invariant_13_sink_and_window() -> None:
    seen = [Window(2, True).seen_by(i) for i in range(6)]
    assert seen == [[], [0], [0, 1], [0, 2], [0, 3], [0, 4]]
    assert [Window(0, True).seen_by(i) for i in range(4)] == [[], [0], [0, 1], [0, 1, 2]]
    assert [Window(2, False).seen_by(i) for i in range(5)] == [[], [0], [0, 1], [1, 2], [2, 3]]


def test_invariant_14_transitions_contract_because_of_the_key_scale() -> None:
    g = torch.Generator().manual_seed(0)
    t, s, h, d = 5, 40, 2, 16
    k = torch.randn(1, t * s, h, d, generator=g).relu()
    k = k / k.square().mean(-1, keepdim=True).sqrt()  # as after the norm
    beta, log_gamma = torch.ones(1, h, t, s), torch.zeros(1, h, t)
    assert transition_norms(k * (d * s) ** -0.5, beta, log_gamma).max() <= 1 + 1e-6
    assert transition_norms(k * d**-0.5, beta, log_gamma).min() > 2
