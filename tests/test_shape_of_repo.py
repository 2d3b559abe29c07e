"""The layout of the workspace as tests: who may import whom, how long a file may be, what every member brings."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = sorted(p.parent for pattern in ("packages/*", "apps/*") for p in ROOT.glob(f"{pattern}/pyproject.toml"))
MEMBER_IDS = [p.name for p in MEMBERS]
MAX_LINES = 400

ALLOWED_SIBLINGS = {
    "gdn-kernels": set(),
    "camera-control": set(),
    "sana-wm-core": {"gdn-kernels", "camera-control"},
    "sana-wm-refiner": {"camera-control"},
    "pose-annotation": {"camera-control"},
    "wm-bench": {"camera-control"},
    "sana-wm": {"gdn-kernels", "camera-control", "sana-wm-core", "sana-wm-refiner", "pose-annotation", "wm-bench"},
}
# Distributions whose import name is not the name with underscores.
IMPORT_NAMES = {"PyYAML": "yaml", "pyyaml": "yaml", "pillow": "PIL", "opencv-python-headless": "cv2"}
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "stuff"}


def project(member: Path) -> dict:
    return tomllib.loads((member / "pyproject.toml").read_text())["project"]


def source(member: Path) -> Path:
    (package,) = [p for p in (member / "src").iterdir() if (p / "__init__.py").exists()]
    return package


def names(requirements: list[str]) -> set[str]:
    return {match.group() for r in requirements if (match := re.match(r"[A-Za-z0-9._-]+", r))}


def import_name(distribution: str) -> str:
    return IMPORT_NAMES.get(distribution, distribution.replace("-", "_"))


def imported(path: Path) -> set[str]:
    """Return the top-level modules that a file imports anywhere, inside functions too; relative imports left out."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


@cache
def tracked() -> tuple[Path, ...]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git history here (an unpacked archive)")
    return tuple(ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


PACKAGE_OF = {project(m)["name"]: source(m).name for m in MEMBERS}
NAME_OF = {package: name for name, package in PACKAGE_OF.items()}


def test_the_seven_members_are_here() -> None:
    assert set(PACKAGE_OF) == set(ALLOWED_SIBLINGS)


@pytest.mark.parametrize("member", MEMBERS, ids=MEMBER_IDS)
def test_declared_dependencies_follow_the_arrows(member: Path) -> None:
    meta = project(member)
    extras = [r for group in meta.get("optional-dependencies", {}).values() for r in group]
    siblings = names(meta["dependencies"] + extras) & set(ALLOWED_SIBLINGS)
    assert siblings <= ALLOWED_SIBLINGS[meta["name"]]


@pytest.mark.parametrize("member", MEMBERS, ids=MEMBER_IDS)
def test_imports_follow_the_arrows(member: Path) -> None:
    own = project(member)["name"]
    allowed = {PACKAGE_OF[name] for name in ALLOWED_SIBLINGS[own]} | {PACKAGE_OF[own]}
    for path in source(member).rglob("*.py"):
        strangers = (imported(path) & set(NAME_OF)) - allowed
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


@pytest.mark.parametrize("member", MEMBERS, ids=MEMBER_IDS)
def test_every_import_is_declared(member: Path) -> None:
    meta = project(member)
    extras = [r for group in meta.get("optional-dependencies", {}).values() for r in group]
    declared = {import_name(name) for name in names(meta["dependencies"] + extras)}
    declared |= {PACKAGE_OF[name] for name in names(meta["dependencies"] + extras) & set(PACKAGE_OF)}
    known = declared | set(sys.stdlib_module_names) | {source(member).name}
    for path in source(member).rglob("*.py"):
        undeclared = imported(path) - known
        assert not undeclared, f"{path.relative_to(ROOT)} imports {sorted(undeclared)}, not in its pyproject.toml"


@pytest.mark.parametrize("member", MEMBERS, ids=MEMBER_IDS)
def test_a_member_is_complete(member: Path) -> None:
    meta = project(member)
    for name in ("README.md", "LICENSE"):
        assert (member / name).is_file(), name
    assert (member / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (source(member) / "py.typed").is_file()
    assert list((member / "tests").rglob("test_*.py")), "no tests"
    assert re.fullmatch(r"\d+\.\d+\.\d+", meta["version"])
    assert meta["license"] == "Apache-2.0"
    heading = (member / "README.md").read_text().splitlines()[0]
    assert heading == f"# {meta['name']}"


@pytest.mark.parametrize("member", MEMBERS, ids=MEMBER_IDS)
def test_modules_are_short(member: Path) -> None:
    sizes = {p.relative_to(ROOT): len(p.read_text().splitlines()) for p in source(member).rglob("*.py")}
    assert not {str(path): lines for path, lines in sizes.items() if lines > MAX_LINES}


@pytest.mark.parametrize("member", MEMBERS, ids=MEMBER_IDS)
def test_modules_say_what_they_hold(member: Path) -> None:
    stems = {p.stem for p in source(member).rglob("*.py")} | {p.name for p in source(member).rglob("*") if p.is_dir()}
    assert not stems & EMPTY_NAMES


def test_the_recurrence_has_its_definition_its_fast_form_and_its_derivation() -> None:
    op = ROOT / "packages/gdn-kernels/src/gdn_kernels/frame_gdn"
    for name in ("README.md", "reference.py", "chunked.py"):
        assert (op / name).is_file(), name


def test_test_files_have_names_of_their_own() -> None:
    stems = [p.name for p in tracked() if p.name.startswith("test_") and p.suffix == ".py"]
    assert len(stems) == len(set(stems))


# Spelled in pieces, so that this file does not trip over itself.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(
        r"(?<![A-Za-z0-9_.])/(?:" + "|".join(("work", "farm", "root")) + r")/\w"
    ),
    "a registry host": re.compile(
        "|".join((r"pypi" + r"\.org", r"python" + r"hosted\.org", r"https?://\S+/simp" + "le"))
    ),
}


@pytest.mark.parametrize("what", list(FORBIDDEN))
def test_no_tracked_file_names(what: str) -> None:
    found = []
    for path in tracked():
        # uv refills the working copy of its lock; test_lock.py looks at the committed one.
        if path.name == "uv.lock" or path.stat().st_size > 2_000_000:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in FORBIDDEN[what].finditer(text)]
    assert not found


def test_root_settings_stay_short() -> None:
    assert len((ROOT / "pyproject.toml").read_text().splitlines()) < 120


def test_nothing_unpickles() -> None:
    unsafe = re.compile(
        r"\bimport pickle\b|allow_pickle\s*=\s*True|weights_only\s*=\s*False|trust_remote_code\s*=\s*True"
    )
    sources = [p for member in MEMBERS for p in source(member).rglob("*.py")]
    assert not [str(p.relative_to(ROOT)) for p in sources if unsafe.search(p.read_text())]
