"""What a user can get wrong, as one-line errors raised before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from gdn_kernels.frame_gdn.parts import Rope
from gdn_kernels.frame_gdn.state import FrameState


def tokens(
    q: Tensor | None, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, chunk_starts: Tensor | None
) -> None:
    """Shapes, types and devices of the five inputs and the chunk starts."""
    name, lead = ("k", k) if q is None else ("q", q)
    if lead.ndim != 4:
        raise ValueError(f"{name} has shape {tuple(lead.shape)}; expected (b, n, h, d), such as (1, 2640, 20, 112)")
    if 0 in lead.shape:
        raise ValueError(f"{name} has shape {tuple(lead.shape)}; expected (b, n, h, d), none of them 0")
    b, n, h, d = lead.shape
    e = v.shape[-1] if v.ndim and v.shape[-1] else d
    t = log_gamma.shape[-1] if log_gamma.ndim == 3 else 0
    if log_gamma.shape != (b, h, t) or t < 1:
        raise ValueError(f"log_gamma has shape {tuple(log_gamma.shape)}; expected (b, h, t) with b, h = {(b, h)}")
    if n % t:
        raise ValueError(f"{name} has {n} tokens, which {t} frames of log_gamma do not divide; n must be t * s")
    wanted = {
        "k": (k, (b, n, h, d)),
        "v": (v, (b, n, h, e)),
        "beta": (beta, (b, h, t, n // t)),
    }
    for other, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise ValueError(f"{other} has shape {tuple(tensor.shape)}; expected {shape}")
    for other, tensor in {"k": k, "v": v, "beta": beta, "log_gamma": log_gamma}.items():
        if tensor.device != lead.device:
            raise ValueError(f"{other} is on {tensor.device} and {name} on {lead.device}; expected one device")
        if not tensor.is_floating_point():
            raise ValueError(f"{other} has type {tensor.dtype}; expected floats, such as torch.float32")
    if not lead.is_floating_point():
        raise ValueError(f"{name} has type {lead.dtype}; expected floats, such as torch.float32")
    starts(chunk_starts, t)


def starts(chunk_starts: Tensor | None, t: int) -> None:
    """One flag a frame."""
    if chunk_starts is None:
        return
    if chunk_starts.shape != (t,):
        raise ValueError(f"chunk_starts has shape {tuple(chunk_starts.shape)}; expected (t,) = ({t},)")
    if chunk_starts.dtype != torch.bool:
        raise ValueError(f"chunk_starts has type {chunk_starts.dtype}; expected torch.bool")


def rotation(x: Tensor, rope: Rope | None) -> None:
    """cos and sin of every token and channel pair."""
    if rope is None:
        return
    n, d = x.shape[1], x.shape[-1]
    if d % 2:
        raise ValueError(f"rope turns pairs of channels, and the head width {d} is odd; expected an even one")
    if any(part.shape != (n, d // 2) for part in rope):
        shapes = [tuple(part.shape) for part in rope]
        raise ValueError(f"rope has shapes {shapes}; expected two of (n, d / 2) = {(n, d // 2)}")
    if any(part.device != x.device for part in rope):
        raise ValueError(f"rope is on {rope[0].device}, {rope[1].device} and the tokens on {x.device}")


def state(name: str, given: FrameState | None, like: Tensor, v: Tensor, with_z: bool) -> None:
    """A carried memory that fits the tokens."""
    if given is None:
        return
    b, _, h, d = like.shape
    if with_z and given.z is None:
        raise ValueError(f"{name} has no z; a state of frame_gdn carries kv and z")
    parts: dict[str, tuple[Tensor, tuple[int, ...]]] = {"kv": (given.kv, (b, h, d, v.shape[-1]))}
    if with_z and given.z is not None:
        parts["z"] = (given.z, (b, h, d))
    for part, (tensor, shape) in parts.items():
        if tensor.shape != shape:
            raise ValueError(f"{name}.{part} has shape {tuple(tensor.shape)}; expected {shape}")
        if tensor.device != like.device:
            raise ValueError(f"{name}.{part} is on {tensor.device} and the tokens on {like.device}; move the state")


def transition_trace(k: Tensor, beta: Tensor) -> Tensor:
    """Trace of P_t, a bound on its largest eigenvalue: below 2 the memory cannot grow without end.

    Args:
        k: (b, n, h, d) keys as given to frame_gdn.
        beta: (b, h, t, s).

    Returns:
        (b, h, t) sum over tokens of beta |k|^2. Keys scaled by 1 / sqrt(d s) with unit mean square stay below 1.
    """
    squares = k.unflatten(1, (beta.shape[2], -1)).float().square().sum(-1)
    return (squares.permute(0, 3, 1, 2) * beta).sum(-1)


def gates(k: Tensor, beta: Tensor, log_gamma: Tensor) -> None:
    """Values: finite, beta in [0, 1], log_gamma at most 0, and a transition with eigenvalues inside [-1, 1].

    Raises:
        ValueError: The argument, its worst value and where.
    """
    for name, x in {"k": k, "beta": beta, "log_gamma": log_gamma}.items():
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name} has {int((~torch.isfinite(x)).sum())} values that are not finite")
    if bool((beta < 0).any()) or bool((beta > 1).any()):
        raise ValueError(f"beta reaches from {float(beta.min()):.3g} to {float(beta.max()):.3g}; expected [0, 1]")
    if bool((log_gamma > 0).any()):
        raise ValueError(
            f"log_gamma reaches {float(log_gamma.max()):.3g}; expected at most 0, since gamma is in (0, 1]"
        )
    with torch.no_grad():
        trace = transition_trace(k, beta)
        for i, j, t in (trace >= 2).nonzero().tolist():
            # The trace only bounds the eigenvalue, so the few frames above 2 are looked at closely.
            keys = k[i, :, j].unflatten(0, (beta.shape[2], -1))[t].float()
            largest = float(torch.linalg.eigvalsh(keys.mT @ (keys * beta[i, j, t, :, None].float()))[-1])
            if largest > 2:
                raise ValueError(
                    f"k is too long: the transition of batch {i}, head {j}, frame {t} has eigenvalue"
                    f" {largest:.3g}, above 2, and the memory grows; scale keys by 1 / sqrt(d s)"
                )
