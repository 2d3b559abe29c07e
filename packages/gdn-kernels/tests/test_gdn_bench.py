"""The bench scripts run: both sides agree forward and backward, and the GPU script tests itself without a GPU."""

import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("diffusers.models.transformers.transformer_sana_wm")
    monkeypatch.syspath_prepend(str(BENCH))
    names = ("frame_gdn", "gpu", "peer", "sizes")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import frame_gdn
    import gpu
    import torch

    threads = torch.get_num_threads()
    yield frame_gdn, gpu
    torch.set_num_threads(threads)
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("backward", [False, True])
def test_beside_diffusers(scripts, backward: bool, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--repeats", "1", "--threads", "1", "--no-peak", *(["--backward"] if backward else [])]
    scripts[0].main(options)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["branch"] for row in rows] == ["main", "camera"]
    for row in rows:
        assert 0 < row["error"] < 2e-5 and row["ours_ms"] > 0 and row["diffusers_ms"] > 0
        assert row["pass"] == ("backward" if backward else "forward")


def test_gpu_script_at_the_tiny_size(scripts, capsys: pytest.CaptureFixture[str]) -> None:
    scripts[1].main(["--size", "tiny", "--batch", "1", "--dtype", "fp32", "--repeats", "1"])
    about, errors, *rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert about["copy_tb_s"] > 0 and errors["main_error"] < 1e-6
    timed = {row["what"] for row in rows}
    assert {"summary", "scan", "readout", "main forward", "main backward", "composition"} <= timed
    assert all(row["ms"] > 0 for row in rows)
    if about["device"] != "cpu" and "driver" not in about:
        with pytest.raises(SystemExit):
            scripts[1].main(["--tune"])
