"""The ledger's newest run with other libraries on a GPU into README.md's second table: part of `make bench-report`."""

from __future__ import annotations

import csv
from pathlib import Path

from front_kernels.bench.cases import label
from front_kernels.bench.ledger import between_markers
from report import markdown

ROOT = Path(__file__).parent.parent
LEDGER = Path(__file__).parent / "results" / "gpu.csv"
OURS = "front"
# NOTE: those with a star compute every coefficient. Products in TF32 and bfloat16 are less exact than ours.
PEERS = {
    "torch.fft": "torch.fft*", "cupyx": "cupyx*", "jax": "jax*", "rfft2 compiled": "rfft2 compiled*",
    "matmul": "matmul", "matmul TF32": "matmul TF32", "matmul bfloat16": "matmul bfloat16",
}  # fmt: skip
CASE = ("op", "size", "kept", "result", "dtype", "count")
RUN = ("device", "driver", "torch", "triton", "commit", "date")
Row = dict[str, str]


def newest(rows: list[Row]) -> list[Row]:
    """Of the runs, which are the rows of one commit on one machine, the last that has as many peers as any."""
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        runs.setdefault(tuple(row[column] for column in RUN), []).append(row)
    most = max(sum(row["by"] in PEERS for row in run) for run in runs.values())
    return [run for run in runs.values() if sum(row["by"] in PEERS for row in run) == most][-1]


def table(rows: list[Row]) -> str:
    by_case: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        by_case.setdefault(tuple(row[column] for column in CASE), {})[row["by"]] = row
    lines = []
    for found in by_case.values():
        own = found[OURS]
        ratios = [found[peer]["times_front"] if peer in found else "" for peer in PEERS]
        lines.append([f"`{label(own)}`", own["us"], own["percent_of_limit"], *ratios])
    first = rows[0]
    text = (
        f"{first['device']}, driver {first['driver']}; torch {first['torch']}, Triton {first['triton']}; commit "
        f"{first['commit']}, {first['date']}.\n\n"
    )
    return text + markdown(["case", "us", "% of limit", *PEERS.values()], lines)


def updated(readme: str, rows: list[Row]) -> str:
    return between_markers(readme, "gpu table", table(newest(rows)))


def main() -> None:
    with LEDGER.open() as stream:
        rows = list(csv.DictReader(stream))
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(), rows))


if __name__ == "__main__":
    main()
