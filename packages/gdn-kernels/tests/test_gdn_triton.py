"""The Triton kernels without a GPU: right in the interpreter, and free of spills when compiled for one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gdn_kernels.frame_gdn.fused import table
from gdn_kernels.frame_gdn.fused.table import KERNELS

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


# tf32 has float32's launches and tiles; the two kernels with most sums are enough here. Every entry, everywhere:
# python -m gdn_kernels.frame_gdn.fused.resources
COMPILED = {("bf16", "fp32"): KERNELS, ("tf32",): ("summary", "summary_backward")}


@pytest.mark.parametrize("precisions", COMPILED, ids=" ".join)
def test_no_kernel_spills_on_sm_90(precisions: tuple[str, ...], cache: dict[str, str]) -> None:
    kernels = COMPILED[precisions]
    words = ["--arch", "90", "--precision", *precisions, "--kernel", *kernels]
    command = [sys.executable, "-m", "gdn_kernels.frame_gdn.fused.resources", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True, env=cache)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(row["precision"], row["kernel"]) for row in rows] == [(p, k) for p in precisions for k in kernels]
    for row in rows:
        assert row["spill_bytes"] == 0, row
        assert row["shared_kib"] <= 227, row
        assert row["products"] > 0, row  # on tensor cores


def test_every_architecture_is_in_the_table(cache: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gdn_kernels.frame_gdn.fused.resources", "--kernel", "readout", "--precision", "bf16"],
        capture_output=True, text=True, timeout=900, check=True, env=cache,
    )  # fmt: skip
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["arch"] for row in rows] == [80, 90, 100, 120] and all(row["products"] for row in rows)


@pytest.mark.parametrize(("capability", "row"), [(75, 80), (86, 80), (90, 90), (100, 90), (120, 120)])
def test_a_device_takes_the_newest_row_it_can(capability: int, row: int) -> None:
    for precision in ("bf16", "tf32", "fp32"):
        assert table.entries(capability, precision) is table.TABLE[row][precision]
        assert table.launch("scan", capability, precision) == table.TABLE[row][precision]["scan"]
