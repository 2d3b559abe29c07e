"""`sana-wm camera`: plan a path, check it, convert it, draw it. No GPU, no weights, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from camera_control.trajectory import Trajectory

app = typer.Typer(no_args_is_help=True, help="Plan, check, convert and draw camera paths (CPU only, no weights).")

_DIALECTS = "sana-v1, sana-v2, diffusers, sglang, worldplay"
_FORMATS = "npy, npz, tum, nerfstudio, colmap"

Dialect = Annotated[str, typer.Option("--dialect", help=f"Meaning of the keys: {_DIALECTS}.")]
MoveSpeed = Annotated[
    float | None,
    typer.Option("--translation-speed", "--translation_speed", help="World units per frame; left out, the dialect's."),
]
TurnSpeed = Annotated[
    float | None,
    typer.Option("--rotation-speed-deg", "--rotation_speed_deg", help="Degrees per frame; left out, the dialect's."),
]
Smooth = Annotated[
    bool | None, typer.Option("--smooth/--no-smooth", help="Inertia on or off; left out, the dialect's.")
]
Lens = Annotated[Path | None, typer.Option("--intrinsics", help=".npy: (4,), (3,3), (F,4) or (F,3,3) in pixels.")]
Size = Annotated[str | None, typer.Option("--size", help="Height x width of the picture in pixels, such as 704x1280.")]
Fov = Annotated[float | None, typer.Option("--fov-deg", help="Horizontal field of view in degrees; needs --size.")]
Fps = Annotated[float | None, typer.Option("--fps", help="Frames per second; left out, the file's or 16.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON line instead of text.")]


@app.command()
def plan(
    action: Annotated[str | None, typer.Argument(help="Action string, such as 'w-80,jw-40,none-20'.")] = None,
    out: Annotated[
        Path, typer.Option("--out", help="File to write: .npz, .npy, .txt (TUM), .json, or a folder.")
    ] = Path("path.npz"),
    family: Annotated[
        str | None, typer.Option("--family", help="Instead of an action: orbit, spiral, dolly or fly-through.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter of the family, such as radius=3; repeat for more.")
    ] = None,
    dialect: Dialect = "sana-v1",
    translation_speed: MoveSpeed = None,
    rotation_speed_deg: TurnSpeed = None,
    smooth: Smooth = None,
    fov_deg: Annotated[float, typer.Option("--fov-deg", help="Horizontal field of view in degrees.")] = 70.0,
    size: Annotated[str, typer.Option("--size", help="Height x width of the picture in pixels.")] = "704x1280",
    fps: Annotated[float, typer.Option("--fps", help="Frames per second.")] = 16.0,
    as_json: AsJson = False,
) -> None:
    """Turn an action string, or a motion family, into a camera path file.

    Example: sana-wm camera plan "w-80, d-40, w-80" --out path.npz
    """
    from camera_control.actions import parse_actions
    from camera_control.geometry import intrinsics_from_fov
    from camera_control.trajectory import Trajectory

    if (action is None) == (family is None):
        raise ValueError("give an action or --family, exactly one; example: plan 'w-80' or plan --family orbit")
    image_size = _size(size)
    if family is not None:
        path = _from_family(family, settings or [], fov_deg=fov_deg, image_size=image_size, fps=fps)
    else:
        assert action is not None
        actions = parse_actions(
            action,
            dialect,
            translation_speed=translation_speed,
            rotation_speed_deg=rotation_speed_deg,
            smooth=smooth,
        )
        path = Trajectory(actions.to_c2w(), intrinsics_from_fov(fov_deg, image_size), fps, image_size)
    _report(path, path.save(out), as_json)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Camera path file or COLMAP folder.")],
    intrinsics: Lens = None,
    size: Size = None,
    fov_deg: Fov = None,
    fps: Fps = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a model can run this path, with the numbers; an error ends with exit code 2."""
    from camera_control.checks import check_trajectory

    path = _load(file, intrinsics=intrinsics, size=size, fov_deg=fov_deg, fps=fps)
    findings = check_trajectory(path)
    if as_json:
        typer.echo(json.dumps({"file": str(file), "findings": [vars(finding) for finding in findings]}))
    else:
        for finding in findings:
            typer.echo(f"{finding.level:<8}{finding.name:<15}{finding.message}")
    for finding in findings:
        if finding.level == "error":
            raise ValueError(finding.message)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Camera file, or an action string with --from DIALECT.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="File to write; '-' prints an action string.")],
    from_: Annotated[
        str | None, typer.Option("--from", help=f"A format ({_FORMATS}) or a dialect ({_DIALECTS}).")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="A format or a dialect, as for --from.")] = None,
    translation_speed: MoveSpeed = None,
    rotation_speed_deg: TurnSpeed = None,
    smooth: Smooth = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write the nearest string when none is exact.")
    ] = False,
    intrinsics: Lens = None,
    size: Size = None,
    fov_deg: Fov = None,
    fps: Fps = None,
    frames: Annotated[int | None, typer.Option("--frames", help="Resample to this many frames.")] = None,
    resample_fps: Annotated[float | None, typer.Option("--resample-fps", help="Resample to this frame rate.")] = None,
    relative: Annotated[bool, typer.Option("--relative", help="Make the first pose the identity.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert camera files between formats, or action strings between dialects.

    Examples: convert path.npz transforms.json;  convert "w-80,jw-40" - --from sana-v1 --to sana-v2
    """
    from camera_control.actions import parse_actions
    from camera_control.convert import convert_actions
    from camera_control.dialects import DIALECTS
    from camera_control.trajectory import Trajectory

    speeds: dict[str, Any] = {
        "translation_speed": translation_speed,
        "rotation_speed_deg": rotation_speed_deg,
        "smooth": smooth,
    }
    if to is not None and to in DIALECTS:
        if from_ is None or from_ not in DIALECTS:
            raise ValueError(
                f"--to {to} needs --from with a dialect, got {from_!r}: poses cannot become keys; allowed: {_DIALECTS}"
            )
        result = convert_actions(_action_text(source), from_, to, allow_loss=allow_loss, **speeds)
        _write_text(target, result.text, quiet=as_json)
        if as_json:
            typer.echo(json.dumps(vars(result)))
            return
        typer.echo(
            f"roll out with --dialect {result.dialect} --translation-speed {result.translation_speed:g} "
            f"--rotation-speed-deg {result.rotation_speed_deg:g} {'--smooth' if result.smooth else '--no-smooth'}; "
            f"poses differ by {result.position_error:.1e} units and {result.angle_error_deg:.1e} degrees",
            err=True,
        )
        return
    if from_ is not None and from_ in DIALECTS:
        path = Trajectory(parse_actions(_action_text(source), from_, **speeds).to_c2w(), fps=fps or 16.0)
        path = _with_lens(path, size=size, fov_deg=fov_deg, intrinsics=intrinsics)
    else:
        path = _load(Path(source), format=from_, intrinsics=intrinsics, size=size, fov_deg=fov_deg, fps=fps)
    if frames is not None or resample_fps is not None:
        path = path.resample(frames=frames, fps=resample_fps)
    if relative:
        path = path.relative()
    _report(path, path.save(target, format=to), as_json)


@app.command()
def draw(
    file: Annotated[Path, typer.Argument(help="Camera path file or COLMAP folder.")],
    over: Annotated[
        Path | None, typer.Option("--over", help="First frame to draw the path on; left out, a top view.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Picture to write, .png.")] = Path("path.png"),
    intrinsics: Lens = None,
    size: Size = None,
    fov_deg: Fov = None,
    fps: Fps = None,
) -> None:
    """Draw a path from above, or over its first frame."""
    path = _load(file, intrinsics=intrinsics, size=size, fov_deg=fov_deg, fps=fps)
    from camera_control.draw import draw_over_image, draw_top_view

    written = draw_top_view(path, out) if over is None else draw_over_image(path, over, out)
    typer.echo(f"wrote {written}")


def _load(
    file: Path,
    *,
    intrinsics: Path | None,
    size: str | None,
    fov_deg: float | None,
    fps: float | None,
    format: str | None = None,
) -> Trajectory:
    from camera_control.trajectory import Trajectory

    path = Trajectory.load(file, intrinsics=intrinsics, format=format, fps=fps)
    return _with_lens(path, size=size, fov_deg=fov_deg, intrinsics=None)


def _with_lens(path: Trajectory, *, size: str | None, fov_deg: float | None, intrinsics: Path | None) -> Trajectory:
    from dataclasses import replace

    from camera_control.formats.arrays import load_array
    from camera_control.geometry import intrinsics_from_fov

    image_size = path.image_size if size is None else _size(size)
    path = replace(path, image_size=image_size)
    if intrinsics is not None:
        path = path.with_intrinsics(load_array(intrinsics, "intrinsics"), image_size)
    if fov_deg is not None:
        if image_size is None:
            raise ValueError(f"--fov-deg {fov_deg:g} needs --size; allowed: HEIGHTxWIDTH; example: --size 704x1280")
        path = path.with_intrinsics(intrinsics_from_fov(fov_deg, image_size), image_size)
    return path


def _from_family(
    family: str, settings: list[str], *, fov_deg: float, image_size: tuple[int, int], fps: float
) -> Trajectory:
    import inspect

    from camera_control.families import FAMILIES

    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}; example: --family orbit")
    make = FAMILIES[family]
    names = [name for name in inspect.signature(make).parameters if name not in ("fov_deg", "image_size", "fps")]
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in names or not equals:
            raise ValueError(
                f"--set {setting!r} does not fit {family}; allowed: {', '.join(names)}; example: {names[0]}=..."
            )
        values[name] = _value(name, text)
    return make(**values, fov_deg=fov_deg, image_size=image_size, fps=fps)


def _value(name: str, text: str) -> Any:
    """Read one family parameter: a count, yes/no, points such as '0,0,0 0,0,5', or a number."""
    try:
        if name == "frames":
            return int(text)
        if name == "ease":
            return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]
        if name == "waypoints":
            points = [tuple(float(number) for number in point.split(",")) for point in text.split()]
            if any(len(point) != 3 for point in points):
                raise ValueError
            return points
        return float(text)
    except (ValueError, KeyError):
        raise ValueError(
            f"--set {name}={text} is not understood; allowed: a number, yes/no for ease, 'x,y,z x,y,z' for waypoints; "
            "example: --set frames=81"
        ) from None


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (
        height.isascii() and height.isdigit() and width.isascii() and width.isdigit() and int(height) and int(width)
    ):
        raise ValueError(f"size {text!r} is not understood; allowed: HEIGHTxWIDTH in pixels; example: 704x1280")
    return int(height), int(width)


def _action_text(source: str) -> str:
    """The action string itself, or the content of a small text file that holds it."""
    file = Path(source)
    if source.endswith(".txt"):
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read the action file {source}: {error}; allowed: a UTF-8 text file") from None
    return source


def _write_text(target: str, text: str, *, quiet: bool) -> None:
    from camera_control.files import replacing

    if target == "-":
        if not quiet:
            typer.echo(text)
        return
    with replacing(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _report(path: Trajectory, written: list[Path], as_json: bool) -> None:
    length = float(path.steps.sum())
    if as_json:
        typer.echo(
            json.dumps(
                {"written": [str(file) for file in written], "frames": len(path), "fps": path.fps, "length": length}
            )
        )
        return
    seconds = (len(path) - 1) / path.fps
    names = ", ".join(str(file) for file in written)
    typer.echo(f"wrote {names}: {len(path)} frames, {seconds:.1f} s at {path.fps:g} fps, {length:.2f} units")
