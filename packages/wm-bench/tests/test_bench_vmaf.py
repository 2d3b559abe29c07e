"""VMAF's adapter against a stand-in ffmpeg that looks at what it is given."""

import sys

import pytest
from wm_bench.baselines import write_baseline
from wm_bench.cache import Cache
from wm_bench.estimators import Unavailable
from wm_bench.metrics.vmaf import Vmaf
from wm_bench.scoring import Options, score_folder

# 100 minus the mean difference of the two videos it is asked to compare.
FAKE = """
import json, pathlib, sys
words = sys.argv[1:]
if "-filters" in words:
    print(" ... libvmaf           VV->V      Calculate the VMAF between two video streams.")
elif "-version" in words:
    print("ffmpeg version 9.0-fake")
else:
    import av, numpy as np
    files = [words[i + 1] for i, word in enumerate(words) if word == "-i"]
    assert files == ["shown.mkv", "true.mkv"], words
    assert "log_path=vmaf.json" in words[words.index("-lavfi") + 1]
    shown, true = ([f.to_ndarray(format="rgb24").astype(int) for f in av.open(name).decode(video=0)] for name in files)
    assert len(shown) == len(true)
    value = 100 - float(np.abs(np.stack(shown) - np.stack(true)).mean())
    pathlib.Path("vmaf.json").write_text(json.dumps({"pooled_metrics": {"vmaf": {"mean": value}}}))
"""


def program(tmp_path, text):
    script = tmp_path / "ffmpeg.py"
    script.write_text(text)
    path = tmp_path / "ffmpeg"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    path.chmod(0o755)
    return path


def test_every_frame_meets_the_render_of_its_own_instant(box_split, tmp_path):
    split = box_split(1, 2.0)
    ffmpeg = program(tmp_path, FAKE)
    options = Options(estimators=(), ffmpeg=ffmpeg)
    for kind in ("render", "blur"):
        write_baseline(kind, split, tmp_path / kind, (36, 64), 8.0)
    render = score_folder(tmp_path / "render", split, options, Cache(tmp_path / "cache"))["metrics"]["vmaf"]
    assert render["mean"] == 100 and render["identity"]["backend_version"] == "ffmpeg version 9.0-fake"
    blur = score_folder(tmp_path / "blur", split, options)["metrics"]["vmaf"]
    assert 50 < blur["mean"] < 99.9
    # Kept by content: the program is not asked again.
    (tmp_path / "ffmpeg.py").write_text(FAKE.replace("100 - float", "0 - float"))
    again = score_folder(tmp_path / "render", split, options, Cache(tmp_path / "cache"))["metrics"]["vmaf"]
    assert again == render


def test_without_libvmaf_it_is_absent_with_a_reason(box_split, tmp_path):
    with pytest.raises(Unavailable, match="--ffmpeg"):
        Vmaf(None)
    with pytest.raises(Unavailable, match="no libvmaf"):
        Vmaf(program(tmp_path, "print('nothing')"))
    with pytest.raises(Unavailable, match="exit code 3"):
        Vmaf(program(tmp_path, "raise SystemExit(3)"))
    with pytest.raises(Unavailable, match="cannot be run"):
        Vmaf(tmp_path / "none")
    split = box_split(1, 2.0)
    (tmp_path / "videos").mkdir()
    sheet = score_folder(tmp_path / "videos", split, Options(estimators=(), ffmpeg=tmp_path / "none"))
    assert sheet["metrics"]["vmaf"]["status"] == "unavailable" and "cannot be run" in sheet["metrics"]["vmaf"]["reason"]
