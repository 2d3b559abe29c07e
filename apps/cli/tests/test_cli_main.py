"""The command itself: instant help, lazy sub-commands, one-line errors."""

import errno
import os
import subprocess
import sys

import pytest
from pydantic import BaseModel, ConfigDict
from sana_wm_cli import main
from sana_wm_cli.errors import describe, one_line_errors
from typer.testing import CliRunner

_HEAVY = ("torch", "numpy", "diffusers", "transformers", "PIL", "av")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(flag):
    code = (
        "import sys\nfrom sana_wm_cli.main import run\nsys.argv = ['sana-wm', sys.argv[1]]\n"
        f"try:\n    run()\nfinally:\n    print([m for m in {_HEAVY} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, check=True).stdout
    assert out.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_are_instant(flag):
    code = "import sys; sys.argv = ['sana-wm', sys.argv[1]]; from sana_wm_cli.main import run; run()"
    # As users have it: the first run leaves bytecode for the others.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", code, flag], capture_output=True, check=True, env=environment)
        after = os.times()
        # Processor time, so that a busy machine does not count against it; on a quiet one it is the wall time.
        seconds.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert min(seconds) < 0.5, seconds


def test_every_listed_command_has_help_of_its_own():
    listed = main.LazyCommands(name="sana-wm").list_commands(None)
    assert "generate" in listed
    help_text = CliRunner().invoke(main.app, ["--help"], env={"COLUMNS": "120"}).output
    for name in listed:
        assert main.COMMANDS[name].help in help_text
        result = CliRunner().invoke(main.app, [name, "--help"])
        assert result.exit_code == 0 and "Usage" in result.output, name


def test_unknown_commands_and_flags_exit_with_2():
    for arguments in (["fly"], ["generate", "--nonsense"], ["generate", "--num_frames", "many"]):
        assert CliRunner().invoke(main.app, arguments).exit_code == 2


class Toy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int = 3


def test_errors_become_one_line():
    full = OSError(errno.ENOSPC, "No space left on device", "out/x.mp4")
    assert "disk is full" in describe(full) and "out/x.mp4" in describe(full)
    assert "permission" in describe(PermissionError(errno.EACCES, "Permission denied", "locked"))
    assert "gone.png" in describe(FileNotFoundError(errno.ENOENT, "No such file or directory", "gone.png"))
    assert describe(ValueError("two\n  lines")) == "two lines"
    assert "memory" in describe(MemoryError())
    with pytest.raises(ValueError) as caught:
        Toy.model_validate({"stepz": 4})
    assert describe(caught.value) == "Toy: stepz: Extra inputs are not permitted"


def test_a_reader_that_leaves_early_is_no_mistake(capsys):
    with pytest.raises(BrokenPipeError), one_line_errors():  # click then ends quietly
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert capsys.readouterr().err == ""
