"""The committed uv.lock names no package index, and stripping keeps every decision of the resolver."""

import importlib.util
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

_spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
assert _spec is not None and _spec.loader is not None
lock = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lock)

INDEX = "https" + "://index.example/simple"
MARKER = "python_full_version < '3.12'"
FULL = f"""version = 1
revision = 5
requires-python = ">=3.11"

[options]
exclude-newer = "2026-01-01T00:00:00Z"

[manifest]
members = [
    "app",
]

[[package]]
name = "app"
version = "0.1.0"
source = {{ editable = "apps/app" }}
dependencies = [
    {{ name = "numpy", version = "2.4.6", source = {{ registry = "{INDEX}" }}, marker = "{MARKER}" }},
    {{ name = "urllib3" }},
]

[package.optional-dependencies]
torch = [
    {{ name = "urllib3" }},
]

[package.metadata]
requires-dist = [
    {{ name = "urllib3", specifier = ">=2" }},
]
provides-extras = ["torch"]

[package.metadata.requires-dev]
dev = [{{ name = "urllib3" }}]

[[package]]
name = "urllib3"
version = "2.8.0"
source = {{ registry = "{INDEX}" }}
sdist = {{ url = "{INDEX}/urllib3-2.8.0.tar.gz", hash = "sha256:00" }}
wheels = [
    {{ url = "{INDEX}/urllib3-2.8.0-py3-none-any.whl", hash = "sha256:11" }},
    {{ url = "{INDEX}/urllib3-2.8.0-cp311.whl", hash = "sha256:22" }},
]

[[package]]
name = "zipp"
version = "4.1.2"
source = {{ registry = "../wheels" }}
wheels = [
    {{ path = "zipp-4.1.2-py3-none-any.whl" }},
]
"""


def test_strip_removes_every_trace_of_an_index() -> None:
    text = lock.strip(FULL)
    assert lock.foreign_lines(text) == []
    for word in ("http", "example", "hash", "wheels", "metadata", "../"):
        assert word not in text


def test_strip_keeps_versions_graph_and_markers() -> None:
    before, after = tomllib.loads(FULL), tomllib.loads(lock.strip(FULL))
    assert [(p["name"], p["version"]) for p in after["package"]] == [
        (p["name"], p["version"]) for p in before["package"]
    ]
    app = after["package"][0]
    assert app["source"] == {"editable": "apps/app"}
    assert app["optional-dependencies"] == {"torch": [{"name": "urllib3"}]}
    assert app["dependencies"][0]["marker"] == MARKER
    assert app["dependencies"][0]["source"] == {"registry": "."}
    assert after["manifest"] == before["manifest"]


def test_strip_twice_is_strip_once() -> None:
    assert lock.strip(lock.strip(FULL)) == lock.strip(FULL)


@pytest.mark.parametrize(
    "piece", [f'source = {{ registry = "{INDEX}" }}', 'sdist = { path = "a" }', "[package.metadata]"]
)
def test_check_names_what_does_not_belong(piece: str) -> None:
    found = lock.foreign_lines(lock.strip(FULL) + piece + "\n")
    assert len(found) == 1 and piece in found[0]


def test_committed_lock_is_index_free() -> None:
    shown = subprocess.run(["git", "show", "HEAD:uv.lock"], cwd=ROOT, capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip("no git history here (an unpacked archive)")
    assert lock.foreign_lines(shown.stdout) == []
    assert lock.strip(shown.stdout) == shown.stdout


def test_unknown_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert lock.main(["tidy"]) == 2
    assert "strip" in capsys.readouterr().err
