"""The Triton kernels without a GPU: right in the interpreter, and free of spills when compiled for one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

KERNEL_TESTS = Path(__file__).with_name("interpreted_kernels.py")


def test_kernels_equal_the_definition_in_the_interpreter() -> None:
    # Triton reads the variable when it is imported, so a process of their own.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--show-capture=no", KERNEL_TESTS]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout and "skipped" not in ended.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return os.environ | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}


def test_no_kernel_spills_on_sm_90(cache: dict[str, str]) -> None:
    command = [sys.executable, "-m", "gdn_kernels.frame_gdn.fused.resources", "--arch", "90", "--precision", "bf16"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True, env=cache)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert row["spill_bytes"] == 0, row
        assert row["shared_kib"] <= 227, row
        assert row["products"] > 0, row  # on tensor cores
