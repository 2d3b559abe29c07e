"""The released benchmark's layout: written by export, read back, and every broken rule reported."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from wm_bench.splits import load_procedural
from wm_bench.splits.draw import draw_split
from wm_bench.splits.export import export_split
from wm_bench.splits.released import REVISION, load_released, open_frame, read_released

IDS = ["game_style_001", "indoor_002"]
EXPORT = "benchmark_v2_hard_60s/sanawm_export_v2"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench")
    split = load_procedural("proc_hard_60s", IDS)
    export_split(split, root, size=(72, 128))
    return root


@pytest.fixture
def root(written, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    return copy


def test_an_export_reads_back_as_it_was(written):
    original = load_procedural("proc_hard_60s", IDS)
    read = load_released(written, "hard")
    assert read.name == "hard_60s" and read.source == "sana" and read.truth is None and read.complete == 80
    assert read.revision.startswith("unverified:")
    for ours, theirs in zip(original.scenes, read.scenes, strict=True):
        assert (ours.id, ours.category, ours.template, ours.prompt) == (
            theirs.id, theirs.category, theirs.template, theirs.prompt)  # fmt: skip
        np.testing.assert_allclose(theirs.c2w, ours.c2w, atol=1e-9)
        np.testing.assert_allclose(theirs.intrinsics((72, 128)), ours.intrinsics((72, 128)), atol=1e-9)
        assert [p[:2] for p in theirs.pairs] == [p[:2] for p in ours.pairs]
        assert theirs.extra["expected_video_frames"] == 960 and theirs.extra["collision"]["ok"]
    frame = read.first_frame(read.scenes[0], (72, 128))
    np.testing.assert_array_equal(frame, original.first_frame(original.scenes[0], (72, 128)))
    assert load_released(written, "hard", ["indoor_002"], seconds=4).name == "hard_60s[0-4s]"


def test_export_writes_the_same_bytes_twice(written, tmp_path):
    export_split(load_procedural("proc_hard_60s", IDS), tmp_path / "again", size=(72, 128))
    for path in sorted(p for p in written.rglob("*") if p.is_file() and p.suffix != ".npz"):
        assert (tmp_path / "again" / path.relative_to(written)).read_bytes() == path.read_bytes(), path.name
    with np.load(written / EXPORT / f"{IDS[0]}.npz") as a, np.load(tmp_path / "again" / EXPORT / f"{IDS[0]}.npz") as b:
        assert all(a[key].tobytes() == b[key].tobytes() for key in a.files)


def test_export_adds_a_split_but_never_writes_into_other_data(root, tmp_path):
    export_split(load_procedural("proc_simple_60s", IDS[:1], 4), root, size=(72, 128), controls=False)
    assert set(json.loads((root / "wm_bench_dataset.json").read_text())["splits"]) == {
        "benchmark_v2_hard_60s", "benchmark_v2_smooth_60s"}  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds other files"):
        export_split(load_procedural("proc_simple_60s", IDS[:1], 4), tmp_path / "mine")


def test_folders_of_a_cut_split_need_no_quotes_in_a_shell(tmp_path):
    export_split(load_procedural("proc_simple_60s", IDS[:1], 1.5), tmp_path / "cut", size=(36, 64))
    assert (tmp_path / "cut" / "controls" / "proc_simple_60s_0-1.5s" / IDS[0] / "prompt.txt").is_file()
    for path in (tmp_path / "cut").rglob("*"):
        assert re.fullmatch(r"[\w./-]+", str(path.relative_to(tmp_path))), path


def test_control_inputs_are_there_for_every_dialect(written):
    folder = written / "controls" / "proc_hard_60s" / "indoor_002"
    spelled = json.loads((folder / "actions.json").read_text())
    for dialect in ("sana-v1", "sana-v2", "diffusers", "sglang", "worldplay"):
        assert (folder / f"actions_{dialect}.txt").read_text().strip()
        assert spelled[dialect]["position_error_m"] >= 0
    assert np.load(folder / "poses.npy").shape == (961, 4, 4)
    assert np.load(folder / "poses_intrinsics.npy")[0, 2] == 64


def _edit_manifest(root, **changes):
    path = root / EXPORT / "run_manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for key, value in changes.items():
        if value is None:
            del lines[0][key]
        else:
            lines[0][key] = value
    path.write_text("\n".join(json.dumps(line) for line in lines))


def _edit_camera(root, edit):
    path = root / EXPORT / "game_style_001.npz"
    with np.load(path) as archive:
        content = dict(archive)
    edit(content)
    np.savez(path, **content)


def _edit_pairs(root, edit):
    path = root / "benchmark_v2_hard_60s" / "scene_trajectories_v2.json"
    data = json.loads(path.read_text())
    edit(data["scenes"][0])
    path.write_text(json.dumps(data))


def _append(path, text):
    path.write_text(path.read_text() + text)


def _scaled(content):
    content["c2w"][7, :3, :3] *= 1.01


def _nan(content):
    content["c2w"][3, 0, 0] = np.nan


BREAKS = {
    "lacks prompt": lambda r: _edit_manifest(r, prompt=None),
    "named twice": lambda r: _edit_manifest(r, id="indoor_002"),
    "no readable picture": lambda r: (r / "images/game_style_001.png").write_bytes(b"no picture"),
    "in the trajectories file": lambda r: _edit_manifest(r, trajectory_id="traj_hard_99_other"),
    "cannot read game_style_001.npz": lambda r: (r / EXPORT / "game_style_001.npz").write_bytes(b"PK broken"),
    "not (n, 4, 4)": lambda r: _edit_camera(r, lambda c: c.update(c2w=c["c2w"][:, :3])),
    "NaN or infinity": lambda r: _edit_camera(r, _nan),
    "not a rotation": lambda r: _edit_camera(r, _scaled),
    "last row": lambda r: _edit_camera(r, lambda c: c["c2w"].__setitem__((0, 3, 0), 1.0)),
    "fps is 24": lambda r: _edit_camera(r, lambda c: c.update(fps=np.float64(24))),
    "focal length": lambda r: _edit_camera(r, lambda c: c["intrinsics"].__setitem__((0, 0, 0), -1.0)),
    "field of view": lambda r: _edit_camera(r, lambda c: c.update(intrinsics=c["intrinsics"] * 0.1)),
    "not inside 961": lambda r: _edit_pairs(r, lambda s: s["evaluation_pairs"][0].update(frame_b=961)),
    "not two frame numbers": lambda r: _edit_pairs(r, lambda s: s["evaluation_pairs"].append({"frame_a": 1})),
    "only in kept_scenes.txt": lambda r: (r / "scene_set/kept_scenes.txt").write_text("\n".join([*IDS, "indoor_009"])),
    "unreadable": lambda r: (r / "benchmark_v2_hard_60s/scene_trajectories_v2.json").write_text("{"),
    "not a JSON object": lambda r: _append(r / EXPORT / "run_manifest.jsonl", "\nnope\n"),
}  # fmt: skip


@pytest.mark.parametrize("expected", BREAKS)
def test_every_broken_rule_is_reported(root, expected):
    before = read_released(root, "hard_60s").violations
    assert all(v.startswith("count: ") for v in before)
    BREAKS[expected](root)
    assert any(expected in v for v in read_released(root, "hard_60s").violations)
    with pytest.raises(ValueError, match="violations"):
        load_released(root, "hard_60s")


def test_a_missing_score_of_a_pair_counts_as_999_and_sorts_last(root):
    _edit_pairs(root, lambda s: s["evaluation_pairs"][0].pop("quality_score"))
    pairs = load_released(root, "hard").scenes[0].pairs
    assert pairs[-1].quality_score == 999


def test_the_published_revision_needs_the_published_bytes(root, monkeypatch):
    import hashlib

    from wm_bench.splits import released

    ours = {p: hashlib.sha256((root / p).read_bytes()).hexdigest() for p in released.SHA256 if (root / p).exists()}
    monkeypatch.setattr(released, "SHA256", ours)
    assert load_released(root, "hard").revision.startswith(f"SANA-WM-Bench@{REVISION[:12]}:")
    with (root / "scene_set/kept_scenes.txt").open("a") as opened:
        opened.write("\n")
    assert load_released(root, "hard").revision.startswith("unverified:")


def test_a_picture_is_filled_and_centre_cropped(tmp_path):
    picture = np.zeros((72, 128, 3), np.uint8)
    picture[:, 28:100] = 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert open_frame(tmp_path / "a.png", (72, 72)).min() == 200
    assert open_frame(tmp_path / "a.png", (36, 64)).shape == (36, 64, 3)


def test_wrong_roots_are_one_line(tmp_path):
    for call, message in (
        (lambda: load_released(tmp_path, "simple"), "no benchmark_v2_smooth_60s"),
        (lambda: load_released(tmp_path, "medium"), "split is 'medium'"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_split_is_drawn_on_one_page(tmp_path):
    split = load_procedural("proc_hard_60s", [*IDS, "outdoor_city_001"])
    path = draw_split(split, tmp_path / "split.png")
    with Image.open(path) as opened:
        assert opened.width > 300 and np.asarray(opened.convert("L")).std() > 20
    with pytest.raises(ValueError, match=r"ending in \.png"):
        draw_split(split, tmp_path / "split.pdf")


@pytest.mark.parametrize("scenes", [["indoor_001"], ["indoor_001", "indoor_002", "indoor_003", "indoor_004"]])
def test_the_title_of_a_narrow_page_is_not_cut_off(scenes, tmp_path):
    split = load_procedural("proc_simple_60s", scenes)
    with Image.open(draw_split(split, tmp_path / "split.png")) as opened:
        title = np.asarray(opened.convert("L"))[:50]
    assert title.min() < 100 and title[:, -3:].min() > 250
