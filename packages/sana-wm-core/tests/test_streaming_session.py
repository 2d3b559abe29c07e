"""Sessions: replay, branches, saving, causality, cutting of actions, constant memory, and what is refused."""

import gc
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sana_wm_core.background import BackgroundVideo
from sana_wm_core.codecs.chunked import chunk_decoder
from sana_wm_core.conditioning import camera_tensors
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.memory import Window
from sana_wm_core.pipeline import Defaults, WorldPipeline
from sana_wm_core.sampling.student import ChunkSampler, cut_camera
from sana_wm_core.streaming import Session, WorldState
from sana_wm_core.streaming.camera import CameraTrack, chunk_camera
from sana_wm_core.video import GrowingVideo
from torch import nn

PICTURE = Image.fromarray(np.arange(32 * 48 * 3, dtype=np.uint8).reshape(32, 48, 3))
FAST = ChunkSampler((1000.0, 500.0, 0.0))


class ToyCodec(nn.Module):
    """Latent frame t shows in its eight frames, and a little of latent frame t - 1."""

    temporal_stride, spatial_stride, latent_channels, decode_context = 8, 16, 4, 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.2, 0.3, 4))

    @property
    def dtype(self):
        return self.weight.dtype

    def encode_image(self, image):
        small = nn.functional.avg_pool2d(image.mean(1, keepdim=True), 16)
        return small[:, :, None] * torch.ones(1, 4, 1, 1, 1)

    def decode(self, latents):
        mixed = latents + 0.5 * torch.cat([latents[:, :, :1] * 0, latents[:, :, :-1]], dim=2)
        grey = torch.einsum("bctyx,c->btyx", mixed, self.weight)[:, None]
        grey = grey.repeat_interleave(16, 3).repeat_interleave(16, 4)
        return torch.cat([grey[:, :, :1], grey[:, :, 1:].repeat_interleave(8, 2)], dim=2).expand(-1, 3, -1, -1, -1)


class ToyText:
    def encode(self, prompts):
        codes = torch.tensor([[float(ord(c)) for c in (p + "   ")[:3]] for p in prompts])
        return (codes[:, None, :, None] / 100).expand(-1, 1, 3, 8).contiguous(), torch.ones(len(prompts), 3)


