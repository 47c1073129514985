"""python -m front_kernels.tune, with a clock of the tests' own."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("triton", reason="Triton is not installed")
from front_kernels import engines, tune
from front_kernels.triton import launch, plan, tiles

CPU = torch.device("cpu")
TARGET = plan.Target(("nothing",), 4)
ENTRIES = [
    {"kernel": "axis", "kind": "single", "size": [64, 48, 16]},
    {"kernel": "crop", "kind": "half", "size": [64, 48, 16]},
    {"kernel": "pad", "kind": "single", "size": [64, 48, 16]},
    {"kernel": "crop_moments", "kind": "single", "size": [1100, 48, 16]},
    {"kernel": "axis_moments", "kind": "half", "size": [1100, 48, 16]},
]
START = {"rows": 32, "terms": 32, "lanes": 32, "columns": 16, "warps": 4, "stages": 2}

if torch.cuda.is_available():
    pytest.skip("there is a GPU: the kernels are not interpreted", allow_module_level=True)


def few(kernel: str, kind: str, tile: tiles.Tile):
    yield from (tile, tile._replace(terms=16), tile._replace(lanes=64))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["kernel"])
def test_the_fastest_tile_that_is_right(entry, monkeypatch):
    monkeypatch.setattr(tune, "candidates", few)
    times = iter([3.0, 1.0, 2.0])
    found = tune.measure(entry | START, CPU, TARGET, lambda call: (call(0), next(times))[1])
    assert [us for us, _ in found] == [1.0, 2.0, 3.0]
    assert found[0].tile == tiles.Tile(**START)._replace(terms=16)
    assert tiles.forced == {}


def test_wrong_results_and_tiles_that_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr(tune, "candidates", few)
    run, calls = launch.launch, []

    def spoiled(kernel, grid, arguments):
        run(kernel, grid, arguments)
        calls.append(kernel)
        if len(calls) == 1:
            arguments["out"].add_(1)
        if len(calls) == 2:
            raise RuntimeError("out of shared memory")

    monkeypatch.setattr(launch, "launch", spoiled)
    found = tune.measure(ENTRIES[0] | START, CPU, TARGET, lambda call: 1.0)
    assert found[0].tile == tiles.Tile(**START)._replace(lanes=64)
    monkeypatch.setattr(launch, "launch", lambda kernel, grid, arguments: arguments["out"].zero_())
    with pytest.raises(RuntimeError, match=r"no tile of kernel 'axis', kind 'single', size \[64, 48, 16\] gives"):
        tune.measure(ENTRIES[0] | START, CPU, TARGET, lambda call: 1.0)
    assert tiles.forced == {}


def test_candidates():
    start = tiles.Tile(64, 32, 128, 0, 8, 3)
    found = list(tune.candidates("axis", "half", start))
    assert found[0] == start
    assert len(set(found)) == len(found) < 100
    assert {tile.rows for tile in found} == {32, 64, 128}
    assert {tile.lanes for tile in found} == {64, 128}  # bases are padded to whole tiles of 128
    assert {tile.columns for tile in found} == {0}
    assert {tile.warps for tile in found} == {4, 8}
    assert start._replace(terms=16, stages=1) in found
    assert max(sum(a != b for a, b in zip(tile, start, strict=True)) for tile in found) == 2


def test_the_file_is_one_that_the_ops_read(tmp_path, monkeypatch):
    found = [tune.Found(2.5, tiles.Tile(16, 16, 16, 16, 4, 1))]
    monkeypatch.setattr(tune, "measure", lambda entry, *rest: found)
    entries = tune.tuned(CPU, engines.Gpu("A GPU", "sm_80", 4), lambda call: 1.0)
    monkeypatch.setattr(tiles, "CONFIGS", tmp_path)
    tune.write(tmp_path / "A_GPU.json", "by a test", entries)
    assert [file.name for file in tmp_path.iterdir()] == ["A_GPU.json"]
    assert json.loads((tmp_path / "A_GPU.json").read_text())["about"] == "by a test"
    assert tiles.nearest(("A GPU", "sm_80"), "crop", "half", (1, 1, 1)) == tiles.Tile(16, 16, 16, 16, 4, 1)
    monkeypatch.setattr(tune.os, "replace", lambda *names: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        tune.write(tmp_path / "B.json", "", [])
    assert [file.name for file in tmp_path.iterdir()] == ["A_GPU.json"]


def test_without_a_gpu():
    run = CliRunner().invoke(tune.main, [])
    assert run.exit_code == 1
    assert "no GPU: torch.cuda.is_available() is false" in run.output


def test_a_lost_second_term_is_seen(monkeypatch):
    """Which the rounding of a 16-bit result would hide."""
    monkeypatch.setattr(tune, "candidates", few)
    run = launch.launch

    def one_term(kernel, grid, arguments):
        if "TERMS" in arguments:
            arguments["TERMS"] = 1
        run(kernel, grid, arguments)

    monkeypatch.setattr(launch, "launch", one_term)
    with pytest.raises(RuntimeError, match="no tile of kernel 'crop', kind 'half'"):
        tune.measure(ENTRIES[1] | START, CPU, TARGET, lambda call: 1.0)


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """The command as on a GPU whose architecture has a file; each tile takes as long as its entry's name is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(engines, "gpu_of", lambda device: engines.Gpu("A GPU", "sm_80", 4))
    monkeypatch.setattr(tiles, "CONFIGS", tmp_path)
    tune.write(tmp_path / "default.json", "by a test", [entry | START for entry in ENTRIES])
    monkeypatch.setattr(tune, "cuda_timer", lambda device: None)
    best = tiles.Tile(16, 16, 16, 16, 4, 1)
    monkeypatch.setattr(tune, "measure", lambda entry, *rest: [tune.Found(float(len(entry["kernel"])), best)])

    def run(*options: str):
        return CliRunner().invoke(tune.main, ["--jobs", "0", *options])

    return run


