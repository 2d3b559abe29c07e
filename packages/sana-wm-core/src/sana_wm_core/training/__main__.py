"""Train a stage under torchrun: torchrun --nproc-per-node 2 -m sana_wm_core.training PRESET --data DIR --out DIR."""

from __future__ import annotations

import argparse
import os
import sys

from sana_wm_core.training.drive import drive
from sana_wm_core.training.stage_loop import RunStopped


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code: 0, 2 for wrong input, 3 for a run that stopped on its numbers."""
    parser = argparse.ArgumentParser(prog="python -m sana_wm_core.training", description=__doc__)
    parser.add_argument("preset", nargs="?", default="", help="stage preset or .toml file")
    parser.add_argument("--data", default="", help="manifest, encoded folder, or upstream's zip folder")
    parser.add_argument("--out", default="", help="folder of the run")
    parser.add_argument("--init", default="", help="first weights; wins over start.path")
    parser.add_argument("--walks", default="", help="folder of `data walks`, for ODE regression")
    parser.add_argument("--teacher", default="", help="weights of both scores, for self-forcing")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="section.field=value")
    parser.add_argument("--resume", default="", help="go on with the run in this folder")
    parser.add_argument("--device", default="", help="cpu or cuda")
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    given = parser.parse_args(arguments)
    first = os.environ.get("RANK", "0") == "0"
    try:
        drive(**vars(given), say=print if first else lambda line: None)
    except (ValueError, OSError) as error:
        if first:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RunStopped as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
