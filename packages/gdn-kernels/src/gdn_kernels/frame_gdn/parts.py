"""What travels between the phases of the recurrence. b batch, h heads, t frames, d key width, e value width."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gdn_kernels.frame_gdn.state import FrameState

Rope = tuple[Tensor, Tensor]


class Summary(NamedTuple):
    """Every frame as an affine map of the memory: M <- gamma (M - P M) + A.

    Attributes:
        p: (b, h, t, d, d) K' B K, symmetric.
        a: (b, h, t, d, e) K' B V.
        p_z: The denominator's K' B K, of unrotated keys; None where it is p itself or there is no denominator.
        a_z: (b, h, t, d) K' beta, of unrotated keys; None without a denominator.
    """

    p: Tensor
    a: Tensor
    p_z: Tensor | None = None
    a_z: Tensor | None = None

    @property
    def gram_z(self) -> Tensor:
        """The denominator's transition."""
        return self.p if self.p_z is None else self.p_z


class Memories(NamedTuple):
    """The memory every frame reads.

    Attributes:
        f: (b, h, t, d, e) forward memory after frame t; the sum of both directions where r is None.
        r: (b, h, t, d, e) reverse memory before frame t, or None.
        zf: (b, h, t, d) the same for the denominator, or None.
        zr: Likewise.
    """

    f: Tensor
    r: Tensor | None = None
    zf: Tensor | None = None
    zr: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Both directions of the numerator."""
        return self.f if self.r is None else self.f + self.r

    @property
    def total_z(self) -> Tensor | None:
        """Both directions of the denominator."""
        return self.zf if self.zf is None or self.zr is None else self.zf + self.zr


class Adjoint(NamedTuple):
    """Gradients that arrive at gamma (M - P M) + A of every frame: g from the forward scan, h from the reverse one."""

    g: Tensor
    h: Tensor
    g_z: Tensor | None = None
    h_z: Tensor | None = None


class Composite(NamedTuple):
    """A run of frames as one affine map, both ways: F_out = phi F_in + psi_f and R_out = phi' R_in + psi_r.

    Attributes:
        phi: (b, h, d, d).
        psi: The forward memory the run leaves, started empty.
        psi_back: The reverse memory it leaves to the frame before it, started empty.
        phi_z: (b, h, d, d) for the denominator, or None.
        open: () 1 if the reverse scan passes through, 0 if it restarts inside the run.
    """

    phi: Tensor
    psi: FrameState
    psi_back: FrameState
    phi_z: Tensor | None
    open: Tensor