def times(path) -> dict[str, float | None]:
    return {tune._name(entry): entry.get("us") for entry in json.loads(path.read_text())["tiles"]}


@pytest.mark.parametrize("options", [(), ("-o", "tuned.json")])
def test_what_was_measured_before_is_kept(on_a_gpu, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / (options[-1] if options else "A_GPU.json")
    assert on_a_gpu("--only", "crop/half", *options).exit_code == 0
    assert on_a_gpu("--only", "pad/single", *options).exit_code == 0
    nothing = dict.fromkeys(map(tune._name, ENTRIES))
    assert times(file) == nothing | {"crop/half": 4.0, "pad/single": 3.0}
    twice = on_a_gpu("--only", "crop/half", "--only", "crop/half", *options)
    assert twice.output.count("crop/half") == 1
    assert json.loads(file.read_text())["about"].startswith("Measured on A GPU, ")


def test_what_is_not_there_is_refused(on_a_gpu, tmp_path):
    run = on_a_gpu("--only", "no/such")
    assert run.exit_code == 1
    there = "axis/single, axis_moments/half, crop/half, crop_moments/single, pad/single"
    assert run.output == f"Error: only must be of {there}, got 'no/such'\n"
    assert not (tmp_path / "A_GPU.json").exists()
    (tmp_path / "A_GPU.json").write_text('{"tiles": 3}')
    run = on_a_gpu()
    assert run.exit_code == 1
    assert f"Error: {tmp_path}/A_GPU.json is no file of tiles: TypeError: " in run.output


def test_nothing_is_written_where_nothing_was_measured(on_a_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "measure", lambda *arguments: [])
    run = on_a_gpu("--deadline", "1e-9")
    assert (run.exit_code, run.output) == (1, "Error: nothing was measured: the time was over before\n")
    assert [file.name for file in tmp_path.iterdir()] == ["default.json"]


@pytest.mark.parametrize(
    ("error", "words"), [(RuntimeError("no tile"), "RuntimeError: no tile"), (KeyboardInterrupt(), "interrupted")]
)
def test_what_was_measured_before_a_failure_is_written(on_a_gpu, tmp_path, monkeypatch, error, words):
    measure = tune.measure

    def failing(entry, *rest):
        if tune._name(entry) == "crop/half":
            raise error
        return measure(entry, *rest)

    monkeypatch.setattr(tune, "measure", failing)
    run = on_a_gpu()
    assert run.exit_code == 1
    assert words in run.output.splitlines()[-1]
    names = [tune._name(entry) for entry in ENTRIES]
    found = times(tmp_path / "A_GPU.json")
    assert found["crop/half"] is None
    assert found["axis/single"] == 4.0  # before it
    assert names.index("axis/single") < names.index("crop/half") < names.index("pad/single")
    assert found["pad/single"] == (3.0 if isinstance(error, RuntimeError) else None)


def test_others_may_read_the_file(tmp_path):
    file = tmp_path / "A.json"
    tune.write(file, "by a test", [])
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    file.chmod(0o604)
    tune.write(file, "by a test", [])
    assert file.stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--deadline", "-5"), "-5.0 is not in the range x>0"),
        (("--deadline", "nan"), "nan is not a finite number"),
        (("--deadline", "inf"), "inf is not a finite number"),
        (("--jobs", "-3"), "-3 is not in the range x>=0"),
    ],
)
def test_numbers_out_of_range(on_a_gpu, options, words):
    run = on_a_gpu(*options)
    assert run.exit_code == 2
    assert words in run.output


