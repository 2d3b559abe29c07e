"""The sana-wm command. It registers the sub-commands and nothing else; none is imported before it is called."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from sana_wm_cli.errors import one_line_errors


class SubCommand(NamedTuple):
    """Where a sub-command lives; its module holds a Typer `app`."""

    module: str
    help: str


COMMANDS = {
    "generate": SubCommand("sana_wm_cli.generate", "Make a video from a picture, a caption and a camera path."),
    "extend": SubCommand("sana_wm_cli.extend", "Go on with a saved world: more keys, another branch, another caption."),
    "camera": SubCommand("sana_wm_cli.camera", "Plan, check, convert and draw camera paths."),
    "data": SubCommand("sana_wm_cli.data", "Render procedural worlds, encode clips to latents."),
    "annotate": SubCommand("sana_wm_cli.annotate", "Find cameras, lenses and scores in ordinary video, for training."),
    "train": SubCommand("sana_wm_cli.train", "Train the pocket codec and world models, resumable."),
    "doctor": SubCommand("sana_wm_cli.doctor", "Say what this machine can run, what is missing and what it takes."),
    "fetch": SubCommand("sana_wm_cli.fetch", "Download a released model, going on where an earlier try stopped."),
    "convert": SubCommand("sana_wm_cli.convert", "Turn a model folder from NVlabs' layout to diffusers' and back."),
    "quantize": SubCommand("sana_wm_cli.quantize", "Write a smaller copy of a model folder."),
    "bench": SubCommand("sana_wm_cli.bench", "Measure a model and print the table."),
}


class LazyCommands(TyperGroup):
    """A command group that lists its commands without importing them, so that --help is instant."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the sub-commands that are installed."""
        return [name for name, command in COMMANDS.items() if importlib.util.find_spec(command.module)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a sub-command; while help is printed, give a stand-in with its help line."""
        if cmd_name not in self.list_commands(ctx):
            return None
        if self._listing:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name].help)
        module = importlib.import_module(COMMANDS[cmd_name].module)
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print help from the table above."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def invoke(self, ctx: Any) -> Any:
        """Run a sub-command; expected failures become one line."""
        with one_line_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fly a camera through a world that starts from one picture.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sana-wm {version('sana-wm')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fly a camera through a world that starts from one picture."""


def run() -> None:
    """Entry point of the sana-wm command."""
    app()
