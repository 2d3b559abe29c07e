"""The refiner against diffusers' SanaWMLTX2Refiner over the same published folder, and the rules it must keep."""

import itertools

import pytest
import torch
from refiner import Refiner, load_refiner
from refiner_cases import CHANNELS, LENGTH, build

PROMPT = "A quiet street after rain"
CLOSE = 1e-4


@pytest.fixture(scope="module", params=[("split", False), ("interleaved", True)], ids=["split", "interleaved-gated"])
def pair(request, tmp_path_factory):
    """diffusers' pipeline, and ours loaded from the folder it was saved to."""
    folder = tmp_path_factory.mktemp("refiner")
    theirs = build(folder, *request.param)
    transformer, text = load_refiner(folder, dtype=torch.float32)
    text.length = LENGTH
    return theirs, transformer, text


@pytest.fixture(scope="module")
def latents():
    return torch.randn(1, CHANNELS, 9, 2, 3, generator=torch.Generator().manual_seed(5))


def ours(pair, **options):
    _, transformer, text = pair
    return Refiner(transformer, *text.encode(PROMPT), **options)


def theirs(pair, latents, **options):
    return pair[0](latents, PROMPT, generator=torch.Generator().manual_seed(42), output_type="latent", **options)


def test_captions_are_read_as_diffusers_reads_them(pair):
    expected, mask = pair[0]._encode_prompt(PROMPT, device=torch.device("cpu"), dtype=torch.float32)
    states, seen = pair[2].encode(f"  {PROMPT}\n")
    assert torch.equal(seen, mask) and states.shape == (1, LENGTH, 24)
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)
    assert (states - pair[2].encode("Something else")[0]).abs().max() > 1e-2


def test_blocks_equal_diffusers(pair, latents):
    expected = theirs(pair, latents, fps=16, block_size=3, kv_max_frames=5)
    out = ours(pair, block=3, window=5)(latents)
    assert (out - expected).abs().max() < CLOSE
    assert (out - latents)[:, :, 1:].abs().max() > 0.1


def test_one_shot_equals_diffusers_with_a_single_block(pair, latents):
    expected = theirs(pair, latents, fps=24, block_size=8, sink_size=2)
    out = ours(pair, fps=24.0, sink=2)(latents)
    assert (out - expected).abs().max() < CLOSE
    assert torch.equal(out[:, :, :2], latents[:, :, :2])


def test_one_shot_is_full_attention_with_a_sink_that_sees_itself_alone(pair, latents):
    """Every frame in one pass, with a mask in place of a cache: the rule as it is written down."""
    _, model, text = pair
    states, seen = text.encode(PROMPT)
    z, (n, tokens) = latents, (9, 6)
    generator = torch.Generator().manual_seed(42)
    noise = torch.randn(z[:, :, 1:].shape, generator=generator)
    levels = [0.909375, 0.725, 0.421875, 0.0]
    x = (1 - levels[0]) * z[:, :, 1:] + levels[0] * noise
    visible = torch.ones(n * tokens, n * tokens, dtype=torch.bool)
    visible[:tokens, tokens:] = False
    with _masked(model, visible):
        for level, below in itertools.pairwise(levels):
            whole = torch.cat([z[:, :, :1], x], dim=2).flatten(2).transpose(1, 2)
            times = torch.full((1, n * tokens), level * 1000)
            times[:, :tokens] = 0
            rotary = model.build_rotary_emb_for_absolute_positions(1, list(range(n)), 2, 3, torch.device("cpu"), 16.0)
            v = model(whole, states, times, rotary, encoder_attention_mask=seen, return_dict=False)[0]
            v = v.transpose(1, 2).unflatten(2, (n, 2, 3))[:, :, 1:]
            x = x + (below - level) * v
    assert (ours(pair)(latents)[:, :, 1:] - x).abs().max() < CLOSE


class _masked:
    """Self-attention of all blocks under a mask."""

    def __init__(self, model, visible):
        self.model, self.visible = model, visible

    def __enter__(self):
        self.before = torch.nn.functional.scaled_dot_product_attention

        def attend(query, key, value, attn_mask=None, **more):
            mask = self.visible if key.shape[-2] == len(self.visible) else attn_mask
            return self.before(query, key, value, attn_mask=mask, **more)

        torch.nn.functional.scaled_dot_product_attention = attend

    def __exit__(self, *rest):
        torch.nn.functional.scaled_dot_product_attention = self.before


def test_a_stream_equals_the_clip_and_writes_into_no_state(pair, latents):
    refiner = ours(pair, block=3, window=5)
    whole = refiner(latents[:, :, :7])
    first, state = refiner.chunk(latents[:, :, :4], {})
    before = {name: tensor.clone() for name, tensor in state.items()}
    second, after = refiner.chunk(latents[:, :, 4:7], state)
    assert torch.equal(torch.cat([first, second], dim=2), whole)
    assert before.keys() == state.keys() and all(torch.equal(before[name], state[name]) for name in state)
    assert torch.equal(refiner.chunk(latents[:, :, 4:7], before)[0], second)
    assert after["history_key.0"].shape[1] == 4 * 6 and int(after["frames"]) == 7


def test_earlier_blocks_do_not_depend_on_later_frames(pair, latents):
    refiner = ours(pair, block=3, window=5)
    changed = latents.clone()
    changed[:, :, 4:] += 1
    assert torch.equal(refiner(latents)[:, :, :4], refiner(changed)[:, :, :4])
    assert not torch.equal(refiner(latents)[:, :, 4:], refiner(changed)[:, :, 4:])


def test_sound_and_pictures_are_not_loaded(pair):
    names = [name for part in pair[1:] for name, _ in part.named_parameters()]
    assert names and not [n for n in names if "audio" in n or "vision" in n or "a2v" in n or "projector" in n]
