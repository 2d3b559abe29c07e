"""One clip over several ranks gives the numbers of one rank (invariants 1 to 9)."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gdn_kernels import frame_gdn, frame_gdn_camera, frame_gdn_cp, short_conv
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.clip import Clip
from sana_wm_core.model.layers import GatedConvFFN
from sana_wm_core.sampling.chunks import training_chunks
from sana_wm_core.training.objective import FrameErrors
from sana_wm_core.training.parallel.collectives import gather, halo
from sana_wm_core.training.parallel.recurrence import frame_gdn_camera_cp
from sana_wm_core.training.parallel.shard import Shard, ShardedClip, shard_along_time

sys.path.insert(0, str(Path(__file__).parent))
from training_ranks import on_ranks

# Without norms of the text: the model norms in float32, and rounds what every rank sends back to the text by itself.
CONFIG = TransformerConfig(
    in_channels=3, num_layers=2, hidden_size=32, num_attention_heads=2, linear_head_dim=16, caption_channels=6,
    softmax_every_n=2, mlp_ratio=2.0, chunk_plucker_post_attn_blocks=2, softmax_dtype="model",
    y_norm=False, cross_norm=False,
)  # fmt: skip
# Frame 0 carries no loss, so ranks count unequally; of 5 frames on 4 ranks the last rank holds padding alone.
# Ranks, latent frames, chunk by chunk: borders inside shards, on their edges (12 frames, 4 ranks: none; 9, 2: none;
# 16, 4: 4 lies on one), chunks over two shards, lengths that need padding and lengths that do not.
CASES = {
    2: [(13, True), (13, False), (12, True), (12, False), (9, True)],
    4: [(13, True), (16, True), (12, False), (9, True), (5, False)],
}


def _model(dtype: torch.dtype) -> SanaWMTransformer:
    torch.manual_seed(3)
    model = SanaWMTransformer(CONFIG)
    model.init_weights()
    with torch.no_grad():
        # Silent outputs would hide a branch.
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model.to(dtype)


def _inputs(frames: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(frames)
    camera = torch.zeros(1, frames, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 3] = torch.randn(1, frames, generator=g) * 0.1
    camera[..., 7] = torch.randn(1, frames, generator=g) * 0.1
    camera[..., 16:] = torch.tensor([2.0, 2.0, 1.0, 1.0])
    timestep = torch.rand(1, 1, frames, generator=g) * 900
    timestep[..., 0] = 0
    weight = torch.ones(1, frames)
    weight[:, 0] = 0
    return {
        "latents": torch.randn(1, 3, frames, 2, 2, generator=g).to(dtype),
        "target": torch.randn(1, 3, frames, 2, 2, generator=g).to(dtype),
        "timestep": timestep,
        "text": torch.randn(1, 1, 4, 6, generator=g).to(dtype),
        "camera": camera,
        "plucker": torch.randn(1, 48, frames, 2, 2, generator=g).to(dtype),
        "weight": weight.to(dtype),
    }


def _loss(
    model: SanaWMTransformer, given: dict[str, torch.Tensor], shard: Shard | None, chunks: list[int] | None, dirt=0.0
) -> torch.Tensor:
    """This rank's share of the clip's mean error; the shares of all ranks add up to it."""
    along = {"latents": 2, "target": 2, "timestep": 2, "camera": 1, "plucker": 2, "weight": 1}
    part = dict(given)
    if shard is not None:
        part = {k: shard.cut(v, along[k], k == "camera") if k in along else v for k, v in given.items()}
        if dirt:
            held = shard.valid()
            for key in ("latents", "plucker"):
                part[key] = part[key] + dirt * (1 - held.to(part[key].dtype)).view(1, 1, -1, 1, 1)
    velocity = model(
        part["latents"], part["timestep"], part["text"], torch.ones(1, 4), return_dict=False,
        camera_conditions=part["camera"], chunk_plucker=part["plucker"], chunk_index=chunks,
        **({} if shard is None else {"shard": shard}),
    )[0]  # fmt: skip
    error = (velocity - part["target"]).square().mean(dim=(1, 3, 4))
    return FrameErrors(error, part["weight"]).sums[0].sum() / given["weight"].sum()


def _alone(frames: int, causal: bool, dtype: torch.dtype) -> tuple[float, dict[str, torch.Tensor]]:
    model = _model(dtype)
    loss = _loss(model, _inputs(frames, dtype), None, training_chunks(frames, 3) if causal else None)
    loss.backward()
    return loss.item(), {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


def _together(rank: int, size: int, answers: str) -> list[tuple[str, float]]:
    """Largest differences to one rank, whose answers are in a file: (what, relative difference)."""
    found = []
    alone = torch.load(answers, weights_only=True)
    for frames, causal in CASES[size]:
        chunks = training_chunks(frames, 3) if causal else None
        for dtype in (torch.float64, torch.float32):
            model = _model(dtype)
            shard_along_time(model)
            shard = Shard(frames, dist.group.WORLD)
            loss = _loss(model, _inputs(frames, dtype), shard, chunks)
            loss.backward()
            total = loss.detach().clone()
            dist.all_reduce(total)
            want, grads = alone[f"{frames} {causal} {dtype}"]
            found.append((f"loss {frames} {causal} {dtype}", abs(total.item() - want) / want))
            if dtype == torch.float64:
                scale = max(g.abs().max().item() for g in grads.values())
                for name, p in model.named_parameters():
                    if name in grads:
                        dist.all_reduce(p.grad)
                        worst = (p.grad - grads[name]).abs().max().item() / scale
                        found.append((f"grad {frames} {causal} {name}", worst))
            if shard.padding and dtype == torch.float64:
                plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
                model.zero_grad()
                dirty = _loss(model, _inputs(frames, dtype), shard, chunks, dirt=3.0)
                dirty.backward()
                same = dirty.item() == loss.item()
                first = _model(dtype)
                shard_along_time(first)
                clean = _loss(first, _inputs(frames, dtype), shard, chunks)
                clean.backward()
                pairs = zip(model.parameters(), first.parameters(), strict=True)
                same &= all(a.grad is None or torch.equal(a.grad, b.grad) for a, b in pairs)
                found.append((f"padding {frames} {causal}", 0.0 if same and plain else 1.0))
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_invariants_2_3_4_7_8_ranks_along_time_give_the_loss_and_gradients_of_one(size: int, tmp_path: Path) -> None:
    alone = {
        f"{frames} {causal} {dtype}": _alone(frames, causal, dtype)
        for frames, causal in CASES[size]
        for dtype in (torch.float64, torch.float32)
    }
    torch.save(alone, tmp_path / "alone.pt")
    for found in on_ranks(size, _together, size, str(tmp_path / "alone.pt")):
        assert len(found) > 100
        for what, difference in found:
            assert difference < (1e-6 if "float32" in what else 1e-9), (what, difference)


def _pieces(rank: int) -> dict[str, float]:
    """Everything smaller than a model, on three ranks."""
    world, size = dist.group.WORLD, dist.get_world_size()
    worst: dict[str, float] = {}
    for dtype in (torch.float32, torch.float64):
        for stops in (None, [0, 4, 6, 7]):
            for divide in (True, False):
                g = torch.Generator().manual_seed(1)
                t, s, h, d = 9, 3, 2, 4
                q, k, v = (torch.randn(1, t * s, h, d, generator=g).to(dtype) for _ in range(3))
                q, k = q.relu(), k.relu() * (d * s) ** -0.5
                beta, gamma = torch.rand(1, h, t, s, generator=g).to(dtype), -torch.rand(1, h, t, generator=g).to(dtype)
                angle = torch.rand(t * s, d // 2, generator=g)
                rope = (angle.cos(), angle.sin())
                starts = (
                    None if stops is None else torch.zeros(t, dtype=torch.bool).index_fill(0, torch.tensor(stops), True)
                )
                whole = [x.clone().requires_grad_() for x in (q, k, v, beta, gamma)]
                if divide:
                    want = frame_gdn(*whole, rope=rope, eps=1e-3, chunk_starts=starts, backend="reference")
                else:
                    want = frame_gdn_camera(*whole, chunk_starts=starts, backend="reference")
                pull = torch.randn(want.shape, generator=g).to(dtype)
                (want * pull).sum().backward()
                # Shards of 3 frames: a border inside (4), on an edge (6), and two in a row (6, 7).
                f = slice(rank * 3, rank * 3 + 3)
                n = slice(f.start * s, f.stop * s)
                own = [x[:, n].clone().requires_grad_() for x in (q, k, v)]
                own += [x[:, :, f].clone().requires_grad_() for x in (beta, gamma)]
                local = None if starts is None else starts[f]
                if divide:
                    turns = (rope[0][n], rope[1][n])
                    out = frame_gdn_cp(*own, rope=turns, eps=1e-3, chunk_starts=local, group=world).out
                else:
                    out = frame_gdn_camera_cp(*own, group=world, chunk_starts=local)
                (out * pull[:, n]).sum().backward()
                pairs = [(out, want[:, n])]
                pairs += [(a.grad, b.grad[:, n]) for a, b in zip(own[:3], whole[:3], strict=True)]
                pairs += [(a.grad, b.grad[:, :, f]) for a, b in zip(own[3:], whole[3:], strict=True)]
                key = f"recurrence {dtype}"
                for a, b in pairs:
                    scale = max(1.0, b.detach().abs().max().item())
                    worst[key] = max(worst.get(key, 0.0), (a - b).abs().max().item() / scale)

    x = torch.arange(2 * 6 * 2, dtype=torch.float64).view(2, 6, 2) + 1
    whole = torch.nn.functional.pad(x, (0, 0, 3, 3))
    mine = x[:, rank * 2 : rank * 2 + 2].clone().requires_grad_()
    wide = halo(mine, 3, 3, world)  # longer than a shard: reaches over two ranks
    worst["halo forward"] = (wide - whole[:, rank * 2 : rank * 2 + 8]).abs().max().item()
    wide.sum().backward()
    counts = torch.zeros(1, 12, 1, dtype=torch.float64)
    for r in range(size):
        counts[:, r * 2 : r * 2 + 8] += 1
    worst["halo backward"] = (mine.grad - counts[:, 3 + rank * 2 : 5 + rank * 2]).abs().max().item()
    single = x[:, rank * 2 : rank * 2 + 2].clone().requires_grad_()
    halo(single, 1, 1, world).sum().backward()
    seen = torch.tensor([1.0 if rank == 0 else 2.0, 1.0 if rank == size - 1 else 2.0]).view(1, 2, 1)
    worst["halo frames count twice"] = (single.grad - seen).abs().max().item()

    # A gradient that is dense but permuted, as attention hands it back.
    g = torch.Generator().manual_seed(2)
    pull = torch.randn(1, 6, 2, 3, generator=g)
    ours = torch.randn(1, 2, 2, 3).requires_grad_()
    (gather(ours, world) * pull).sum().backward()
    want = size * pull[:, rank * 2 : rank * 2 + 2]
    worst["gather"] = (ours.grad - want).abs().max().item()
    turned = torch.randn(1, 2, 2, 3).requires_grad_()  # (b, h, n, d), gradient laid out (b, n, h, d)
    permuted = pull.transpose(1, 2)
    gather(turned, world, 2).backward(permuted)
    worst["gather permuted"] = (turned.grad - size * permuted[:, :, rank * 2 : rank * 2 + 2]).abs().max().item()
    from torch.distributed.nn.functional import all_gather

    library = torch.randn(1, 2, 2, 3).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the library advises another function now
        parts = all_gather(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.autograd.backward(list(parts), [permuted[:, :, r * 2 : r * 2 + 2] for r in range(size)])
    worst["library"] = (library.grad - size * permuted[:, :, rank * 2 : rank * 2 + 2]).abs().max().item()

    # The masked halo of the feed-forward's filter against the whole sequence.
    torch.manual_seed(0)
    layer = GatedConvFFN(CONFIG).double()
    from sana_wm_core.training.parallel.shard import ShardedFFN

    tokens = torch.randn(1, 9 * 4, 32, dtype=torch.float64, generator=g)
    want = layer(tokens, Clip(9, 2, 2, chunks=(0, 4, 7)))
    layer.__class__ = ShardedFFN
    piece = ShardedClip(3, 2, 2, shard=Shard(9, world), all_chunks=(0, 4, 7))
    got = layer(tokens[:, rank * 12 : rank * 12 + 12], piece)
    worst["ffn"] = (got - want[:, rank * 12 : rank * 12 + 12]).abs().max().item()
    weight = torch.randn(32, 1, 4, dtype=torch.float64, generator=g)
    mask = torch.zeros(9, dtype=torch.bool).index_fill(0, torch.tensor([0, 4, 7]), True)
    want = short_conv(tokens, weight, 9, chunk_starts=mask)
    got = piece.filter("k", tokens[:, rank * 12 : rank * 12 + 12], weight)
    worst["filter"] = (got - want[:, rank * 12 : rank * 12 + 12]).abs().max().item()
    whole_clip = Clip(9, 2, 2, chunks=(0, 4, 7))
    got = piece.filter("k", tokens[:, rank * 12 : rank * 12 + 12], weight, carried=False)
    want = whole_clip.filter("k", tokens, weight, carried=False)[:, rank * 12 : rank * 12 + 12]
    worst["filter local"] = (got - want).abs().max().item()
    return worst


@pytest.fixture(scope="module")
def pieces() -> list[dict[str, float]]:
    return on_ranks(3, _pieces)


def test_invariant_1_composed_maps_equal_one_scan_both_ways(pieces: list[dict[str, float]]) -> None:
    for worst in pieces:
        assert worst["recurrence torch.float32"] < 2e-6
        assert worst["recurrence torch.float64"] < 1e-12


def test_invariant_5_halo_is_the_neighbours_frames_and_its_gradient_goes_home(pieces: list[dict[str, float]]) -> None:
    for worst in pieces:
        assert worst["halo forward"] == worst["halo backward"] == worst["halo frames count twice"] == 0


def test_invariant_6_gather_survives_permuted_gradients_where_the_librarys_does_not(
    pieces: list[dict[str, float]],
) -> None:
    for worst in pieces:
        assert worst["gather"] < 1e-6 and worst["gather permuted"] < 1e-6
    # If this fails the library has been repaired, and our own function can go.
    assert max(worst["library"] for worst in pieces) > 0.1


def test_invariant_9_masked_halo_equals_the_whole_sequence(pieces: list[dict[str, float]]) -> None:
    for worst in pieces:
        assert max(worst["ffn"], worst["filter"], worst["filter local"]) < 1e-12


def test_pieces_cover_the_clip_and_padding_is_last() -> None:
    class Fixed(Shard):
        place, count = 0, 1

        @property
        def rank(self) -> int:
            return self.place

        @property
        def size(self) -> int:
            return self.count

    for frames in range(1, 30):
        for size in (1, 2, 4, 8):
            seen = []
            for rank in range(size):
                shard = Fixed(frames, None)
                object.__setattr__(shard, "place", rank)
                object.__setattr__(shard, "count", size)
                cut = shard.cut(torch.arange(1, frames + 1), 0)
                assert len(cut) == shard.local
                valid = shard.valid()
                assert valid is None or torch.equal(valid[0] > 0, cut > 0)
                seen += cut.tolist()
            assert seen[:frames] == list(range(1, frames + 1)) and not any(seen[frames:])
