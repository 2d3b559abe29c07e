"""Files of the released evaluator: ours written as theirs, theirs read, checked, and kept apart from ours."""

import json

import numpy as np
import pytest
from wm_bench.comparison import compare
from wm_bench.imported import _bare_split, read_upstream
from wm_bench.metrics.vbench import DIMENSIONS
from wm_bench.report import write_report
from wm_bench.sheet import ClipResult, build_sheet, identity
from wm_bench.submission import Submission
from wm_bench.upstream import write_upstream

TAG = "code-v1/pi3x"
SPLIT = _bare_split("simple_60s")
POSE = ("rot_err_deg", "trans_err_m", "cam_mc")


def sheet_of(method, better=0.0, vbench=True, tmp=None):
    """A full sheet of made-up numbers; `better` degrees less of rotation error."""
    rng = np.random.default_rng(0)
    results = {}
    for number, scene in enumerate(SPLIT.scenes):
        values = {f"{name}@{TAG}": float(rng.uniform(3, 4)) for name in POSE}
        values[f"rot_err_deg@{TAG}"] -= better
        values |= {"revisit_psnr_db": float(rng.uniform(12, 15)), "revisit_ssim": 0.3}
        if vbench:
            values |= {name: float(rng.uniform(0.7, 0.9)) for name in DIMENSIONS}
            values |= {"imaging_quality_first": 0.7, "imaging_quality_last": 0.65}
        curves = {"pose_times_s@pi3x": [0.25 * i for i in range(241)]}
        clip = ClipResult(values, curves=curves, pairs=1 + number % 5, fps=16.0, frames=961)
        results[scene.id] = clip
    names = sorted({name for clip in results.values() for name in clip.values})
    identities = {n: identity(n, SPLIT, {"drop_first": False}, "pi3x", "1", "0" * 64) for n in names}
    return build_sheet(SPLIT, Submission(None, method, {"model": method, "fps": 16}, {}, []), results, identities, {})


@pytest.fixture
def written(tmp_path):
    sheet = sheet_of("ours")
    return sheet, tmp_path, write_upstream(sheet, tmp_path)


def load(root, *parts):
    return json.loads(root.joinpath(*parts).read_text())


def test_the_six_files_have_upstreams_names_keys_and_units(written):
    sheet, root, paths = written
    own = "ours/eval/simple_60s"
    assert sorted(p.relative_to(root).as_posix() for p in paths) == sorted(
        ["ours/method_info.json", "ours/simple_60s/eval_poses.json"]
        + [f"{own}/{n}.json" for n in ("camera_accuracy", "revisit_consistency", "summary", "temporal_degradation")]
        + [f"{own}/vbench_scores.json"]
    )
    poses = load(root, "ours/simple_60s/eval_poses.json")
    assert len(poses) == 80 and set(poses["indoor_007"]) == {
        "RotErr", "RotErr_unit", "TransErr_rel", "CamMC_rel", "scene_type", "n_frames", "skip_first_frame"
    }  # fmt: skip
    row = poses["outdoor_city_003"]
    assert (row["RotErr_unit"], row["scene_type"], row["n_frames"]) == ("deg", "outdoor_city", 241)
    assert row["RotErr"] == sheet["scenes"]["outdoor_city_003"]["values"][f"rot_err_deg@{TAG}"]
    camera = load(root, own, "camera_accuracy.json")
    assert camera["n_scenes"] == 80 and set(camera["per_category"]) == {s.category for s in SPLIT.scenes}
    assert camera["rot_err_deg"] == round(np.mean([p["RotErr"] for p in poses.values()]), 4)
    vbench = load(root, own, "vbench_scores.json")
    assert set(vbench) == {"raw_scores", "quality_score", "semantic_score", "total_score", "normalized_per_dim"}
    assert vbench["total_score"] == round((4 * vbench["quality_score"] + vbench["semantic_score"]) / 5, 4)
    revisits = load(root, own, "revisit_consistency.json")["summary"]
    pairs = [1 + i % 5 for i in range(80)]
    psnr = [sheet["scenes"][s.id]["values"]["revisit_psnr_db"] for s in SPLIT.scenes]
    assert revisits["n_total_pairs"] == sum(pairs) and revisits["overall_mean_lpips"] is None
    assert revisits["overall_mean_psnr"] == round(np.average(psnr, weights=pairs), 4)
    by_scene = revisits["per_category"]["psnr"]["game_style"]
    assert by_scene == round(np.mean(psnr[:20]), 4)  # over scenes, as upstream's categories are
    temporal = load(root, own, "temporal_degradation.json")
    assert list(temporal["windows"]) == ["w0_0s-10s", "w5_50s-60s"]
    assert temporal["trend"]["imaging_quality"]["degradation"] == 0.05
    record = load(root, own, "summary.json")
    assert record["camera"]["cam_mc_rel"] == camera["cam_mc_rel"] and record["temporal"]["imaging_quality_drop"] == 0.05


def test_what_was_not_measured_is_not_written(tmp_path):
    paths = write_upstream(sheet_of("poor", vbench=False), tmp_path)
    names = {p.name for p in paths}
    assert "vbench_scores.json" not in names and "temporal_degradation.json" not in names
    with pytest.raises(ValueError, match=r"no camera of paper-sim3/pi3x; allowed: code-v1/pi3x"):
        write_upstream(sheet_of("poor", vbench=False), tmp_path, "paper-sim3", "pi3x")


