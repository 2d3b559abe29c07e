"""The ladder of methods whose order is known, and its report."""

import json

import numpy as np
import pytest
from wm_bench.imported import _bare_split
from wm_bench.ladder import Rung, climb, ladder
from wm_bench.report.ranking import orders, ranking_markdown, write_ranking
from wm_bench.sheet import ClipResult, build_sheet, identity
from wm_bench.submission import Submission

SPLIT = _bare_split("simple_60s")
ROT = "rot_err_deg@code-v1/pycolmap"


def sheet_of(method, psnr, rot=None, version="1", scenes=8):
    """Eight scenes that differ by much more than the methods do."""
    hard = np.linspace(0, 10, scenes)
    results = {
        scene.id: ClipResult({"ref_psnr_db": float(psnr + h), **({} if rot is None else {ROT: float(rot + h)})})
        for scene, h in zip(SPLIT.scenes, hard, strict=False)
    }
    if rot is None:
        for clip in results.values():
            clip.reasons[ROT] = "pycolmap found no camera path"
    identities = {n: identity(n, SPLIT, {}, "pycolmap", version, "none") for n in ("ref_psnr_db", ROT)}
    return build_sheet(SPLIT, Submission(None, method, {}, {}, []), results, identities, {})


def test_paired_gaps_see_what_scenes_hide():
    sheets = {"a": sheet_of("a", 20.5, 1.0), "b": sheet_of("b", 20.0, 1.5)}
    psnr, rot = climb(sheets, [Rung("ref_psnr_db", "a", "b"), Rung("rot_err_deg", "a", "b")])
    # Scenes differ by 10 dB, methods by half of one, and still every scene says the same.
    assert (psnr["verdict"], psnr["n"], psnr["unit"]) == ("yes", 8, "dB")
    assert psnr["gap"] == pytest.approx(0.5) and psnr["low"] == pytest.approx(0.5) and psnr["p"] == 2 / 2**8
    assert rot["verdict"] == "yes" and rot["gap"] == pytest.approx(0.5)  # less error, a positive gap
    (wrong,) = climb(sheets, [Rung("ref_psnr_db", "b", "a")])
    assert wrong["verdict"] == "no" and wrong["gap"] == pytest.approx(-0.5)


def test_what_cannot_be_said_is_not_said():
    one = sheet_of("a", 20.0, 1.0)
    (same,) = climb({"a": one, "b": one}, [Rung("ref_psnr_db", "a", "b")])
    assert same["verdict"] == "open" and same["gap"] == 0
    (lost,) = climb({"a": one, "b": sheet_of("b", 20.0)}, [Rung("rot_err_deg", "a", "b")])
    assert lost["verdict"] == "not measured" and "b: pycolmap found no camera path" in lost["reason"]
    (other,) = climb({"a": one, "b": sheet_of("b", 20, 1, version="2")}, [Rung("rot_err_deg", "a", "b")])
    assert other["verdict"] == "not measured" and "identities" in other["reason"]
    one["metrics"][ROT]["flagged"] = {"straight": 3}
    (open_,) = climb({"a": one, "b": sheet_of("b", 20.0, 9.0)}, [Rung("rot_err_deg", "a", "b")])
    assert open_["verdict"] == "not measured" and "straight in 3 scenes" in open_["reason"]
    assert climb({"a": one}, [Rung("ref_psnr_db", "a", "b")]) == []


def test_the_report_tells_the_order(tmp_path):
    sheets = {
        "pocket": sheet_of("pocket", 22.0, 1.0),
        "pocket-shuffled": sheet_of("pocket-shuffled", 15.0, 12.0),
        "render": sheet_of("render", 90.0, 0.2),
        "still": sheet_of("still", 16.0),
    }
    rows = climb(sheets, ladder("pocket"))
    assert {r["verdict"] for r in rows} == {"yes"} and len(rows) == 5
    record, words, page = (path.read_text() for path in write_ranking(sheets, rows, tmp_path))
    found = json.loads(record)
    assert found["orders"]["ref_psnr_db"][0] == ["render", 95.0] and found["not_placed"] == {ROT: ["still"]}
    # A method without the number does not keep the others from being ranked.
    assert [method for method, _ in found["orders"][ROT]] == ["render", "pocket", "pocket-shuffled"]
    line = f"| {ROT} | render 5.200, pocket 6.000, pocket-shuffled 17.00 (no number: still) |"
    assert line in words and "pocket-shuffled 17.00 (no number: still)" in page
    tied = dict(sheets, still=sheet_of("still", 15.0))
    assert "pocket 27.00, pocket-shuffled 20.00 = still 20.00 |" in ranking_markdown(tied, rows)
    assert "| ref_psnr_db | pocket | still | 27.00 | 21.00 | 6.000 dB | 6.000 to 6.000 |" in words
    assert words.count("as it must be") == 5 and "Partial coverage: 8 of 80" in words
    assert page.count("as it must be") >= 5 and "<svg" in page and "<script" not in page
    doubtful = [row | {"p": 0.07} for row in rows[:2]] + rows[2:]
    for told, count in ((rows, 0), (doubtful, 1)):
        assert ranking_markdown(sheets, told).count("In 2 of these 5 lines the interval leaves out zero") == count
    for sheet in sheets.values():
        sheet["metrics"][ROT]["flagged"] = {"straight": 8}
    assert list(orders(sheets)) == ["ref_psnr_db"]
    lost = dict(sheets, pocket=sheet_of("pocket", 22.0))
    assert (
        "not measured: pocket: pycolmap found no camera path"
        in write_ranking(lost, climb(lost, ladder("pocket")), tmp_path / "lost")[1].read_text()
    )
