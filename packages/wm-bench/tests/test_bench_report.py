"""Reports: complete, self-contained, the same twice, and honest about what was not measured."""

import copy
import csv
import dataclasses
import io
import json
import re

import pytest
from wm_bench.baselines import write_baseline
from wm_bench.camera_following import PoseRules
from wm_bench.comparison import compare
from wm_bench.report import pick_strips, write_report
from wm_bench.report.compared import compare_table, write_comparison
from wm_bench.report.parts import interval_mark
from wm_bench.report.plots import curve_plots, path_plots
from wm_bench.report.tables import CSV_COLUMNS, at_precision, decimals_of, is_open, number, one_of_each, with_interval
from wm_bench.scoring import Options, score_folder
from wm_bench.sheet import read_sheet
from wm_bench.submission import read_submission

SIZE, FPS = (36, 64), 8.0
ORACLE = Options(estimators=("oracle", "pi3x"), poses=PoseRules(protocols=("code-v1", "paper-sim3")))


@pytest.fixture(scope="module")
def split(box_split):
    return box_split(4, 12.0)


@pytest.fixture(scope="module")
def scored(split, tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    for kind in ("render", "turned"):
        write_baseline(kind, split, root / kind, SIZE, FPS)
    (root / "turned" / "indoor_001.mkv").write_bytes(b"broken <b>")
    submissions = {kind: read_submission(root / kind, split) for kind in ("render", "turned")}
    return {kind: (score_folder(found, split, ORACLE), found) for kind, found in submissions.items()}


@pytest.fixture(scope="module")
def pages(scored, split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for kind, (sheet, submission) in scored.items():
        write_report(sheet, folder / kind, pick_strips(sheet, split, submission.videos, each=1))
    return folder


def test_the_page_stands_alone(pages):
    page = (pages / "turned" / "report.html").read_text()
    assert "<script" not in page and "<link" not in page and "@import" not in page
    assert not re.findall(r"(?:src|href)=(?!['\"]?(?:data:|#))", page)
    # Two protocols, PSNR and sharpness over time; a path a scene; six bars; two strips.
    assert page.count("<svg") == 4 + 3 + 6 and page.count("data:image/jpeg") == 2
    for words in ("Over time", "Paths from above", "By category", "Worst and best clips", "Quoted, not measured"):
        assert words in page


def test_curves_of_open_alignments_are_left_out(scored):
    sheet = copy.deepcopy(scored["turned"][0])
    names = [n for n in sheet["metrics"] if n.startswith("rot_err_deg@") and "mean" in sheet["metrics"][n]]
    assert names and not any(is_open(sheet, name) for name in names)
    drawn = curve_plots(sheet)
    for name in names:
        sheet["metrics"][name]["flagged"] = {"straight": sheet["metrics"][name]["n"]}
        assert is_open(sheet, name)
    assert len(curve_plots(sheet)) == len(drawn) - len(names)
    sheet["metrics"][names[1]]["flagged"] = {"straight": 1}
    assert not is_open(sheet, names[1])
    # Where one protocol has to stand for all, it is one whose alignment is known.
    assert one_of_each(sheet, names) == [names[1]]


def test_paths_are_drawn_with_what_the_estimator_makes_of_the_render(scored):
    sheet = copy.deepcopy(scored["turned"][0])
    plain = path_plots(sheet)
    for scene in sheet["scenes"].values():
        assert set(scene["paths"]["oracle"]) == {"estimate", "truth"}
        scene["paths"]["oracle"]["floor"] = [[x + 0.1, z] for x, z in scene["paths"]["oracle"]["truth"]]
    drawn = path_plots(sheet)
    assert len(drawn) == len(plain) and all("#8a8f98; stroke-width: 1.4" not in svg for svg in plain)
    assert all("stroke: #8a8f98; stroke-width: 1.4" in svg for svg in drawn)


def test_the_page_says_what_is_missing(pages):
    page = (pages / "turned" / "report.html").read_text()
    assert "Partial coverage: 3 of 4 scenes" in page and "nothing here is a headline number" in page
    assert "indoor_001" in page and "not a readable video" in page
    assert "rot_err_deg@pi3x" in page and "imaging_quality" in page and "vmaf" in page


def test_the_same_sheet_gives_the_same_files(scored, split, pages, tmp_path):
    sheet, submission = scored["render"]
    again = write_report(sheet, tmp_path, pick_strips(sheet, split, submission.videos, each=1))
    assert [p.name for p in again] == ["score.json", "scores.csv", "summary.md", "report.html"]
    for path in again:
        assert path.read_bytes() == (pages / "render" / path.name).read_bytes(), path.name
    assert read_sheet(tmp_path) == read_sheet(tmp_path / "score.json") == sheet


def test_the_csv_has_every_number_with_its_identity(pages, scored):
    rows = list(csv.DictReader(io.StringIO((pages / "turned" / "scores.csv").read_text())))
    assert tuple(rows[0]) == CSV_COLUMNS
    sheet = scored["turned"][0]
    for row in rows:
        if row["status"] == "ok":
            value = sheet["scenes"][row["scene"]]["values"][row["metric"]]
            assert float(row["value"]) == value and len(row["identity"]) == 12 and len(row["video_sha256"]) == 64
        else:
            assert row["reason"] and not row["value"]
    assert [r["scene"] for r in rows if r["status"] == "not scored"] == ["indoor_001"]
    assert {r["protocol"] for r in rows} == {"", "code-v1", "paper-sim3"}


def test_markdown_names_identities_and_reasons(pages):
    text = (pages / "turned" / "summary.md").read_text()
    assert text.startswith("# turned on box_60s") and "| rot_err_deg@code-v1/oracle |" in text
    assert "- rot_err_deg@pi3x:" in text and "- error unreadable indoor_001:" in text
    assert re.search(r"- rot_err_deg@code-v1/oracle: \w{12} = box_60s box:\w+, oracle 1, weights none", text)


def test_a_comparison_is_written_and_readable(scored, tmp_path):
    result = compare(scored["turned"][0], scored["render"][0])
    paths = write_comparison(result, tmp_path)
    assert json.loads(paths[0].read_text()) == result
    text = compare_table(result)
    assert "| rot_err_deg@code-v1/oracle |" in text and "| render |" in text and "Partial coverage" in text
    assert "Only 3 scenes are shared: the paired test cannot go below p = 0.25" in text
    page = paths[2].read_text()
    assert "Only 3 scenes" in page and "<svg" in page and "<script" not in page
    row = next(r for r in result["rows"] if r["metric"] == "ref_psnr_db")
    assert row["winner"] == "b" and row["n"] == 3 and row["low"] > 0


def test_names_from_outside_are_text_not_markup(scored, split, tmp_path):
    sheet, _ = scored["render"]
    evil = sheet | {"method": "<img src=x>", "findings": [
        {"level": "error", "scene": "indoor_001", "code": "bad", "message": "<script>alert(1)</script>"}]}  # fmt: skip
    write_report(evil, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "<img src=x" not in page and "&lt;script&gt;" in page


def test_without_a_clip_the_report_still_stands(split, tmp_path):
    (tmp_path / "videos").mkdir()
    sheet = score_folder(tmp_path / "videos", split, dataclasses.replace(ORACLE, estimators=("oracle",)))
    write_report(sheet, tmp_path / "out", pick_strips(sheet, split, {}))
    assert "Partial coverage: 0 of 4" in (tmp_path / "out" / "report.html").read_text()


def test_an_interval_is_drawn_on_its_side_of_zero():
    def ends(low, mean, high):
        drawn = interval_mark(low, mean, high, "red")
        a, b = re.search(r"M([\d.]+) 8H([\d.]+)", drawn).groups()
        return float(a), float(re.search(r"cx='([\d.]+)'", drawn).group(1)), float(b)

    assert ends(1.0, 2.0, 4.0) == (67.0, 79.0, 103.0)
    assert ends(-4.0, -2.0, -1.0) == (7.0, 31.0, 43.0)
    a, middle, b = ends(-1.0, 0.0, 0.5)
    assert a < middle == 55.0 < b
    assert ends(0.0, 0.0, 0.0) == (55.0, 55.0, 55.0) and interval_mark(None, 1.0, None, "red") == ""


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((1.1049, 0.9741, 1.2152), ("1.10", "0.97 to 1.22")),
        ((22.507, 21.48, 23.76), ("22.5", "21.5 to 23.8")),
        ((79.33, 56.33, 115.8), ("79", "56 to 116")),
        ((0.99190, 0.99121, 0.99263), ("0.9919", "0.9912 to 0.9926")),
        ((1.0, 1.0, 1.0), ("1.000", "1.000 to 1.000")),
        ((0.5, None, None), ("0.5000", "")),
        ((0.0, -2.0, 2.0), ("0.0", "-2.0 to 2.0")),
    ],
)
def test_numbers_have_the_decimals_that_their_interval_allows(values, texts):
    assert with_interval(*values) == texts


def test_a_floor_never_rounds_to_nothing():
    assert at_precision(0.0031, decimals_of(56.0, 116.0)) == "0.0031" and at_precision(0.0, 1) == "0.0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1e-7, "0"),
        (None, ""),
        (123.456, "123.5"),
        (3.14159, "3.142"),
        (0.012345, "0.0123"),
        (-41.7, "-41.70"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