def test_a_round_trip_keeps_every_number_and_its_unit(written):
    sheet, root, _ = written
    back = read_upstream(root, "ours", "simple_60s")
    assert back["coverage"]["headline"] and not back["findings"] and back["method"] == "ours"
    for scene in SPLIT.scenes:
        ours, theirs = sheet["scenes"][scene.id]["values"], back["scenes"][scene.id]["values"]
        for name in POSE:
            assert theirs[f"{name}@code-v1/imported"] == ours[f"{name}@{TAG}"]
        assert theirs["revisit_psnr_db"] == round(ours["revisit_psnr_db"], 4)
    assert back["metrics"]["revisit_psnr_db"]["mean"] == pytest.approx(
        sheet["metrics"]["revisit_psnr_db"]["mean"], abs=1e-4
    )
    assert back["whole_set"]["vbench"]["overall"] == pytest.approx(
        100 * load(root, "ours/eval/simple_60s/vbench_scores.json")["quality_score"]
    )
    assert back["whole_set"]["temporal"]["imaging_quality"]["degradation"] == 0.05


def test_imported_numbers_meet_imported_numbers_only(written, tmp_path):
    sheet, root, _ = written
    write_upstream(sheet_of("better", better=1.0), root)
    ours, better = (read_upstream(root, m, "simple_60s") for m in ("ours", "better"))
    rows = {r["metric"]: r for r in compare(ours, better)["rows"]}
    row = rows["rot_err_deg@code-v1/imported"]
    assert row["winner"] == "b" and row["difference"] == pytest.approx(-1.0) and row["n"] == 80
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(sheet, ours)
    report = write_report(better, tmp_path / "report")
    assert "as-imported" in report[-1].read_text()


def test_raw_dimensions_become_numbers_per_scene(written):
    _, root, _ = written
    own = root / "ours/eval/simple_60s"
    for name in DIMENSIONS:
        one = {"imaging_quality": 71.0, "dynamic_degree": True}.get(name, 0.9)
        rows = [{"video_path": f"/data/{s.id}_generated.mp4", "video_results": one} for s in SPLIT.scenes]
        (own / f"eval_{name}_eval_results.json").write_text(json.dumps({name: [0.5, rows]}))
    values = read_upstream(root, "ours", "simple_60s")["scenes"]["indoor_020"]["values"]
    assert values["imaging_quality"] == 0.71 and values["dynamic_degree"] == 1.0 and 0 < values["vbench_quality"] < 100


def change(root, file, edit):
    path = root / "ours" / file
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found))


POSES, OWN = "simple_60s/eval_poses.json", "eval/simple_60s"


@pytest.mark.parametrize(
    ("file", "edit", "code"),
    [
        (POSES, lambda d: d["indoor_001"].pop("RotErr_unit"), "no-unit"),
        (POSES, lambda d: d["indoor_001"].update(RotErr=float("nan")), "not-a-number"),
        (POSES, lambda d: d["indoor_001"].update(TransErr_rel=-1), "not-a-number"),
        (POSES, lambda d: d["indoor_001"].update(CamMC_rel="1.2"), "not-a-number"),
        (POSES, lambda d: d.update(cellar_001={}), "unknown-scene"),
        (f"{OWN}/vbench_scores.json", lambda d: d.update(quality_score=0.95), "contradiction"),
        (f"{OWN}/vbench_scores.json", lambda d: d["raw_scores"].pop("aesthetic_quality"), "partial"),
        (
            f"{OWN}/temporal_degradation.json",
            lambda d: d["trend"]["imaging_quality"].update(degradation=0.2),
            "contrad",
        ),
        (
            f"{OWN}/temporal_degradation.json",
            lambda d: d["trend"]["imaging_quality"].pop("last_window"),
            "not-a-number",
        ),
        (
            f"{OWN}/temporal_degradation.json",
            lambda d: d["windows"].update({"w10_100s-110s": {"imaging_quality": 0.2}}),
            "window-order",
        ),
    ],
)
def test_faults_of_result_files_are_findings(written, file, edit, code):
    _, root, _ = written
    change(root, file, edit)
    back = read_upstream(root, "ours", "simple_60s")
    assert [f["code"] for f in back["findings"] if f["code"].startswith(code)], back["findings"]
    if file == POSES and code != "unknown-scene":
        assert "rot_err_deg@code-v1/imported" not in back["scenes"]["indoor_001"]["values"]
    if code == "partial":
        assert back["whole_set"]["vbench"]["overall"] is None


def test_missing_scenes_and_files_are_told(written, tmp_path):
    _, root, _ = written
    for file in (POSES, f"{OWN}/revisit_consistency.json"):
        change(root, file, lambda d: d.get("per_scene", d).pop("indoor_004"))
    (root / "ours" / OWN / "vbench_scores.json").write_text("[")
    back = read_upstream(root, "ours", "simple_60s")
    assert back["coverage"]["missing"] == ["indoor_004"] and not back["coverage"]["headline"]
    assert {f["code"] for f in back["findings"]} == {"missing", "unreadable"}
    with pytest.raises(ValueError, match="no result files of 'nobody'"):
        read_upstream(root, "nobody", "hard_60s")
