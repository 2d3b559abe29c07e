"""What the documents tell people to type exists: commands parse, links lead somewhere, and the cheap ones run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "LICENSES.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("packages/*/README.md")),
    *sorted(ROOT.glob("apps/*/README.md")),
]
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
SHORTHANDS = {
    "core": "packages/sana-wm-core/src/sana_wm_core",
    "gdn": "packages/gdn-kernels/src/gdn_kernels",
    "camera": "packages/camera-control/src/camera_control",
    "worlds": "packages/wm-bench/src/wm_bench/worlds",
}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _fenced(markdown: str) -> list[str]:
    return [line for block in re.findall(r"^```\w*\n(.*?)^```", markdown, re.M | re.S) for line in block.splitlines()]


def _commands() -> list[str]:
    """Return every `sana-wm ...` line of the README's code blocks and of runs/*.sh, continued lines joined."""
    lines = []
    for path in (ROOT / "README.md", *SCRIPTS):
        text = path.read_text().replace("\\\n", " ")
        # A script may give the program a short name: go() { uv run sana-wm "$@"; }
        for name in re.findall(r"^(\w+)\(\) \{ .*\bsana-wm \"\$@\"; \}$", text, re.M):
            text = re.sub(rf"^(\s*){name} ", r"\1sana-wm ", text, flags=re.M)
        for line in _fenced(text) if path.suffix == ".md" else text.splitlines():
            found = re.match(r"\s*(?:exec |time |nice (?:-n \d+ )?)*(?:uv run )?(sana-wm\b[^|;&>]*)", line)
            if found:
                lines.append(found.group(1).strip())
    return sorted(set(lines))


def _sana_wm(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("sana-wm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert program, "sana-wm is not installed: run `uv sync`"
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        [program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


@cache
def _help(words: tuple[str, ...]) -> str:
    result = _sana_wm(*words, "--help")
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("command", _commands())
def test_documented_command_parses(command: str) -> None:
    """The sub-command has a help page, and every option of the line is on it."""
    words = shlex.split(command, comments=True)[1:]
    # Sub-commands come first; a group's help lists its commands as 'name  what it does'.
    path: list[str] = []
    while words and re.fullmatch(r"[a-z]+", words[0]) and re.search(rf"^\W*{words[0]}\s", _help(tuple(path)), re.M):
        path.append(words.pop(0))
    assert path or words[0].startswith("--"), f"no such command: {command}"
    shown = _help(tuple(path))
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--"):
            assert re.search(rf"{re.escape(option)}(?![\w-])", shown), f"{option} is not an option of {' '.join(path)}"


def test_the_two_lines_of_the_readme_are_the_two_that_ci_runs() -> None:
    lines = [line.partition("#")[0].strip() for line in _fenced((ROOT / "README.md").read_text())]
    assert "uv run sana-wm generate" in lines and "uv run pytest" in lines
    assert re.search(r"run pytest\b", (ROOT / ".ci" / "run").read_text())


def test_first_minute_runs(tmp_path: Path) -> None:
    """The script a newcomer may try without weights: it ends well and leaves its pictures."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        ["bash", str(ROOT / "runs" / "first_minute.sh")],
        env={**os.environ, "OUT": str(tmp_path), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "first_minute" / "path.png").stat().st_size > 1000


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_scripts_are_valid_and_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", [ROOT / "README.md", ROOT / "docs" / "map.md"], ids=_name)
def test_named_files_exist(document: Path) -> None:
    """Every path in backticks is a file or folder of this repository, shorthands of the map included."""
    missing = []
    for quoted in re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?)`", document.read_text()):
        if quoted.startswith("out/"):
            continue
        head, _, rest = quoted.partition("/")
        path = f"{SHORTHANDS[head]}/{rest}" if head in SHORTHANDS else quoted
        if not (ROOT / path).exists():
            missing.append(quoted)
    assert not missing
