"""Transformer blocks compiled by PyTorch, and what was compiled kept on disk for the next run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

# A form is a kind of block, with rays or without, in the clip's first chunk or a later one, for a window of some size.
MOST_FORMS = 64
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def compile_blocks(transformer: nn.Module, *, folder: Path | None = None, backend: str = "inductor") -> None:
    """Have every block compiled when it first runs, for the shapes it then sees; in place.

    Blocks of a kind share what is compiled. Results are kept by content (code, shapes, device, versions) in a folder,
    so that a second run with the same shapes starts sooner. Numbers change by rounding. It pays for long work on large
    models; the pocket world on a CPU is done before anything is compiled.

    Args:
        transformer: A model with `blocks`.
        folder: Where results are kept; None = TORCHINDUCTOR_CACHE_DIR, else ~/.cache/sana-wm/compiled.
        backend: What compiles; see torch.compile.
    """
    import torch._dynamo
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # PyTorch sets the variable itself as soon as it looks, to a folder that a restart may clear.
    if folder is None and os.environ.get(_FOLDER) in (None, default_cache_dir()):
        folder = Path.home() / ".cache" / "sana-wm" / "compiled"
    if folder is not None:
        os.environ[_FOLDER] = str(folder)
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MOST_FORMS)
    blocks: Any = transformer.blocks
    for block in blocks:
        block.compile(backend=backend, dynamic=False)
