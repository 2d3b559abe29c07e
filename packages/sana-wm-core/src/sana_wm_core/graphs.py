"""Passes of a streaming transformer recorded once as CUDA graphs, then replayed as a whole.

A chunk of three latent frames keeps a large GPU busy for less time than Python needs to hand it the thousands of small
pieces of a pass. A graph hands them over in one call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.clip import BlockMemory
from sana_wm_core.model.dit import TransformerOutput
from sana_wm_core.model.layers import rotary_table
from sana_wm_core.model.memory import Memory, ReadText

# Of the first, the second and all later chunks, each walked and handed over; twice that, for captions of other lengths.
MOST_FORMS = 12

# Runs work once and gives its results, and a function that computes them again into the same places; whether they hold
# anything before that function is called is left open.
Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]


class CudaGraphs:
    """Records work as CUDA graphs that share their scratch memory; results must be copied before the next replay."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Record work on the current device."""
        graph = torch.cuda.CUDAGraph()
        # Only this thread must keep from what a recording forbids: another may be decoding the chunk before.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            made = work()
        return made, graph.replay


def replay_passes(transformer: SanaWMTransformer, record: Record | None = None) -> None:
    """Have streaming passes recorded when their form comes a second time, and replayed from then on; in place.

    The form is the shapes of all that a pass reads. It settles once the window is full, and never with a window without
    end, where nothing is won. Each form costs the memory of its inputs. Passes over whole clips, and those with
    gradients, stay as they are.

    Args:
        transformer: On the device where it will stay.
        record: What records; None = CUDA graphs.

    Raises:
        ValueError: CUDA graphs for a model that is not on a CUDA device.
    """
    if record is None:
        if transformer.device.type != "cuda":
            raise ValueError(f"CUDA graphs need a model on a CUDA device; this one is on {transformer.device}")
        record = CudaGraphs()
    model: Any = transformer
    model.forward = _Passes(transformer, record)


class _Passes:
    """The transformer's `forward`: plain the first time a form comes, recorded the second time."""

    def __init__(self, transformer: SanaWMTransformer, record: Record) -> None:
        self.config, self.plain, self.record = transformer.config, transformer.forward, record
        self.seen: dict[Hashable, _Recorded | None] = {}
        self.positions: tuple[Hashable, Tensor] | None = None

    def __call__(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | ReadText,
        *rest: Any,
        memory: Memory | None = None,
        kept: list[BlockMemory] | None = None,
        return_dict: bool = True,
        **more: Any,
    ) -> Any:
        streaming = memory is not None or kept is not None
        known = isinstance(encoder_hidden_states, ReadText) and all(isinstance(x, Tensor) for x in more.values())
        if rest or not streaming or not known or torch.is_grad_enabled():
            more |= {"memory": memory, "kept": kept, "return_dict": return_dict}
            return self.plain(hidden_states, timestep, encoder_hidden_states, *rest, **more)
        if self.config.use_pe and "pos_embeds" not in more:
            more["pos_embeds"] = self._positions(hidden_states, memory)
        given = (hidden_states, timestep, encoder_hidden_states, memory.blocks if memory else None, more)
        form = (kept is None, tuple(more), *((x.shape, x.dtype) for x in _leaves(given)))
        if form not in self.seen:
            self.seen[form] = None  # the first time compiles kernels, which a recording must not
            if len(self.seen) > MOST_FORMS:
                del self.seen[next(iter(self.seen))]
            sample, new = self._pass(given, kept is not None)
        else:
            recorded = self.seen[form] = self.seen[form] or _Recorded(self._pass, given, kept is not None, self.record)
            sample, new = recorded(given)
        if kept is not None:
            kept.extend(new)
        return TransformerOutput(sample) if return_dict else (sample,)

    def _pass(self, given: Any, keeps: bool) -> tuple[Tensor, list[BlockMemory]]:
        latents, timestep, text, blocks, more = given
        kept: list[BlockMemory] | None = [] if keeps else None
        memory = None if blocks is None else Memory(blocks)
        sample = self.plain(latents, timestep, text, return_dict=False, memory=memory, kept=kept, **more)[0]
        return sample, kept or []

    def _positions(self, latents: Tensor, memory: Memory | None) -> Tensor:
        """The rotary table, one tensor for all passes of a chunk; a frame number would be recorded as it is now."""
        _, p, q = self.config.patch_size
        first = memory.frames if memory else 0
        key = (latents.shape[2], latents.shape[3] // p, latents.shape[4] // q, first)
        if self.positions is None or self.positions[0] != key:
            cos, sin = rotary_table(*key[:3], self.config.linear_head_dim, latents.device, first)
            self.positions = (key, torch.complex(cos, sin)[None, None])
        return self.positions[1]


class _Recorded:
    """A pass of one form: places for what it reads, and its results."""

    def __init__(self, work: Callable[[Any, bool], Any], given: Any, keeps: bool, record: Record) -> None:
        self.places = _copied(given)
        self.came_from: list[weakref.ref[Tensor] | None] = [None] * len(list(_leaves(given)))
        self.made, self.replay = record(lambda: work(self.places, keeps))

    def __call__(self, given: Any) -> Any:
        for i, (place, new) in enumerate(zip(_leaves(self.places), _leaves(given), strict=True)):
            before = self.came_from[i]
            # Text, camera and memory are the same tensors in all passes of a chunk, and nobody writes into them.
            if before is None or before() is not new:
                place.copy_(new)
                self.came_from[i] = weakref.ref(new)
        self.replay()
        return _copied(self.made)


def _leaves(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif tree is not None:
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)


def _copied(tree: Any) -> Any:
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else tree.clone(memory_format=torch.contiguous_format)
    if isinstance(tree, dict):
        return {name: _copied(part) for name, part in tree.items()}
    parts = [_copied(part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