def random_transformer(seed=0):
    torch.manual_seed(seed)
    values = {"in_channels": 4, "num_layers": 2, "caption_channels": 8, "mlp_ratio": 1.0, "softmax_every_n": 2}
    values |= {"hidden_size": 32, "linear_head_dim": 16, "num_attention_heads": 2, "softmax_dtype": "model"}
    model = SanaWMTransformer(TransformerConfig(**values)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            p.copy_(1 + 0.2 * noise if "norm" in name else noise * (0.3 if p.ndim < 2 else p[0].numel() ** -0.5))
    return model


@pytest.fixture(scope="module")
def pipeline():
    defaults = Defaults(height=32, width=48, fov_deg=70.0)
    return WorldPipeline(random_transformer(), ToyCodec(), ToyText(), defaults)


def begin(pipeline, **own):
    return Session.start(pipeline, PICTURE, "a street", sampler=FAST, **own)


def run(session, action):
    pieces = list(session.play(action))
    return np.concatenate([piece.video for piece in pieces]), torch.cat([piece.latents for piece in pieces], dim=2)


def test_frames_come_by_the_chunk(pipeline):
    session = begin(pipeline)
    pieces = list(session.play("w-30,jw-18"))
    assert [piece.video.shape for piece in pieces] == [(25, 32, 48, 3), (24, 32, 48, 3)]
    assert session.state.frames == 49 and session.state.chunks == 2
    assert np.array_equal(pieces[0].c2w[0], np.eye(4))
    assert pieces[0].c2w[24, 2, 3] == pytest.approx(24 * 0.05, abs=1e-5)
    assert pieces[0].video.std() > 1


def test_the_first_chunk_may_be_as_short_as_the_others(pipeline, tmp_path):
    own = replace(pipeline.defaults, first_chunk=3)
    short = WorldPipeline(pipeline.transformer, pipeline.codec, pipeline.text_encoder, own)
    session = begin(short)
    assert session.chunk_frames == 16
    assert [session.whole_chunks(n) for n in (1, 16, 27, 28, 64)] == [16, 16, 16, 40, 64]
    assert [session.whole_chunks(n, "up") for n in (1, 17, 41)] == [16, 40, 64]
    assert [session.whole_chunks(n, "down") for n in (39, 40, 63)] == [16, 40, 40]
    assert [len(piece.video) for piece in session.play("w-50")] == [17, 24, 24]
    assert session.chunk_frames == 24 and session.state.frames == 65
    session.state.save(tmp_path / "world.safetensors")
    again = Session(short, WorldState.load(tmp_path / "world.safetensors"))
    assert np.array_equal(again.advance().video, session.advance().video)
    travelled = list(begin(short).travel(np.repeat(np.eye(4)[None], 41, axis=0)))
    assert [len(piece.c2w) for piece in travelled] == [17, 24]
    with pytest.raises(ValueError, match=r"17 \+ 24 k"):
        begin(short).travel(np.repeat(np.eye(4)[None], 25, axis=0))
    # Another chunk than the model's own has nothing to do with the model's first one.
    other = Session.start(short, PICTURE, "a street", sampler=ChunkSampler(FAST.steps, size=2))
    assert other.chunk_frames == 16 and other.state.settings.first == 3


def test_cutting_of_actions_changes_nothing(pipeline):
    one, two = begin(pipeline), begin(pipeline)
    whole = run(one, "w-24,jw-24,l-24")
    parts = [run(two, action) for action in ("w-24", "jw-24", "l-24")]
    assert np.array_equal(whole[0], np.concatenate([video for video, _ in parts]))
    assert torch.equal(whole[1], torch.cat([latents for _, latents in parts], dim=2))


def test_a_session_is_the_chunk_sampler_with_the_whole_path(pipeline):
    session = begin(pipeline)
    _, latents = run(session, "w-24,jw-24")
    from camera_control.actions import action_string_to_c2w
    from camera_control.trajectory import Trajectory

    c2w = action_string_to_c2w("w-24,jw-24")
    lens = np.repeat(np.array(session.state.settings.lens)[None], 49, axis=0)
    camera = camera_tensors(Trajectory(c2w, lens, 16, (32, 48)), lens, (32, 48), (2, 3), 8)
    text, memory, done = session._sampler.read(pipeline.transformer, conditions(session)), None, []
    for number, (a, b) in enumerate([(0, 4), (4, 7)]):
        noise = torch.randn(1, 4, b - a, 2, 3, generator=torch.Generator().manual_seed(42 * 1_000_003 + number))
        first = session.state.first_latent if a == 0 else None
        part = cut_camera(camera, a, b)
        chunk, memory = FAST.chunk(pipeline.transformer, noise, text, part, memory, first)
        done.append(chunk)
    assert torch.equal(torch.cat(done, dim=2), latents)


def conditions(session):
    from sana_wm_core.sampling.sampler import Conditions

    return Conditions(**session.state.text)


def test_branches_replay_bit_for_bit_and_share_nothing_they_write(pipeline):
    trunk = begin(pipeline)
    run(trunk, "w-48")
    moment = trunk.state
    before = {name: tensor.clone() for name, tensor in moment._tensors().items()}
    left, right, again = trunk.branch(), trunk.branch(), trunk.branch()
    one, other, same = run(left, "j-48"), run(right, "l-48"), run(again, "j-48")
    assert np.array_equal(one[0], same[0]) and torch.equal(one[1], same[1])
    assert not torch.equal(one[1], other[1])
    assert not torch.equal(one[1], run(trunk.branch(seed=7), "j-48")[1])
    for name, tensor in moment._tensors().items():
        assert torch.equal(tensor, before[name]), name
    assert trunk.state is moment


def test_a_saved_world_goes_on_bit_for_bit(pipeline, tmp_path):
    session = begin(pipeline)
    run(session, "w-24,dj-24")
    session.state.save(tmp_path / "world.safetensors")
    resumed = Session(pipeline, WorldState.load(tmp_path / "world.safetensors"))
    one, two = run(session, "i-24,w-24"), run(resumed, "i-24,w-24")
    assert np.array_equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert resumed.state.settings == session.state.settings
    assert [path.name for path in tmp_path.iterdir()] == ["world.safetensors"]


def test_later_actions_change_no_earlier_frame(pipeline):
    one, two = run(begin(pipeline), "w-48,a-24"), run(begin(pipeline), "w-48,d-24")
    assert np.array_equal(one[0][:49], two[0][:49])
    assert not np.array_equal(one[0][49:], two[0][49:])


def test_windowed_decoding_is_the_whole_decoding(pipeline):
    latents = torch.randn(1, 4, 10, 2, 3)
    decode, state, parts = chunk_decoder(pipeline.codec), {}, []
    for a, b in ((0, 4), (4, 5), (5, 10)):
        video, state = decode(latents[:, :, a:b], state)
        parts.append(video)
    assert torch.equal(torch.cat(parts, dim=2), pipeline.codec.decode(latents))
    with pytest.raises(ValueError, match="Linear cannot decode chunk by chunk"):
        chunk_decoder(nn.Linear(1, 1))


def test_the_state_stops_growing_but_for_the_held_keys(pipeline):
    session, sizes = begin(pipeline), []
    for _ in range(6):
        session.advance()
        sizes.append(session.state.bytes)
    grown = np.diff(sizes[2:])
    assert (grown == 24 * 8).all()


def live_bytes():
    """Bytes of every tensor that is still referred to by anything."""
    gc.collect()
    # The type itself: isinstance would wake lazy modules that warn, and traced tensors of other tests have no storage.
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, nn.Parameter, nn.Buffer)]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(held.values())


