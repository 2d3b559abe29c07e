"""The refiner's trainer on a tiny random LTX-2 (invariants 36 to 40 of the trainer)."""

import itertools
import json
from pathlib import Path

import pytest
import tiny_models
import torch
from refiner import SIGMAS, Refiner, load_transformer, merge_lora
from refiner.training import (
    Pairs,
    RefinerLora,
    RefinerTrainer,
    RefinerTraining,
    SigmaLaw,
    TruncatedFlow,
    add_lora,
    degrade,
    save_adapter,
    write_pair,
)
from refiner.training.loop import RefinerStopped
from torch import Tensor, nn

SHAPE = (1, tiny_models.CHANNELS, 3, 2, 2)
WIDTH = tiny_models.REFINER_TEXT_WIDTH
LORA = RefinerLora(rank=4, alpha=8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_models.refiner_network().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs")
    g = torch.Generator().manual_seed(0)
    for i in range(3):
        high = torch.randn(SHAPE, generator=g)
        low = high + 0.3 * torch.randn(SHAPE, generator=g)
        text = torch.randn(1, 6, WIDTH, generator=g)
        write_pair(path, f"p{i}", low, high, text, torch.ones(1, 6), "down2")
    return path


def _base(folder: Path) -> nn.Module:
    return load_transformer(folder, dtype=torch.float32)


def _trainer(folder: Path, pairs: Path, out: Path, **changes: object) -> RefinerTrainer:
    given = {"lora": LORA, "steps": 4, "batch": 2, "log_every": 1, "save_every": 2, "warmup": 1, **changes}
    return RefinerTrainer(_base(folder), Pairs(pairs), out, RefinerTraining(**given))


def _noise(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_invariant_36_the_path_begins_in_the_noised_first_stage_and_ends_in_the_target() -> None:
    low, high, noise, path = _noise(1), _noise(2), _noise(3), TruncatedFlow()
    for sigma in (0.0, 0.2, 0.725, path.start):
        pair = path.put(low, high, noise, sigma)
        # Both forms of the target, and the data it points at.
        torch.testing.assert_close(pair.x - sigma * pair.target, high, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pair.target, (pair.start - high) / path.start)
    assert torch.equal(path.put(low, high, noise, 0.0).x, high)
    at_start = path.put(low, high, noise, path.start)
    assert torch.equal(at_start.x, at_start.start)
    torch.testing.assert_close(at_start.start, (1 - SIGMAS[0]) * low + SIGMAS[0] * noise)
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"must start in \(0, 1\]"):
            TruncatedFlow(wrong)


def test_invariant_37_equal_latents_and_the_whole_way_are_plain_flow_matching() -> None:
    high, noise = _noise(2), _noise(3)
    for sigma in (0.1, 0.9):
        pair = TruncatedFlow(1.0).put(high, high, noise, sigma)
        torch.testing.assert_close(pair.target, noise - high)
        torch.testing.assert_close(pair.x, (1 - sigma) * high + sigma * noise)


@pytest.mark.parametrize("tokens", [16, 1024, 3000, 4096, 106_480])
def test_invariant_38_levels_lie_on_the_path_at_any_size(tokens: int) -> None:
    g, start = torch.Generator().manual_seed(tokens), SIGMAS[0]
    law = SigmaLaw()
    drawn = torch.tensor([law.draw(tokens, start, g) for _ in range(500)])
    assert torch.isfinite(drawn).all() and (drawn > 0).all() and (drawn <= start).all()
    assert (drawn == start).float().mean() < 0.01  # cut off, not piled up
    clamped = torch.tensor([SigmaLaw(clamp=True).draw(tokens, start, g) for _ in range(500)])
    assert (clamped == start).float().mean() > 0.05 and (clamped <= start).all()
    assert law.mean(1024) == 0.95 and law.mean(2560) == pytest.approx(1.5) and law.mean(10**6) == 2.05


def test_the_cut_off_law_is_the_law_given_that_it_stays_below() -> None:
    g, law = torch.Generator().manual_seed(0), SigmaLaw(uniform=0.0)
    whole = torch.tensor([law.draw(2000, 1.0, g) for _ in range(3000)])
    cut = torch.tensor([law.draw(2000, 0.7, g) for _ in range(3000)])
    inside = whole[whole <= 0.7]
    for share in (0.25, 0.5, 0.75):
        assert float(cut.quantile(share)) == pytest.approx(float(inside.quantile(share)), abs=0.03)


def test_invariant_39_adapters_alone_learn_begin_silent_and_merge(folder: Path, pairs: Path, tmp_path: Path) -> None:
    trainer = _trainer(folder, pairs, tmp_path / "run", learning_rate=1e-2)
    pair = trainer.pairs.load(0)
    plain = _base(folder)

    def velocity(model: nn.Module) -> Tensor:
        refiner = Refiner(model, pair.text, pair.mask, sink=1, window=2)
        with torch.no_grad():
            return refiner.predict(pair.low[:, :, 1:], 0.5, refiner.begin(pair.high[:, :, :1]))

    before = velocity(plain)
    assert torch.equal(velocity(trainer.model), before)
    names = {name.split(".", 2)[2] for name in trainer.layers}
    parts = ("to_q", "to_k", "to_v", "to_out.0")
    assert names == {f"{a}.{p}" for a in ("attn1", "attn2") for p in parts} | {"ff.net.0.proj", "ff.net.2"}
    frozen = {k: p.detach().clone() for k, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.run()
    assert all(torch.equal(p, frozen[k]) for k, p in trainer.model.named_parameters() if k in frozen)
    assert all(p.abs().sum() > 0 for k, p in trainer.trained.items() if "lora_B" in k)
    after = velocity(trainer.model)
    assert not torch.allclose(after, before, atol=1e-3)
    assert merge_lora(plain, tmp_path / "run/adapter.safetensors") == len(trainer.layers)
    torch.testing.assert_close(velocity(plain), after, atol=1e-5, rtol=1e-4)


def test_invariant_40_three_steps_with_an_oracle_end_in_the_target() -> None:
    low, high = _noise(1), _noise(2)

    class Oracle(Refiner):
        """Knows where the walk should end."""

        def _velocity(self, x: Tensor, sigma: float, positions: object, cache: object, mode: str) -> Tensor:
            return (x - high) / sigma

        def _window(self, state: object, block: Tensor) -> None:
            return None

    refiner = Oracle(nn.ModuleDict({"proj_in": nn.Linear(1, 1)}), torch.zeros(1, 1, 1), torch.ones(1, 1))
    refiner.transformer.proj_in = refiner.transformer["proj_in"]
    state = {"frames": torch.tensor(1), "noise": torch.Generator().get_state()}
    refined, _ = refiner.advance(low, state, keep=False)
    torch.testing.assert_close(refined, high, atol=1e-5, rtol=1e-5)
    # And every stop of that walk lies on the path the trainer shows.
    noise = _noise(4)
    x = TruncatedFlow().put(low, high, noise, SIGMAS[0]).x
    for level, below in itertools.pairwise(SIGMAS):
        x = x + (below - level) * (x - high) / level
        torch.testing.assert_close(x, TruncatedFlow().put(low, high, noise, below).x, atol=1e-5, rtol=1e-5)


def test_a_pair_is_learnt_and_the_reference_is_seen_but_not_learnt(folder: Path, pairs: Path, tmp_path: Path) -> None:
    trainer = _trainer(folder, pairs, tmp_path / "run", steps=40, batch=1, learning_rate=1e-2)
    pair = trainer.pairs.load(1)
    first, _ = trainer.loss(pair)
    moved = pair._replace(low=torch.cat([pair.low[:, :, :1] + 5, pair.low[:, :, 1:]], 2))
    assert trainer.loss(moved)[0] == first  # the first stage's own first frame is not looked at
    turned = pair._replace(high=torch.cat([pair.high[:, :, :1] + 5, pair.high[:, :, 1:]], 2))
    assert trainer.loss(turned)[0] != first  # the target's is
    for _ in range(40):
        loss, _ = trainer.loss(pair)
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
    assert trainer.loss(pair)[0] < 0.8 * first


def test_the_network_is_told_the_level_of_what_it_is_shown(
    folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, shown = _trainer(folder, pairs, tmp_path / "run"), []
    plain, pair = Refiner.predict, trainer.pairs.load(0)

    def watched(self: Refiner, x: Tensor, sigma: float, state: dict[str, Tensor]) -> Tensor:
        shown.append((x, sigma))
        return plain(self, x, sigma, state)

    monkeypatch.setattr(Refiner, "predict", watched)
    for step in range(4):
        trainer.steps_done = step
        _, metrics = trainer.loss(pair)
        x, sigma = shown[-1]
        assert sigma == metrics["sigma"]
        start_error = ((x - pair.high[:, :, 1:]) * SIGMAS[0] / sigma).square().mean()
        assert float(start_error) == pytest.approx(metrics["start_error"], rel=1e-3)
    assert len({sigma for _, sigma in shown}) == 4


def test_recomputing_changes_no_gradient(folder: Path, pairs: Path, tmp_path: Path) -> None:
    grads = []
    for recompute in (True, False):
        torch.manual_seed(0)
        trainer = _trainer(folder, pairs, tmp_path / str(recompute), recompute=recompute)
        passes = []
        trainer.model.transformer_blocks[0].ff.register_forward_hook(lambda *_, seen=passes: seen.append(1))
        trainer.loss(trainer.pairs.load(0))[0].backward()
        assert len(passes) == (3 if recompute else 2)  # the reference, the pair, and the pair again
        grads.append({k: p.grad.clone() for k, p in trainer.trained.items()})
    assert any(g.abs().sum() > 0 for g in grads[0].values())
    assert all(torch.equal(grads[0][k], grads[1][k]) for k in grads[0])


def test_a_resumed_run_is_the_uninterrupted_one(folder: Path, pairs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = _trainer(folder, pairs, tmp_path / "whole", augment=0.2)
    whole.run()
    torch.manual_seed(0)
    first = _trainer(folder, pairs, tmp_path / "parts", augment=0.2)
    first.run(stop=lambda: first.steps_done >= 2)
    second = _trainer(folder, pairs, tmp_path / "parts", augment=0.2)
    second.resume()
    assert second.steps_done == 2
    second.run()
    assert all(torch.equal(p, second.trained[k]) for k, p in whole.trained.items())
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    losses = [[json.loads(line)["loss"] for line in part] for part in lines]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert {whole.number(place) for place in range(3)} == {0, 1, 2}
    with pytest.raises(ValueError, match=r"other settings: train.batch: 2 -> 1"):
        _trainer(folder, pairs, tmp_path / "parts", augment=0.2, batch=1).resume()
    with pytest.raises(ValueError, match="nothing to resume"):
        _trainer(folder, pairs, tmp_path / "none").resume()


def test_numbers_that_are_not_finite_stop_the_run(folder: Path, pairs: Path, tmp_path: Path) -> None:
    trainer = _trainer(folder, pairs, tmp_path / "run")
    before = {k: p.detach().clone() for k, p in trainer.trained.items()}
    name = "transformer_blocks.1.attn2.to_k.lora_B.weight"
    hook = trainer.trained[name].register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(RefinerStopped, match=rf"step 0: the gradient of {name} is not finite, on p\d, p\d"):
        trainer.step()
    hook.remove()
    with torch.no_grad():
        trainer.model.proj_out.weight[0, 0] = float("nan")
    with pytest.raises(RefinerStopped, match=r"step 0: the loss is nan on pair p\d; .* not finite: proj_out\.weight"):
        trainer.step()
    assert all(torch.equal(p, before[k]) for k, p in trainer.trained.items())


def test_pairs_come_back_and_bad_ones_are_named(pairs: Path, tmp_path: Path) -> None:
    held = Pairs(pairs)
    assert len(held) == 3 and held.load(2).name == "p2"
    assert held.load(0).low.shape == SHAPE and held.load(0).text.shape == (1, 6, WIDTH)
    good = (torch.zeros(1, 6, WIDTH), torch.ones(1, 6))
    write_pair(tmp_path, "a", torch.zeros(SHAPE), torch.full(SHAPE, float("inf")), *good)
    write_pair(tmp_path, "b", torch.zeros(SHAPE), torch.ones(SHAPE), *good)
    write_pair(tmp_path, "b", torch.ones(SHAPE), torch.ones(SHAPE), *good)
    assert len(Pairs(tmp_path)) == 2 and Pairs(tmp_path).load(1).low.min() == 1
    (tmp_path / "b.safetensors").write_bytes(b"half")
    for number, message in ((0, "pair a: high holds numbers that are not finite"), (1, "pair b: .* cannot be read")):
        with pytest.raises(ValueError, match=message):
            Pairs(tmp_path).load(number)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match="pair b: no file"):
        Pairs(tmp_path).load(1)
    with pytest.raises(ValueError, match="both must be"):
        write_pair(tmp_path, "c", torch.zeros(SHAPE), torch.zeros(1, 1, 2, 2, 2), *good)
    (tmp_path / "pairs.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(ValueError, match=r"line 1 is no pair"):
        Pairs(tmp_path)
    with pytest.raises(ValueError, match=r"no pairs\.jsonl"):
        Pairs(tmp_path / "nowhere")


def test_degrading_takes_fine_detail_and_leaves_the_rest() -> None:
    y = torch.arange(32.0)
    fine = ((y % 2) * 2 - 1).expand(1, 3, 2, 32, 32) * 0.5
    coarse = torch.sin(y / 5).expand(1, 3, 2, 32, 32) * 0.5
    assert degrade(fine, 4).abs().mean() < 0.1 * fine.abs().mean()
    assert (degrade(coarse, 2) - coarse).abs().mean() < 0.05
    with pytest.raises(ValueError, match="must be above 1"):
        degrade(fine, 1.0)


def test_settings_and_models_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for wrong in ({"batch": 0}, {"augment": 1.0}, {"reference": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match="refiner training"):
            RefinerTraining(**wrong)
    with pytest.raises(ValueError, match="rank of at least 1"):
        RefinerLora(rank=0)
    with pytest.raises(ValueError, match="Linear has no layer such as attn1"):
        add_lora(nn.Linear(2, 2), LORA)
    assert RefinerLora().rank == 384
    model = nn.ModuleDict({"attn1": nn.ModuleDict({"to_q": nn.Linear(3, 5)})})
    add_lora(model, LORA)
    state = save_adapter(model, LORA, tmp_path / "a.safetensors")
    bare = nn.ModuleDict({"attn1": nn.ModuleDict({"to_q": nn.Linear(3, 5)})})
    assert merge_lora(bare, state) == 1
