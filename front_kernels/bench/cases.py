"""What is measured, as data: sizes of models' matrices, shares that are kept, and sets of cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["SETS", "Case", "Row", "Size", "label", "nominal_flops"]

Size = tuple[int, int]
Row = Mapping[str, object]  # of the benchmark, or, all text, of the ledger
ITEM = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}  # bytes


def nominal_flops(size: Size, kept: Size) -> float:
    """2.5 N log2 N for each real transform of length N, by rows and then along the k1 columns that are kept:
    ``2.5 (M N log2 N + k1 M log2 M)``. A transform of which a part is kept counts in full, so it is a measure of speed
    and no count of instructions; the inverse counts as much.
    """
    (m, n), k1 = size, kept[1]
    return 2.5 * (m * n * math.log2(n) + k1 * m * math.log2(m))


@dataclass(frozen=True)
class Case:
    """`count` matrices of `size`, of which the corner `kept` is kept; idct_pad goes from kept to size."""

    op: str
    size: Size
    kept: Size
    dtype: str = "float32"
    resized: Size | None = None  # by dct_resize
    count: int = 1

    @property
    def source(self) -> Size:
        return self.kept if self.op == "idct_pad" else self.size

    @property
    def result(self) -> Size:
        if self.resized is not None:
            return self.resized
        return self.kept if self.op in ("dct_crop", "dct_crop_many") else self.size

    @property
    def bytes(self) -> int:
        """One read of the input and one write of the output."""
        return self.count * ITEM[self.dtype] * (math.prod(self.source) + math.prod(self.result))

    @property
    def two_pass_bytes(self) -> int | None:
        """The same with the rows x k1 intermediate of two passes written and read; None where there are more."""
        if self.op in ("lowpass", "dct_resize"):
            return None
        return self.bytes + 2 * self.count * max(4, ITEM[self.dtype]) * self.size[0] * self.kept[1]

    @property
    def memory(self) -> int:
        """Bytes that measuring takes at most, roughly: peers hold several matrices of complex numbers."""
        return 10 * self.count * ITEM[self.dtype] * max(math.prod(self.size), math.prod(self.result))

    @property
    def flops(self) -> float:
        """Nominal ones, of both directions for a resize or low-pass."""
        forward = nominal_flops(self.size, self.kept)
        back = nominal_flops(self.result, self.kept) if self.op in ("lowpass", "dct_resize") else 0.0
        return self.count * (forward + back)

    @property
    def columns(self) -> dict[str, object]:
        shapes = {"size": self.size, "kept": self.kept, "result": self.result}
        texts = {name: "{}x{}".format(*shape) for name, shape in shapes.items()}
        return {"op": self.op, **texts, "dtype": self.dtype, "count": self.count}

    def __str__(self) -> str:
        return label(self.columns)


def label(row: Row) -> str:
    """What a row is about: op, sizes, dtype if it is not float32, and how many if it is not one."""
    op, size, kept = row["op"], row["size"], row["kept"]
    sizes = {
        "idct_pad": f"{kept} -> {size}",
        "lowpass": f"{size} k={kept}",
        "dct_resize": f"{size} -> {row['result']}",
    }.get(str(op), f"{size} -> {kept}")
    count = "" if int(str(row["count"])) == 1 else f"{row['count']} of "
    return f"{op} {count}{sizes}" + ("" if row["dtype"] == "float32" else f" {row['dtype']}")


SHARES = (16, 8, 4, 2, 1)  # of each axis 1 in so many coefficients is kept
MODELS: dict[str, tuple[Size, ...]] = {
    "DeiT-Ti": ((192, 192), (576, 192), (768, 192)),
    "DeiT-S": ((384, 384), (1152, 384), (1536, 384)),
    "DeiT-B": ((768, 768), (2304, 768), (3072, 768), (768, 3072)),
    "BERT-base": ((768, 768), (3072, 768), (768, 3072), (30522, 768)),
    "GPT-2": ((768, 768), (768, 2304), (768, 3072), (3072, 768), (50257, 768)),
    "Llama-3-8B": ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (128256, 4096)),
}
SQUARES = tuple((1024 << i, 1024 << i) for i in range(5))


def shares(sizes: Iterable[Size]) -> list[Case]:
    """Crop and padding of each size and share, none twice."""
    return [
        Case(op, (m, n), (max(1, m // share), max(1, n // share)))
        for m, n in dict.fromkeys(sizes)
        for share in SHARES
        for op in ("dct_crop", "idct_pad")
    ]


def both(size: Size, kept: Size) -> list[Case]:
    return [Case("dct_crop", size, kept), Case("idct_pad", size, kept)]


_MODELS = tuple(size for sizes in MODELS.values() for size in sizes)
# bench/gpu_check.sh's, by importance: what is left when the time is over has no peers.
_CHECK = [
    *(Case(op, size, kept) for op in ("dct_crop", "idct_pad") for size, kept in [
        ((8192, 8192), (1024, 1024)),
        ((4096, 4096), (512, 512)),
        ((11008, 4096), (2752, 1024)),
        ((8192, 8192), (8192, 8192)),
    ]),
    Case("dct_crop", (768, 768), (384, 384)),
    Case("dct_crop", (3072, 768), (1536, 384)),
    Case("dct_crop_many", (1024, 1024), (512, 512), count=24),
    Case("dct_crop", (30522, 768), (15261, 384)),
    Case("dct_crop", (14336, 4096), (3584, 1024)),
    Case("dct_crop", (8192, 8192), (128, 128), "bfloat16"),
    Case("dct_crop", (8192, 8192), (256, 256), "bfloat16"),
    Case("dct_crop", (8192, 8192), (64, 64)),
    Case("dct_crop", (30522, 768), (256, 256), "bfloat16"),
    Case("dct_crop", (8192, 8192), (256, 256)),
    Case("dct_crop", (8192, 8192), (1024, 1024), "bfloat16"),
    Case("lowpass", (8192, 8192), (1024, 1024)),
    Case("dct_resize", (4096, 4096), (2048, 2048), resized=(2048, 2048)),
]  # fmt: skip
SETS: dict[str, list[Case]] = {
    "short": [
        *both((192, 192), (96, 96)),
        *both((768, 768), (384, 384)),
        *both((3072, 768), (768, 192)),
        *both((1024, 1024), (1024, 1024)),
        *both((2048, 2048), (256, 256)),
        Case("lowpass", (768, 768), (192, 192)),
        Case("dct_resize", (768, 768), (384, 384), resized=(384, 384)),
        Case("dct_crop_many", (384, 384), (192, 192), count=12),
    ],
    "models": shares(_MODELS),
    "squares": shares(SQUARES),
    # Few coefficients of one axis, all of the other.
    "axes": [
        case for k in (8, 16, 32, 64, 512) for kept in ((k, 4096), (4096, k)) for case in both((4096, 4096), kept)
    ],
    "all": shares((*_MODELS, *SQUARES)),
    "check": _CHECK,
}