@pytest.mark.parametrize("window, grows", [(Window(), False), (Window(1, sink=False), False), (Window(0), True)])
def test_ten_times_the_frames_take_the_same_memory(pipeline, tmp_path, window, grows):
    """4 and 40 chunks, 97 and 961 frames, the film included; a window without end is the one thing that grows."""
    sampler = ChunkSampler((1000.0, 0.0), window=window)
    session = Session.start(pipeline, PICTURE, "a street", sampler=sampler)
    sizes = {}
    with BackgroundVideo(GrowingVideo(tmp_path / "long.mp4", preset="ultrafast")) as video:
        for chunk in range(1, 41):
            video.append(session.advance().video)
            if chunk in (4, 40):
                sizes[chunk] = live_bytes()
    assert session.state.frames == 961
    own = session.state.bytes - session.state.track.held.nbytes
    assert (sizes[40] - sizes[4] > own / 2) if grows else (sizes[40] - sizes[4] < 0.1 * own)


def test_poses_and_keys_mix(pipeline):
    forward = np.tile(np.eye(4), (25, 1, 1))
    forward[:, 2, 3] = np.linspace(3.0, 4.2, 25)
    session = begin(pipeline)
    (first,) = session.travel(forward)
    (second,) = session.play("w-24")
    assert first.c2w[-1, 2, 3] == pytest.approx(1.2, abs=1e-5)
    assert second.c2w[-1, 2, 3] == pytest.approx(1.2 + 24 * 0.05, abs=1e-4)
    keys = begin(pipeline)
    (by_keys,) = keys.play("w-24")
    assert np.abs(by_keys.c2w - first.c2w).max() < 1e-5
    with pytest.raises(ValueError, match=r"give \(25 \+ 24 k, 4, 4\)"):
        next(session.travel(forward[:20]))


def test_chunk_camera_is_a_part_of_the_whole():
    track = CameraTrack()
    track, poses = track.hold(track.parse("wl-24,k-24,s-24"))
    poses = np.concatenate([np.eye(4, dtype=np.float32)[None], poses])
    lens = np.array([30.0, 31.0, 24.0, 16.0])
    from camera_control.trajectory import Trajectory

    rows = np.repeat(lens[None], 73, axis=0)
    whole = camera_tensors(Trajectory(poses, rows, 16, (32, 48)), rows, (32, 48), (2, 3), 8)
    for a, b in ((0, 4), (4, 7), (7, 10)):
        raw = poses[: 8 * (b - 1) + 1] if a == 0 else poses[8 * a - 7 : 8 * (b - 1) + 1]
        part = chunk_camera(raw, lens, (32, 48), (2, 3), 8, a == 0)
        for name, tensor in cut_camera(whole, a, b).items():
            assert torch.equal(part[name], tensor), name


def test_a_new_caption_takes_hold_at_the_next_chunk(pipeline):
    one, two = begin(pipeline), begin(pipeline)
    first, same = run(one, "w-24"), run(two, "w-24")
    two.say("the sea")
    assert torch.equal(first[1], same[1])
    assert not torch.equal(run(one, "w-24")[1], run(two, "w-24")[1])
    assert two.state.settings.prompt == "the sea"


def test_a_new_caption_stays_although_the_next_chunk_had_begun(pipeline):
    session = begin(pipeline)
    session.overlaps = True
    pieces = session.play("w-72")
    next(pieces)
    session.say("the sea")
    spoken = session.state.text["text"]
    assert len(list(pieces)) == 2
    assert session.state.settings.prompt == "the sea" and session.state.text["text"] is spoken
    assert session.state.frames == 73 and session.state.chunks == 3


