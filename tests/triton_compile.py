"""Compiles Triton kernels for one architecture, without a GPU, and prints what they take as JSON.

A program of its own, since Triton decides when it is imported whether kernels are compiled or interpreted. Run as
`python tests/triton_compile.py sm_90`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from front_kernels import engines
from front_kernels.triton import kernels, plan, spectral

POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
}
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# dtype, precision, larger and smaller side of both axes, direction, matrices
CASES: list[tuple[torch.dtype, str, int, int, str, int]] = [
    (torch.bfloat16, "highest", 8192, 128, "forward", 1),
    (torch.bfloat16, "highest", 8192, 32, "forward", 1),
    (torch.bfloat16, "highest", 8192, 512, "forward", 1),
    (torch.bfloat16, "highest", 8192, 128, "inverse", 1),
    (torch.bfloat16, "highest", 8192, 512, "inverse", 1),
    (torch.bfloat16, "fast", 8192, 128, "forward", 1),
    (torch.bfloat16, "fast", 8192, 512, "forward", 1),
    (torch.float16, "highest", 8192, 128, "forward", 1),
    (torch.float32, "highest", 8192, 64, "forward", 1),
    (torch.float32, "highest", 8192, 128, "forward", 1),
    (torch.float32, "highest", 8192, 512, "forward", 1),
    (torch.float32, "highest", 8192, 128, "inverse", 1),
    (torch.float32, "highest", 8192, 512, "inverse", 1),
    (torch.float32, "fast", 8192, 128, "forward", 1),
    (torch.float32, "fast", 8192, 128, "inverse", 1),
    (torch.float64, "highest", 8192, 512, "forward", 1),
    (torch.float64, "highest", 8192, 512, "inverse", 1),
    (torch.bfloat16, "highest", 768, 64, "forward", 12),
    (torch.float32, "highest", 768, 384, "forward", 12),
    (torch.float32, "highest", 768, 64, "inverse", 12),
    (torch.bfloat16, "highest", 1008, 128, "forward", 1),
    (torch.bfloat16, "highest", 1008, 512, "forward", 1),
    (torch.float32, "highest", 1008, 128, "forward", 1),
    (torch.float32, "highest", 8192, 256, "forward", 1),
    (torch.bfloat16, "highest", 771, 61, "forward", 1),
    (torch.float32, "highest", 768, 256, "forward", 1),  # tiles made small, so that more multiprocessors have one
]
# Of tensors that begin anywhere.
UNALIGNED = [
    (torch.bfloat16, "highest", 768, 64, "forward", 12),
    (torch.bfloat16, "highest", 8192, 128, "forward", 1),
    (torch.bfloat16, "highest", 8192, 512, "forward", 1),  # the limits of plan.py's _UNALIGNED: this, and the next
    (torch.float32, "highest", 8192, 64, "forward", 1),
    (torch.float32, "highest", 8192, 128, "inverse", 1),
    (torch.float32, "highest", 8192, 512, "inverse", 1),
]


# The spectral loss of twelve matrices: dtype, larger and smaller side of both axes.
LOSSES = [
    (torch.bfloat16, 3072, 384),
    (torch.float32, 768, 96),
    (torch.float32, 3072, 384),
    (torch.float64, 768, 96),
]


def loss_steps(
    dtype: torch.dtype, large: int, small: int, gpu: engines.Gpu
) -> list[tuple[str, plan.Plan, dict[str | int, torch.dtype]]]:
    """Both halves, with the dtypes of what they are given."""
    target = plan.Target((gpu.name, gpu.architecture), gpu.multiprocessors, "highest", gpu.nvidia)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, grad = (plan.Layout((large, large), (large, 1), each) for each in (dtype, wide))
    c = plan.Layout((small, small), (small, 1), wide)
    lists: dict[str | int, torch.dtype] = {"x": torch.int64, "out": torch.int64, "w": torch.int64}
    return [
        ("first half", spectral._first(x, c, 12, False, target, True).plan, lists | {spectral.SHIFTS: torch.float64}),
        (
            "second half",
            spectral._second(c, x, grad, 12, False, target, True).plan,
            lists | {spectral.TERMS: torch.float64},
        ),
    ]


def steps(
    dtype: torch.dtype, precision: str, large: int, small: int, direction: str, count: int, gpu: engines.Gpu,
    aligned: bool,
) -> plan.Plan:  # fmt: skip
    target = plan.Target((gpu.name, gpu.architecture), gpu.multiprocessors, precision, gpu.nvidia)
    sizes = (large, small) if direction == "forward" else (small, large)
    x, out = (plan.Layout((n, n), (n, 1), dtype) for n in sizes)
    return plan.matrices(x, out, count, direction, (0, 0), "ortho", target, aligned, False)


def source(
    step: plan.Step, types: dict[str | int, torch.dtype], aligned: bool = True
) -> tuple[ASTSource, dict[str, Any]]:
    """As the launcher specialises: multiples of 16 are known to be so, unless they are the addresses of what a caller
    gives and that is not `aligned`, and ones are constants. And the options."""
    names = step.kernel.arg_names
    constants = {name for name, annotation in step.kernel.fn.__annotations__.items() if "constexpr" in str(annotation)}
    tensors = {name: POINTERS[types[slot]] for name, slot in step.tensors}
    given = {name for name, slot in step.tensors if isinstance(slot, str) and types[slot] != torch.int64}
    tensors |= {name: POINTERS[key.dtype] for name, key in step.bases}
    signature, fixed, attributes = {}, {}, {}
    for i, name in enumerate(names):
        value: Any = step.arguments.get(name)
        if name in tensors:
            signature[name] = tensors[name]
            if aligned or name not in given:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif name in constants or (isinstance(value, int) and value == 1):
            signature[name] = "constexpr"
            fixed[name] = value
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    options = {name: value for name, value in step.arguments.items() if name not in names}
    return ASTSource(step.kernel, signature, constexprs=fixed, attrs=attributes), options


def compiled_for(architecture: str, code: ASTSource, options: dict[str, Any]) -> tuple[Any, str]:
    """The kernel, and what ptxas reports of it (`ptxas -v`, with the options that Triton gives it)."""
    with contextlib.redirect_stdout(io.StringIO()) as log:
        compiled = triton.compile(code, target=TARGETS[architecture], options=options)
    return compiled, log.getvalue()


def resources(compiled: Any, report: str, architecture: str) -> dict[str, Any]:
    if architecture.startswith("gfx"):
        text = compiled.asm["amdgcn"]
        registers, scratch = (
            max(map(int, re.findall(rf"{name}: (\d+)", text))) for name in ("NumVgprs", "ScratchSize")
        )
        return {"registers": registers, "spills": scratch, "instructions": sorted(set(re.findall(r"v_mfma\w*", text)))}
    text = compiled.asm["ptx"]
    registers = re.search(r"Used (\d+) registers", report)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    if registers is None or spills is None:
        raise RuntimeError(f"cannot read what ptxas reports: {report}")
    found = re.findall(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync", text)
    return {
        "registers": int(registers[1]),
        "spills": int(spills[1]) + int(spills[2]),
        "instructions": sorted(set(found)),
    }


def main(architecture: str) -> None:
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.always_compile = True  # no report comes from the cache
    gpu = engines.Gpu("unknown", architecture, 132, nvidia=architecture.startswith("sm"))
    found = []
    everything: list[tuple[str, tuple[str, str], plan.Plan, dict[str | int, torch.dtype], bool]] = []
    for case, aligned in (*((case, True) for case in CASES), *((case, False) for case in UNALIGNED)):
        if not aligned and architecture != "sm_90":
            continue
        dtype, precision, large, small, direction, count = case
        ends = torch.int64 if count > 1 else dtype  # addresses
        name = f"{str(dtype)[6:]} {precision} {large}->{small} {direction} x{count}{'' if aligned else ' unaligned'}"
        planned = steps(*case, gpu, aligned)
        everything.append((name, (str(dtype), precision), planned, {"x": ends, "out": ends}, aligned))
    for dtype, large, small in LOSSES:
        for half, planned, given in loss_steps(dtype, large, small, gpu):
            name = f"{str(dtype)[6:]} {large}->{small} loss, {half}"
            everything.append((name, (str(dtype), "loss"), planned, given, True))
    if architecture != "sm_90":  # elsewhere one step of each kind is enough: of most coefficients, if there are several
        everything.sort(key=lambda each: -max(int(n) for n in re.findall(r"->(\d+)", each[0])))
    kinds, made = set(), {}
    for name, of, planned, given, aligned in everything:
        types = dict(given)
        types |= {i: temporary.dtype for i, temporary in enumerate(planned.temporaries)}
        for step in planned.steps:
            rows = step.arguments.get("BI", step.arguments.get("BU", 0))
            kind = step.kernel.__name__, *of, rows < 64
            if architecture != "sm_90" and kind in kinds:
                continue
            kinds.add(kind)
            code, options = source(step, types, aligned)
            known = code.hash(), str(options)
            if known not in made:
                made[known] = compiled_for(architecture, code, options)
            compiled, report = made[known]
            text = compiled.asm["ttgir"]
            loop = text[text.index("scf.for") :] if "scf.for" in text else ""
            found.append(
                {
                    "case": name,
                    "kernel": step.kernel.__name__,
                    "rows": rows,
                    "shared": compiled.metadata.shared,
                    "terms": step.arguments.get("TERMS", 1),
                    "sums": loop.count("arith.addf"),
                    **resources(compiled, report, architecture),
                }
            )
    # Writes the addresses of a list while a graph is captured.
    names = kernels.addresses.arg_names
    code = ASTSource(kernels.addresses, dict.fromkeys(names, "i64") | {names[0]: "*i64"}, constexprs={})
    compiled, report = compiled_for(architecture, code, {"num_warps": 1})
    taken = {"shared": compiled.metadata.shared, **resources(compiled, report, architecture)}
    found.append({"case": "16 addresses", "kernel": "addresses", "rows": 0, "terms": 1, "sums": 0, **taken})
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
