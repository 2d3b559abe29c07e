"""Context parallel over gloo: results and gradients of 2 and 4 processes are those of one; bad calls are refused."""

import subprocess
import sys
from pathlib import Path

import gdn_cases as cases
import pytest
from gdn_kernels import frame_gdn_cp

WORKER = Path(__file__).with_name("context_parallel_worker.py")


@pytest.mark.skipif(sys.platform == "win32", reason="forks processes")
def test_processes_agree_with_one() -> None:
    ended = subprocess.run([sys.executable, WORKER], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines() == ["2 processes agree with one", "4 processes agree with one"]


def test_without_processes_it_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="call init_process_group first"):
        frame_gdn_cp(**cases.inputs(1, 2, 3, 5, 8))
