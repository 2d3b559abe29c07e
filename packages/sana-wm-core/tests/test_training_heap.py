"""Freed memory is taken again, not fetched from the kernel page by page."""

import subprocess
import sys

import pytest

SOURCE = """
import resource, sys
from sana_wm_core.training.heap import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else "left")
def take():
    return len(bytes(48 << 20).replace(b"\\0", b"\\1"))
take(), take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_fetched(how):
    done = subprocess.run([sys.executable, "-c", SOURCE, how], capture_output=True, text=True, check=True)
    said, count = done.stdout.split()
    return said, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a switch of glibc")
def test_memory_that_was_freed_is_not_fetched_again():
    said, count = pages_fetched("keep")
    if said == "False":
        pytest.skip("a C library without the switch")
    assert said == "True"
    assert count < pages_fetched("left")[1] / 10
