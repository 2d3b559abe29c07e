"""The whole scoring path on submissions whose order is known, and what makes its numbers trustworthy."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from wm_bench import estimators
from wm_bench.baselines import write_baseline
from wm_bench.cache import Cache
from wm_bench.camera_following import PoseRules
from wm_bench.comparison import compare, rank
from wm_bench.estimators import PoseEstimate
from wm_bench.imported import _bare_split
from wm_bench.report.page import score_page
from wm_bench.report.tables import coverage_words, score_markdown
from wm_bench.scoring import Options, score_folder
from wm_bench.sheet import ClipResult, build_sheet, identity, read_sheet, write_sheet
from wm_bench.submission import Submission
from wm_bench.video import write_lossless

IDS = ["game_style_001", "indoor_001", "outdoor_city_001"]
SIZE = (36, 64)
FPS = 4.0  # a minute in 241 frames; every revisit frame lies on this grid
ORACLE = Options(estimators=("oracle",), poses=PoseRules(protocols=("code-v1", "paper-sim3", "first-frame")))
ROT = "rot_err_deg@code-v1/oracle"


@pytest.fixture(scope="module")
def minute(box_split):
    return box_split(3)


@pytest.fixture(scope="module")
def folders(minute, tmp_path_factory):
    root = tmp_path_factory.mktemp("methods")
    for kind in ("render", "still", "turned", "blur", "swap"):
        write_baseline(kind, minute, root / kind, SIZE, FPS)
    return root


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Results of this file's videos, so that no test measures again what another has measured."""
    return Cache(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def sheets(minute, folders, kept):
    return {path.name: score_folder(path, minute, ORACLE, kept) for path in sorted(folders.iterdir())}


def mean(sheet, name):
    return sheet["metrics"][name]["mean"]


def test_the_render_scores_perfectly(sheets):
    sheet = sheets["render"]
    assert sheet["coverage"]["scored"] == 3 and not sheet["findings"]
    for protocol in ("code-v1", "paper-sim3", "first-frame"):
        assert mean(sheet, f"rot_err_deg@{protocol}/oracle") == pytest.approx(0, abs=1e-5)
        assert mean(sheet, f"trans_err_m@{protocol}/oracle") == pytest.approx(0, abs=1e-6)
    assert mean(sheet, "ref_psnr_db") == 100 and mean(sheet, "ref_ssim") == pytest.approx(1)
    assert mean(sheet, "warp_gap_db") == mean(sheet, "revisit_warp_gap_db") == 0
    assert mean(sheet, "proxy.sharpness") == pytest.approx(1)
    assert mean(sheet, "drift_ref_psnr_db") == mean(sheet, "drift_sharpness") == 0
    # Carried by exact depth a revisited place looks like itself much more than without.
    assert mean(sheet, "revisit_warp_psnr_db") > max(30, mean(sheet, "revisit_psnr_db"))
    windows = sheet["scenes"]["indoor_001"]["windows"]
    assert len(windows["ref_psnr_db"]) == len(windows["rot_err_deg@code-v1/oracle"]) == 6


def test_the_ranking_is_as_it_must_be(sheets):
    assert mean(sheets["turned"], ROT) > 1 > mean(sheets["render"], ROT)
    assert mean(sheets["still"], ROT) > mean(sheets["render"], ROT)
    for worse in ("still", "turned", "blur", "swap"):
        assert mean(sheets[worse], "ref_psnr_db") < mean(sheets["render"], "ref_psnr_db")
        found = {row["metric"]: row for row in compare(sheets[worse], sheets["render"])["rows"]}
        assert found["ref_psnr_db"]["winner"] == "b" and found["ref_psnr_db"]["low"] > 0
    # A picture that never moves: perfect memory without the geometry, no flicker, and worse than the render with it.
    still = sheets["still"]
    assert mean(still, "flicker_tf") == 1 and mean(still, "revisit_psnr_db") == 100
    assert mean(still, "warp_gap_db") < -3
    # Blur costs sharpness and drift, not the camera.
    blur = sheets["blur"]
    assert mean(blur, "proxy.sharpness") < 0.7 and mean(blur, "drift_sharpness") > 0.3
    assert mean(blur, ROT) == pytest.approx(0, abs=1e-5)
    # A world that is mirrored half-way breaks memory where places are seen before and after.
    assert mean(sheets["swap"], "revisit_psnr_db") < mean(sheets["render"], "revisit_psnr_db") - 3
    assert rank(list(sheets.values()), "ref_psnr_db")[0][0] == "render"


def test_the_same_video_gives_the_same_sheet_bit_for_bit(minute, folders, sheets, tmp_path):
    again = score_folder(folders / "blur", minute, ORACLE, Cache(tmp_path / "cache"))
    cached = score_folder(folders / "blur", minute, ORACLE, Cache(tmp_path / "cache"))
    written = [
        write_sheet(s, tmp_path / f"{i}.json").read_bytes() for i, s in enumerate((sheets["blur"], again, cached))
    ]
    assert written[0] == written[1] == written[2]
    assert read_sheet(tmp_path / "0.json") == json.loads(written[0])


def test_the_cache_knows_content_not_names(minute, folders, tmp_path):
    cache = Cache(tmp_path / "cache")
    mine = tmp_path / "mine"
    shutil.copytree(folders / "render", mine)
    first = score_folder(mine, minute, ORACLE, cache)
    shutil.copy(folders / "blur" / "indoor_001.mkv", mine / "indoor_001.mkv")
    second = score_folder(mine, minute, ORACLE, cache)
    assert first["scenes"]["indoor_001"]["values"]["ref_psnr_db"] == 100
    assert second["scenes"]["indoor_001"]["values"]["ref_psnr_db"] < 50
    assert second["scenes"]["game_style_001"] == first["scenes"]["game_style_001"]
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_text("{ broken")
    assert score_folder(mine, minute, ORACLE, cache) == second


def test_nothing_is_written_into_the_users_folder(minute, folders):
    before = {p: p.stat().st_mtime_ns for p in folders.rglob("*")}
    score_folder(folders / "still", minute, ORACLE)
    assert {p: p.stat().st_mtime_ns for p in folders.rglob("*")} == before


def test_the_frame_rate_does_not_matter(box_split, tmp_path):
    split = box_split(1, 4.0)
    values = []
    for fps in (8.0, 16.0, 24.0, 30.0):
        folder = write_baseline("render", split, tmp_path / f"{fps:g}", SIZE, fps)
        sheet = score_folder(folder, split, ORACLE)
        assert not sheet["findings"]
        values.append([mean(sheet, ROT), mean(sheet, "trans_err_m@paper-sim3/oracle"), mean(sheet, "ref_psnr_db")])
    # Matroska keeps milliseconds, so that at 24 and 30 frames a second the truth is met half a millisecond off.
    assert np.array(values)[:, :2].max() < 0.02
    assert np.array(values)[:, 2].min() > 40


class Aside:
    """Finds every centre but looks 20 degrees aside in every second pose, in another frame and scale."""

    id, version, weights_sha256 = "aside", "1", "none"

    def __init__(self, scene):
        self.scene = scene

    def estimate(self, request):
        c2w = self.scene.trajectory().at(request.times_s)[0]
        turns = Rotation.from_rotvec([[0, 20 * (i % 2), 0] for i in range(len(c2w))], degrees=True).as_matrix()
        c2w[:, :3, :3] = c2w[:, :3, :3] @ turns
        c2w[:, :3, 3] *= 0.3
        return PoseEstimate(c2w, np.ones(len(c2w), dtype=bool))


def test_a_path_is_drawn_by_its_positions_beside_the_floors(box_split, tmp_path, monkeypatch):
    split = box_split(1, 4.0)
    (scene,) = split.scenes
    write_baseline("still", split, tmp_path / "still", SIZE, FPS)
    monkeypatch.setitem(estimators._REGISTERED, "aside", lambda options: Aside(scene))
    sheet = score_folder(tmp_path / "still", split, Options(estimators=("aside", "oracle")))
    path = sheet["scenes"][scene.id]["paths"]["aside"]
    assert mean(sheet, "rot_err_deg@code-v1/aside") > 5 and mean(sheet, "trans_err_m@code-v1/aside") > 0.05
    for name in ("estimate", "floor"):
        np.testing.assert_allclose(path[name], path["truth"], atol=2e-4)
    # The oracle's floor is the truth, and a still's path is a point.
    still = sheet["scenes"][scene.id]["paths"]["oracle"]
    assert set(still) == {"estimate", "truth"} and np.ptp(still["estimate"], axis=0).max() < 1e-9


def test_every_number_names_what_it_is(sheets, minute):
    for name, metric in sheets["render"]["metrics"].items():
        if "mean" not in metric:
            assert metric["status"] == "unavailable" and metric["reason"], name
            continue
        ident = metric["identity"]
        assert ident["revision"] == minute.revision and ident["dataset"] == "box_60s"
        assert ident["backend"] and ident["weights_sha256"] and ident["protocol"]["version"]
        assert metric["n"] == 3 and metric["expected"] == 80 and metric["status"] == "partial"
        low, high = metric["ci95"]
        assert low <= metric["mean"] + 1e-12 and metric["mean"] <= high + 1e-12
    assert not sheets["render"]["coverage"]["headline"]
    for name in ("revisit_lpips", "imaging_quality", "aesthetic_quality", "vmaf", "vbench_quality"):
        assert sheets["render"]["metrics"][name]["status"] == "unavailable"
        assert sheets["render"]["metrics"][name]["reason"]


def test_different_identities_are_never_ranked(box_split, minute, folders, sheets, kept):
    coarse = Options(estimators=("oracle",), poses=PoseRules(every_s=0.5))
    other = score_folder(folders / "still", minute, coarse, kept)
    result = compare(sheets["render"], other)
    assert any(r["metric"] == ROT and r["differs"] == ["protocol"] for r in result["refused"])
    assert all("@" not in row["metric"] for row in result["rows"])
    with pytest.raises(ValueError, match="differ in protocol"):
        rank([sheets["render"], other], ROT)
    part = box_split(2)
    smaller = score_folder(folders / "still", part, ORACLE, kept)
    with pytest.raises(ValueError, match="differ in revision"):
        compare(sheets["render"], smaller)
    with pytest.raises(ValueError, match="neither direction"):
        rank([sheets["render"], sheets["still"]], "flicker_tf")
    with pytest.raises(ValueError, match="is missing for"):
        rank([sheets["render"]], "imaging_quality")


def test_methods_scored_on_different_scenes_are_not_ranked(minute, folders, sheets, kept, tmp_path):
    shutil.copytree(folders / "still", tmp_path / "part")
    (tmp_path / "part" / "indoor_001.mkv").unlink()
    part = score_folder(tmp_path / "part", minute, ORACLE, kept)
    assert part["coverage"]["missing"] == ["indoor_001"]
    assert compare(part, sheets["render"])["rows"][0]["n"] == 2
    with pytest.raises(ValueError, match="different scenes"):
        rank([part, sheets["render"]], "ref_psnr_db")


@pytest.mark.parametrize(("scored", "headline"), [(80, True), (79, False), (0, False)])
def test_a_headline_needs_every_scene_of_the_split(scored, headline):
    split = _bare_split("simple_60s")
    results = {scene.id: ClipResult({"ref_ssim": 0.5}) for scene in split.scenes[:scored]}
    names = {"ref_ssim": identity("ref_ssim", split, {}, "wm-bench", "1", "none")}
    sheet = build_sheet(split, Submission(None, "m", {}, {}, []), results, names, {})
    assert sheet["coverage"]["headline"] is headline and len(sheet["coverage"]["missing"]) == 80 - scored
    assert sheet["metrics"]["ref_ssim"]["status"] == {80: "ok", 79: "partial", 0: "unavailable"}[scored]
    for text in (coverage_words(sheet), score_markdown(sheet), score_page(sheet, [])):
        assert ("these are headline numbers" in text) is headline
        assert (f"Partial coverage: {scored} of 80" in text) is not headline
    # All scenes of a run that asked for fewer are not all scenes of the split.
    part = dataclasses.replace(split, scenes=list(split.scenes)[:4])
    few = {scene.id: results[scene.id] for scene in part.scenes if scene.id in results}
    sheet = build_sheet(part, Submission(None, "m", {}, {}, []), few, names, {})
    assert not sheet["coverage"]["headline"]


def test_a_missing_estimator_is_unavailable_not_zero(minute, folders, kept):
    sheet = score_folder(folders / "still", minute, Options(estimators=("pi3x",)), kept)
    assert sheet["metrics"]["rot_err_deg@pi3x"]["status"] == "unavailable"
    assert "checkpoint" in sheet["metrics"]["rot_err_deg@pi3x"]["reason"]
    with pytest.raises(ValueError, match="estimator is 'mast3r'"):
        score_folder(folders / "still", minute, Options(estimators=("mast3r",)))
    with pytest.raises(ValueError, match="named twice"):
        score_folder(folders / "still", minute, Options(estimators=("oracle", "oracle")))


def test_lossless_video_comes_back_byte_for_byte(tmp_path):
    from wm_bench.video import decode, probe

    frames = np.random.default_rng(0).integers(0, 256, (7, 32, 48, 3), dtype=np.uint8)
    path = write_lossless(tmp_path / "a.mkv", frames, 24.0)
    np.testing.assert_array_equal(np.stack(list(decode(path))), frames)
    video = probe(path)
    assert video.size == (32, 48) and video.fps == pytest.approx(24, abs=0.5) and len(video) == 7
    np.testing.assert_allclose(video.times_s, np.arange(7) / 24, atol=6e-4)
