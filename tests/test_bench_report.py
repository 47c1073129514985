"""The tables of docs/SPEED.md and README.md are what bench/report.py makes of the ledger, and of which of its rows."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- cpu table: begin -->\n", "<!-- cpu table: end -->\n"
Row = dict[str, str]


@pytest.fixture(scope="module")
def ledger() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        return importlib.import_module("ledger")


@pytest.fixture(scope="module")
def report(ledger: ModuleType) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        return importlib.import_module("report")


@pytest.fixture(scope="module")
def gpu_report(report: ModuleType) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        return importlib.import_module("gpu_report")


def gpu_rows(gpu_report: ModuleType) -> list[Row]:
    with gpu_report.LEDGER.open() as stream:
        return list(csv.DictReader(stream))


def test_the_gpu_table_is_the_ledgers(gpu_report: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text()
    assert gpu_report.updated(readme, gpu_rows(gpu_report)) == readme
    assert gpu_report.updated(readme.replace("torch.fft*", "?"), gpu_rows(gpu_report)) == readme


def test_a_run_without_other_libraries_is_not_the_gpu_tables(gpu_report: ModuleType) -> None:
    rows = gpu_rows(gpu_report)
    alone = [row | {"commit": "fffffff", "us": "1.0"} for row in rows if row["by"] == gpu_report.OURS]
    assert gpu_report.newest(rows + alone) == gpu_report.newest(rows)
    again = [row | {"commit": "fffffff"} for row in gpu_report.newest(rows)]
    assert gpu_report.newest(rows + again) == again


@pytest.fixture(scope="module")
def run(ledger: ModuleType):
    """A complete run: a row per case against the peers."""

    def rows(**columns: str) -> list[Row]:
        common = dict.fromkeys((*ledger.PACKAGES, "commit"), "1.0") | {"cpu": "A", "threads": "2", "isa": "avx512"}
        ratios = {"best_peer": "scipy", **dict.fromkeys(("times_best_peer", "times_scipy", "times_torch_dct"), "2.5")}
        values = {"ms": "3.14", "percent_of_read": "7.5", "relative_error": "1.7e-07", "date": "2026-01-01"}
        return [{**case.columns, **common, **ratios, **values, **columns} for case in ledger.CASES]

    return rows


def test_the_pages_hold_what_the_ledger_says(ledger, report):
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "docs" / "SPEED.md").read_text()
    runs = report.newest(ledger.read())
    assert runs
    assert report.updated(page, runs) == page
    assert report.updated_readme(readme, runs) == readme
    assert report.against_peers(runs[0]) in readme
    assert all(report.tables(run) in page for run in runs)


def test_the_newest_complete_run_is_taken(report, run):
    old, new = run(commit="old"), run(commit="new")
    assert [report.first(r)["commit"] for r in report.newest(old + new)] == ["new"]
    assert [report.first(r)["commit"] for r in report.newest(new + old)] == ["old"]  # by order, not by name
    assert [report.first(r)["commit"] for r in report.newest(old + new[:-1])] == ["old"]
    assert report.newest(new[1:]) == []


@pytest.mark.parametrize("column", ["cpu", "threads", "isa", "torch", "commit"])
def test_a_run_is_not_put_together_from_two(report, run, column):
    rows = run()
    assert report.newest([rows[0] | {column: "another"}, *rows[1:]]) == []


def test_a_run_may_go_past_midnight(report, run):
    rows = run()
    (found,) = report.newest([*rows[:-1], rows[-1] | {"date": "2026-01-02"}])
    assert report.machine(found).endswith("commit 1.0, 2026-01-01 to 2026-01-02")


def test_a_case_measured_again_counts_as_measured_last(report, run):
    rows = run()
    (found,) = report.newest([*rows, rows[3] | {"ms": "2.72"}])
    assert [row["ms"] for row in found.values()] == ["3.14"] * 3 + ["2.72"] + ["3.14"] * (len(rows) - 4)


def test_each_instruction_set_has_its_newest_run(report, run):
    rows = run(cpu="oldest") + run(cpu="old") + run(isa="avx2", cpu="old") + run(isa="avx2")
    rows += run(commit="old") + run() + run(isa="generic")[:3]
    found = report.newest(rows)
    assert [(report.first(r)["isa"], report.first(r)["cpu"], report.first(r)["commit"]) for r in found] == [
        ("avx512", "A", "1.0"),
        ("avx512", "old", "1.0"),  # of AVX-512 two machines are shown
        ("avx2", "A", "1.0"),
    ]
    text = report.updated(f"head\n{BEGIN}stale\n{END}tail\n", found)
    assert text.startswith(f"head\n{BEGIN}A, 2 threads, avx512; ")
    assert text.endswith(f"{END}tail\n")
    assert text.count("A, 2 threads, avx2; ") == 1
    assert "stale" not in text


def test_other_dtypes_and_instruction_sets_are_a_table_of_their_own(ledger, report, run):
    rows = run(dtype="float32", element_error="6.5")
    (found,) = report.newest(rows)
    assert "bfloat16" not in report.tables(found)
    assert "element 6.5 eps" in report.tables(found)
    alone = {"best_peer": "", "times_best_peer": "", "ms": "999"}
    case = ledger.COMPARED[0].columns
    (basis,) = [row | alone for row in rows if row | case == row]
    extra = [
        basis | {"dtype": "bfloat16", "times_float32": "1.25"},
        basis | {"dtype": "float16", "times_float32": "1.5"},
        basis | {"dtype": "float64", "times_float32": "0.45"},
        basis | {"times_avx2": "1.75", "times_generic": "4.5"},
        basis | {"times_generic": "2.2", "isa": "avx2"},
    ]
    (found,) = report.newest(rows + extra)
    table = report.tables(found)
    assert f"| {report.label(ledger.COMPARED[0])} | 1.25 | 1.5 | 0.45 | 1.75 | 4.5 |" in table
    assert f"| {report.label(ledger.COMPARED[1])} |  |  |  |  |  |" in table
    assert "999" not in table  # they are not the rows against the peers
    assert "2.2" not in table


@pytest.mark.parametrize("update", ["updated", "updated_readme"])
def test_a_page_without_markers_is_refused(report, run, update):
    with pytest.raises(ValueError, match="lacks the lines <!-- cpu table: begin -->"):
        getattr(report, update)("text\n", report.newest(run()))


def test_the_readme_has_the_first_run_against_the_peers_alone(report, run):
    found = report.newest(run() + run(isa="avx2"))
    text = report.updated_readme(f"{BEGIN}stale\n{END}", found)
    assert text == f"{BEGIN}{report.against_peers(found[0])}{END}"
    assert "avx512" in text
    assert "avx2" not in text


def test_the_picture_is_the_same_file_every_time(report, run, tmp_path):
    runs = report.newest(run() + run(isa="avx2"))
    for name in ("one.png", "two.png"):
        report.draw(runs, tmp_path / name)
    one = (tmp_path / "one.png").read_bytes()
    assert one == (tmp_path / "two.png").read_bytes()
    assert len(one) > 10_000


def test_new_columns_leave_old_rows_as_they_are(ledger, tmp_path):
    path = tmp_path / "cpu.csv"
    ledger.append([{"size": "8x8", "ms": 1.5}], path)
    ledger.append([{"size": "9x9", "ms": 2.5, "dtype": "float64"}], path)
    assert path.read_text() == "size,ms,dtype\n8x8,1.5,\n9x9,2.5,float64\n"