def one_dies(problem, tile, target):
    """In place of what compiles, in a process of its own: of one entry the process ends."""
    if DEADLY in (problem.x.shape[0], problem.out.shape[0]):
        os._exit(1)


DEADLY = 48


class Breaking:
    """A pool whose processes die while tasks are submitted: the n-th is refused."""

    def __init__(self, jobs, mp_context):
        self.left = Breaking.lives.pop(0)

    def submit(self, function, *arguments):
        if self.left == 0:
            raise BrokenProcessPool
        self.left -= 1
        future = Future()
        future.set_result(None)
        return future

    def shutdown(self, **options):
        pass


def test_compilers_that_die_while_tiles_are_submitted(monkeypatch):
    monkeypatch.setattr(tune, "ProcessPoolExecutor", Breaking)
    monkeypatch.setattr(tune, "candidates", few)
    entries = [entry | START for entry in ENTRIES[:3]]
    each = len(list(tune._candidates(entries[0])))
    monkeypatch.setattr(Breaking, "lives", [each + 1, 100], raising=False)
    with tune._Compilers(2, TARGET) as compilers:
        compilers.begin(entries)
        assert len(compilers.of(entries[0])) == each  # submitted before
        with pytest.raises(BrokenProcessPool):
            compilers.of(entries[1])
        assert len(compilers.alone(entries[1])) == each
        assert len(compilers.of(entries[2])) == each


@pytest.mark.parametrize("place", [0, 3])
def test_a_compiler_that_is_killed_takes_no_other_entry_with_it(on_a_gpu, tmp_path, monkeypatch, place):
    entries = [entry | START for entry in ENTRIES]
    entries[place] = entries[place] | {"size": [DEADLY, *entries[place]["size"][1:]]}
    tune.write(tmp_path / "default.json", "by a test", entries)
    best = tiles.Tile(16, 16, 16, 16, 4, 1)

    def measured(entry, device, target, timer, compiling, until):
        for future in compiling.values():
            future.result()
        return [tune.Found(1.0, best)]

    monkeypatch.setattr(tune, "measure", measured)
    monkeypatch.setattr(tune, "compiled", one_dies)
    monkeypatch.setattr(tune, "candidates", few)
    run = on_a_gpu("--jobs", "2")
    assert run.exit_code == 1
    dead = f"{tune._name(entries[place])} {entries[place]['size']}: BrokenProcessPool: "
    assert next(line for line in run.output.splitlines() if "BrokenProcessPool" in line).strip().startswith(dead)
    assert list(times(tmp_path / "A_GPU.json").values()) == [None if i == place else 1.0 for i in range(len(entries))]