def test_a_refiner_sees_every_chunk_once(pipeline):
    def refine(latents, state):
        count = state.get("count", torch.zeros(1))
        return latents * 0.5, {"count": count + latents.shape[2]}

    plain, refined = begin(pipeline), begin(pipeline, refine=refine)
    raw, halved = run(plain, "w-48"), run(refined, "w-48")
    assert torch.equal(raw[1] * 0.5, halved[1])
    assert refined.state.refiner["count"].item() == 7


def test_states_that_do_not_fit_are_refused(pipeline, tmp_path):
    session = begin(pipeline)
    session.advance()
    path = tmp_path / "world.safetensors"
    session.state.save(path)
    other = WorldPipeline(random_transformer(1), ToyCodec(), ToyText(), pipeline.defaults)
    with pytest.raises(ValueError, match="belongs to another model"):
        Session(other, WorldState.load(path))
    whole = path.read_bytes()
    for length in (0, 7, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged or cut short"):
            WorldState.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a world state of this version"):
        WorldState.load(path)
    with pytest.raises(ValueError, match="no such file"):
        WorldState.load(tmp_path / "none.safetensors")


def test_a_state_file_with_a_tensor_missing_is_damaged(pipeline, tmp_path):
    session = begin(pipeline)
    path = tmp_path / "world.safetensors"
    session.state.save(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    held = load_file(path)
    del held["first_latent"]
    assert "first_latent" in json.loads(metadata["facts"])["tensors"]
    save_file(held, path, metadata=metadata)
    with pytest.raises(ValueError, match="damaged or cut short"):
        WorldState.load(path)


def test_bad_requests(pipeline):
    with pytest.raises(ValueError, match="multiples of 16; got 30x48"):
        begin(pipeline, height=30)
    with pytest.raises(ValueError, match="at most 24 frames"):
        begin(pipeline).advance(np.zeros((25, 8), dtype=bool))
    lensless = WorldPipeline(pipeline.transformer, ToyCodec(), ToyText(), Defaults(height=32, width=48))
    with pytest.raises(ValueError, match="--fov"):
        begin(lensless)


def test_running_ahead_changes_no_byte_and_no_state(pipeline):
    plain, ahead = begin(pipeline, refine=count_chunks), begin(pipeline, refine=count_chunks)
    ahead.overlaps = True
    for number, (one, two) in enumerate(zip(plain.play("w-40,jw-40"), ahead.play("w-40,jw-40"), strict=True)):
        assert np.array_equal(one.video, two.video) and np.array_equal(one.c2w, two.c2w)
        assert ahead.state.frames == plain.state.frames
        assert ahead.state.refiner["seen"] == plain.state.refiner["seen"] == number + 1
        # What is held is the chunk handed out, whatever has been sampled since.
        assert torch.equal(ahead.state.latents, one.latents / 2)
    poses = np.repeat(np.eye(4)[None], 49, axis=0)
    pairs = zip(plain.travel(poses), ahead.travel(poses), strict=True)
    assert all(np.array_equal(one.video, two.video) for one, two in pairs)


def count_chunks(latents, state):
    return 2 * latents, {"seen": state.get("seen", torch.zeros(())) + 1}


def test_the_next_chunk_begins_before_this_one_is_decoded(pipeline, monkeypatch):
    session = begin(pipeline)
    session.overlaps = True
    begun, decode, sample = threading.Semaphore(0), session._decode, session._sample
    wait_for = iter([2, 1, 0])  # two chunks are sampled before the first is decoded, three before the second

    def sampled(*inputs):
        begun.release()
        return sample(*inputs)

    def decoded(*inputs):
        for _ in range(next(wait_for)):
            assert begun.acquire(timeout=60), "nothing was sampled while a chunk waited to be decoded"
        return decode(*inputs)

    monkeypatch.setattr(session, "_sample", sampled)
    monkeypatch.setattr(session, "_decode", decoded)
    assert len(list(session.play("w-72"))) == 3


def test_stopping_ahead_keeps_the_last_whole_chunk(pipeline):
    session, plain = begin(pipeline), begin(pipeline)
    session.overlaps = True
    pieces = session.play("w-72")
    next(pieces)
    pieces.close()
    next(plain.play("w-72"))
    rest = [next(x.play("jw-24")) for x in (session, plain)]
    assert np.array_equal(rest[0].video, rest[1].video) and session.state.frames == 49
