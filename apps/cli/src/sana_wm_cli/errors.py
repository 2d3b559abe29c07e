"""What a user sees when something goes wrong: one line, never a traceback for a mistake or a full disk."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

USER_ERROR = 2
INTERRUPTED = 130


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn expected failures into one red line on stderr and an exit code.

    Wrong input, missing or forbidden files, a full disk and a full memory exit with 2; Ctrl-C with 130. Anything else
    is a bug and keeps its traceback.
    """
    import typer

    try:
        yield
    except KeyboardInterrupt:
        say("stopped; no half file is left behind")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise  # whoever read the output has seen enough, as in `sana-wm camera check FILE | head`; click ends quietly
    except (ValueError, OSError, MemoryError) as error:
        say(describe(error))
        raise typer.Exit(USER_ERROR) from error
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        say(
            "the GPU is out of memory; in this order try --offload_vae, --offload_refiner, --stage1_precision fp8 with "
            "--refiner_precision fp8, --offload_blocks, fewer --num_frames; sana-wm doctor says what models need"
        )
        raise typer.Exit(USER_ERROR) from error


def is_disk_full(error: OSError) -> bool:
    """Whether writing failed for lack of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def say(message: str) -> None:
    """Print an error line, red on a terminal."""
    import typer

    typer.secho(f"error: {message}", fg="red", err=True, color=None if sys.stderr.isatty() else False)


def describe(error: BaseException) -> str:
    """Put an error into one line for a person."""
    if isinstance(error, MemoryError):
        return "out of memory; try fewer --num_frames or close other programs"
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename}" if error.filename else ""
        if is_disk_full(error):
            return f"the disk is full{where}; free some space or choose another --output_dir"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"no permission to write or read{where}; choose another --output_dir or file"
        return f"{error.strerror or error}{where}"
    structured = getattr(error, "errors", None)
    if callable(structured) and type(error).__name__ == "ValidationError":
        parts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in structured()[:3]]
        return f"{getattr(error, 'title', 'config')}: " + "; ".join(parts)
    return " ".join(str(error).split()) or type(error).__name__
