"""The bundled few-step world through the real commands: 65 frames in chunks, causal, saved and gone on with."""

import json
from pathlib import Path

import numpy as np
import pytest
from sana_wm_cli.main import app
from sana_wm_core.video import read_video
from typer.testing import CliRunner


def run(*arguments):
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def generate(name, action, *more):
    run("generate", "--model", "pocket-streaming", "--name", name, "--action", action, *more)
    return read_video(f"out/{name}_streaming.mp4")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_demo_streams_in_four_steps_and_a_later_turn_changes_nothing_before(here):
    straight = generate("straight", "w-64", "--save-state", "world.safetensors")
    turned = generate("turned", "w-40,jw-24")
    assert straight.shape == turned.shape == (65, 96, 160, 3)
    record = json.loads(Path("out/straight_streaming.json").read_text())
    assert record["used"]["denoising_step_list"] == [1000, 900, 750, 500, 0]
    assert Path("out/turned_contact_sheet.png").is_file()
    assert np.array_equal(straight[:41], turned[:41])
    late = np.abs(straight[49:].astype(float) - turned[49:]).mean()
    assert late > 8, late  # the camera that turns sees something else

    run("extend", "world.safetensors", "--model", "pocket-streaming", "--action", "lw-24", "--name", "on")
    assert len(read_video("out/on_streaming.mp4")) == 24


def test_another_step_list_is_refused_and_the_doctor_knows_the_name(here):
    arguments = ["generate", "--model", "pocket-streaming", "--denoising_step_list", "1000,500,0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "distilled for the steps 1000,900,750,500,0" in result.stderr
    assert "to fetch: nothing" in run("doctor", "--model", "pocket-streaming").stdout
