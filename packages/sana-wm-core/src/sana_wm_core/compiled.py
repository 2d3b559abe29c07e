"""Transformer blocks compiled by PyTorch, and what was compiled kept on disk for the next run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

# A form is a kind of block, with rays or without, in the clip's first chunk or a later one, for a window of some size.
MOST_FORMS = 64


def compile_blocks(transformer: nn.Module, *, folder: Path | None = None, backend: str = "inductor") -> None:
    """Have every block compiled when it first runs, for the shapes it then sees; in place.

    Blocks of a kind share what is compiled. Results are kept by content (code, shapes, device, versions) in a folder,
    so that a second run with the same shapes starts sooner. Numbers change by rounding.

    Args:
        transformer: A model with `blocks`.
        folder: Where results are kept; None = TORCHINDUCTOR_CACHE_DIR, else ~/.cache/sana-wm/compiled.
        backend: What compiles; see torch.compile.
    """
    import torch._dynamo

    kept = folder or Path.home() / ".cache" / "sana-wm" / "compiled"
    if folder is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(kept)
    else:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MOST_FORMS)
    blocks: Any = transformer.blocks
    for block in blocks:
        block.compile(backend=backend, dynamic=False)
