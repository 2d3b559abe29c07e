"""Keep the committed uv.lock free of any package index.

    python scripts/lock.py strip    rewrite uv.lock in the committed form
    python scripts/lock.py check    exit 1, naming the first lines that do not belong, unless uv.lock has that form
    python scripts/lock.py same     exit 1 unless uv.lock holds the versions that HEAD's uv.lock holds

The committed form keeps what a resolution decided (packages, versions, the graph, markers) and drops where the
files came from (index, URLs, hashes) and the copy of our own requirements. uv takes such a file as its preferred
versions: the first `uv sync` or `uv run` resolves to the same versions through whatever index the user has and
fills the rest in, in the working copy only. Run `strip` before a commit.
"""

import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "uv.lock"
NOWHERE = '{ registry = "." }'

_REGISTRY = re.compile(r"\{ registry = \"[^\"]*\" \}")
_FILES = re.compile(r"^(?:sdist = \{.*\}|wheels = \[\n(?:[ ].*\n)*\])\n", re.MULTILINE)
_FOREIGN = re.compile(r"https?://|\burl = |\bhash = |^(?:sdist|wheels) = |^\[package\.metadata|^\[options\]")


def strip(text: str) -> str:
    """Return the lock text in its committed form; a text already in that form comes back unchanged."""
    text = _FILES.sub("", text)
    text = _REGISTRY.sub(NOWHERE, text)
    kept, dropping = [], False
    for line in text.splitlines():
        if line.startswith("["):
            dropping = line.startswith(("[package.metadata", "[options"))
        if not dropping:
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n") + "\n"


def foreign_lines(text: str) -> list[str]:
    """Return the lines that may not be committed, as 'line number: text'."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        elsewhere = any(match != NOWHERE for match in _REGISTRY.findall(line))
        if elsewhere or _FOREIGN.search(line):
            found.append(f"{number}: {line[:100]}")
    return found


def _committed() -> str:
    return subprocess.run(
        ["git", "show", "HEAD:uv.lock"], cwd=LOCK.parent, check=True, capture_output=True, text=True
    ).stdout


def main(arguments: list[str]) -> int:
    """Run one command; the exit code is 0 when all is well, 1 when a check failed, 2 for a wrong call."""
    if arguments == ["strip"]:
        LOCK.write_text(strip(LOCK.read_text()))
        return 0
    if arguments == ["check"]:
        found = foreign_lines(LOCK.read_text())
        for line in found[:3]:
            print(f"uv.lock:{line}", file=sys.stderr)
        if found:
            print(f"{len(found)} lines name where files came from: run `python scripts/lock.py strip`", file=sys.stderr)
        return 1 if found else 0
    if arguments == ["same"]:
        if strip(LOCK.read_text()) == strip(_committed()):
            return 0
        print("uv.lock has other versions than HEAD: run `git diff uv.lock` after `strip`", file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
