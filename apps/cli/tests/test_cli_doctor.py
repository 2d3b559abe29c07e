"""sana-wm doctor, fetch and convert: what they say, and that they neither load nor download before they say it."""

import json

import pytest
from sana_wm_cli.main import app
from typer.testing import CliRunner


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def refused(result, *words):
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stderr.count("error: ") == 1
    for word in words:
        assert word.lower() in result.stderr.lower(), (word, result.stderr)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """A machine without models and without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def unreachable(*arguments, **more):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)


def test_the_pocket_world_needs_nothing():
    result = run("doctor")
    assert result.exit_code == 0, result.output
    for word in ("machine", "recurrence", "torch", "Apache-2.0", "to fetch: nothing", "GB free"):
        assert word in result.stdout, word
    report = json.loads(run("doctor", "--json").stdout)
    assert report["model"]["to fetch"] == "nothing" and report["versions"]["torch"] != "not installed"
    assert report["kernels"]["recurrence"]


@pytest.mark.parametrize(
    "model, total", [("bidirectional", "101 GB"), ("SANA-WM_chunk_causal", "101 GB"), ("streaming", "91 GB")]
)
def test_a_released_model_is_priced_before_it_is_fetched(model, total):
    result = run("doctor", "--model", model)
    assert result.exit_code == 0, result.output
    assert total in result.stdout and "missing" in result.stdout and "LTX-2 Community License" in result.stdout
    assert "Gemma terms" in result.stdout and "published" in result.stdout
    small = run("doctor", "--model", model, "--no-refiner").stdout
    assert "Gemma-3" not in small and total not in small


def test_a_damaged_folder_is_diagnosed(tmp_path):
    folder = tmp_path / "model"
    (folder / "dit").mkdir(parents=True)
    (folder / "config.yaml").write_text("scheduler: {}\n")
    (folder / "dit" / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    out = run("doctor", "--model", folder).stdout
    assert "nvlabs layout" in out and "dit/x.safetensors" in out
    refused(run("doctor", "--model", tmp_path), "no model")
    refused(run("doctor", "--model", "nothing/there"), "not a released model", "streaming")


def test_fetch_says_what_will_come_and_what_went_wrong(tmp_path, monkeypatch):
    import shutil

    plan = run("fetch", "streaming", "--dry-run", "--no-refiner")
    assert plan.exit_code == 0 and "7 GB" in plan.stdout and "to fetch" in plan.stdout
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
    refused(run("fetch", "bidirectional"), "no route to host", "goes on from here")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**9))
    refused(run("fetch", "bidirectional"), "1 GB free", "101 GB", "--no-refiner")
    refused(run("fetch", "everything"), "not a released model")


def test_fetch_goes_on_after_ctrl_c(monkeypatch):
    calls = []

    def stop(repository, allow_patterns):
        calls.append(repository)
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.snapshot_download", stop)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**15})())
    result = run("fetch", "diffusers")
    assert result.exit_code == 130 and "goes on from here" in result.stderr and len(calls) == 1


def test_convert_says_what_is_wrong(tmp_path):
    refused(run("convert", tmp_path / "absent", tmp_path / "x"), "no such folder")
    refused(run("convert", tmp_path, tmp_path / "x"), "no model in this folder")
