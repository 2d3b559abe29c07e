"""What the kernels cost on each architecture, compiled ahead of time: needs Triton's own tools, no GPU and no driver.

python -m gdn_kernels.frame_gdn.fused.resources [--arch 80 90] [--precision bf16] [--kernel scan] prints a JSON line for
every entry of the launch table, or for those named.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gdn_kernels.frame_gdn.fused import scans, tokens, tokens_backward
from gdn_kernels.frame_gdn.fused.launch import PRODUCTS, padded
from gdn_kernels.frame_gdn.fused.table import KERNELS, launch, split_sums

ARCHITECTURES = (80, 90, 100, 120)
_TOKENS = {"q_ptr", "k_ptr", "v_ptr", "out_ptr", "grad_ptr", "d_q_ptr", "d_k_ptr", "d_v_ptr"}
_MATRICES = {"p_ptr", "a_ptr", "p_z_ptr", "f_ptr", "r_ptr", "c_ptr", "g_ptr", "h_ptr", "d_kv_ptr", "d_p_ptr", "d_a_ptr"}
# Tensor-core instructions by generation: sm_80, sm_90, sm_100.
_MULTIPLY = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA", "UTCOMMA")


@dataclass(frozen=True)
class Resources:
    """One compiled kernel.

    Attributes:
        kernel: Name in the launch table.
        arch: 90 stands for sm_90.
        precision: Of its products.
        registers: Per thread.
        spill_bytes: Stack per thread; more than 0 means registers went to memory.
        shared_kib: Shared memory of a program.
        products: Count of tensor-core instructions.
        instructions: Count of all.
    """

    kernel: str
    arch: int
    precision: str
    registers: int
    spill_bytes: int
    shared_kib: float
    products: int
    instructions: int


def measure(kernel: str, arch: int, precision: str, width: int = 112, camera: bool = False) -> Resources:
    """Compile one entry of the launch table as SANA-WM would launch it: heads of 112, 880 tokens a frame.

    Args:
        kernel: One of table.KERNELS.
        arch: Compute capability times ten.
        precision: "bf16" (bfloat16 tokens) or "tf32", "fp32" (float32 tokens).
        width: Of keys and values.
        camera: Neither rotation nor denominator.

    Raises:
        ValueError: A kernel that is not in the table.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r} is not one of {KERNELS}")
    module = scans if kernel.startswith("scan") else tokens_backward if kernel.endswith("backward") else tokens
    function = getattr(module, f"{kernel}_kernel")
    how = launch(kernel, arch, precision)
    half = precision == "bf16"
    constants: dict[str, Any] = {
        "D": width, "E": width, "BD": padded(width), "BE": padded(width), "BS": how.tile, "BJ": how.tile,
        "ROPE": not camera, "DIVIDE": not camera, "SPLIT": split_sums(precision), "STOPS": True, "FIRST": True,
        "LAST": True, "STORE": True, "FINAL": True, "BACK": True,
        "DOT": tl.bfloat16 if half else tl.float32, "PRECISION": PRODUCTS[precision],
    }  # fmt: skip
    names = function.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in constants else _type(name, half) for name in names}
    # What a launch finds out by itself: allocations and strides that are multiples of 16.
    aligned = [i for i, name in enumerate(names) if name.endswith("_ptr") or re.fullmatch(r"[qkv]_[bnh]|tokens", name)]
    source = ASTSource(function, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    options = {"num_warps": how.warps, "num_stages": how.stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    registers, stack, static, counts = _inspect(compiled.asm["cubin"])
    return Resources(
        kernel=kernel + (" camera" if camera else ""),
        arch=arch,
        precision=precision,
        registers=registers,
        spill_bytes=stack,
        shared_kib=round((compiled.metadata.shared + static) / 1024, 1),
        products=sum(count for name, count in counts.items() if name.startswith(_MULTIPLY)),
        instructions=sum(counts.values()),
    )


def _type(name: str, half: bool) -> str:
    if not name.endswith("_ptr"):
        return "fp32" if name == "eps" else "i32"
    if name == "stops_ptr":
        return "*i8"
    return "*bf16" if half and (name in _TOKENS or name in _MATRICES) else "*fp32"


def _inspect(cubin: bytes) -> tuple[int, int, int, Counter[str]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _run(triton.knobs.nvidia.cuobjdump.path, "-res-usage", path)
        listing = _run(triton.knobs.nvidia.nvdisasm.path, "-c", path)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
    counts = Counter(re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]+)", listing))
    return found["REG"], found["STACK"], found["SHARED"], counts


def _run(tool: str, *arguments: object) -> str:
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Print a JSON line for every kernel asked for."""
    parser = argparse.ArgumentParser(description="registers, spills and shared memory of every kernel")
    parser.add_argument("--arch", type=int, nargs="*", default=ARCHITECTURES)
    parser.add_argument("--precision", nargs="*", choices=PRODUCTS, default=list(PRODUCTS))
    parser.add_argument("--kernel", nargs="*", choices=KERNELS, default=KERNELS)
    parser.add_argument("--camera", action="store_true", help="without rotation and denominator")
    args = parser.parse_args()
    for arch in args.arch:
        for precision in args.precision:
            for kernel in args.kernel:
                print(json.dumps(asdict(measure(kernel, arch, precision, camera=args.camera))), flush=True)


if __name__ == "__main__":
    main()
