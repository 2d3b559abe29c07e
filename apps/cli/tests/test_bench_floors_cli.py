"""sana-wm bench floors on tiny renders: the table, its files, and wrong flags in one line."""

import json

import pytest
from sana_wm_cli.main import app
from typer.testing import CliRunner


def call(*arguments):
    return CliRunner().invoke(app, ["bench", "floors", *map(str, arguments)])


def test_oracle_and_pycolmap_stand_side_by_side(tmp_path):
    pytest.importorskip("pycolmap")
    pytest.importorskip("cv2")
    wanted = ["--split", "proc_simple_60s", "--scenes", "outdoor_city_002", "--seconds", "6", "--size", "96x160"]
    result = call(*wanted, "--every", "0.5", "--out", tmp_path / "floors", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    text = (tmp_path / "floors" / "floors.md").read_text()
    assert text.strip() in result.stdout and "simple outdoor_city_002 | s curve" in text
    record = json.loads((tmp_path / "floors" / "floors.json").read_text())
    oracle, colmap = record["floors"]
    assert record["size"] == [96, 160] and json.loads(result.stdout.splitlines()[-1]) == record
    assert oracle["estimator"] == "oracle" and oracle["rot_err_deg"] < 1e-5 and oracle["cpu_s"] == 0
    assert colmap["estimator"] == "pycolmap" and colmap["frames"] == 13 and colmap["registered"] >= 0.9
    assert 0 < colmap["rot_err_deg"] < 0.5 and colmap["trans_err_m"] < 0.1 * colmap["extent_m"]
    assert colmap["cpu_s"] > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--scenes", "indoor_003"], "--scenes indoor_003 names scenes of no split"),
        (["--split", "proc_easy_60s"], "proc_easy_60s"),
        (["--every", "9"], "--every is 9; allowed: 0.02 to half of --seconds 16"),
        (["--size", "9x9"], "--size is '9x9'"),
        (["--seconds", "90", "--every", "1"], "seconds is 90; allowed: 1 to 60"),
        (["--estimator", "eyes"], "estimator is 'eyes'"),
    ],
)
def test_wrong_flags_are_one_line(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*flags)
    assert result.exit_code == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_estimator_that_cannot_run_is_exit_code_4(tmp_path):
    result = call("--estimator", "pi3", "--out", tmp_path / "floors")
    assert result.exit_code == 4 and "unavailable: pi3 needs its package" in result.output
    assert not (tmp_path / "floors").exists()
