"""The command line as a process of its own: the entry point, and interrupts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from command import TRANSFER, assert_error, default_interrupts, folder_of_weights, names_in
from front_models._cli import main

PYTHON = Path(__file__).parent.parent / "python"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return folder_of_weights(tmp_path, monkeypatch)


def run_front(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from front_models._cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_a_process(files: Path) -> None:
    done = run_front(*TRANSFER, "out.safetensors", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["command"] == "transfer"
    done = run_front("inspect", "nope")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "front: error: nope: no such file or folder\n")


def run_entry(folder: Path, torch_module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command's entry point, with this in place of torch."""
    (folder / "torch.py").write_text(torch_module)
    code = f"import sys; sys.path.append({str(PYTHON)!r}); from _front_entry import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, preexec_fn=default_interrupts
    )


def test_an_interrupt_while_torch_is_imported(tmp_path: Path) -> None:
    done = run_entry(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", "inspect", "x")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "front: interrupted\n")


def test_the_version_needs_no_torch(tmp_path: Path) -> None:
    done = run_entry(tmp_path, "raise SystemExit('torch was imported')\n", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"front, version {importlib.metadata.version('front-kernels')}\n"


def test_the_entry_point_runs_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("_front_entry", PYTHON / "_front_entry.py")
    assert spec is not None
    assert spec.loader is not None
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["front", "inspect", "nope"])
        assert_error(capsys, entry.main(), 1, "nope: no such file or folder")
        patch.setattr(sys, "argv", ["front", "--version"])
        assert entry.main() == 0
        own = capsys.readouterr().out
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == own


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_while_writing_leaves_nothing(files: Path, number: signal.Signals, code: int) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "import front_models._files as files\n"
        "from front_models._cli import main\n"
        "def write_half(tensors, path, metadata):\n"
        "    Path(path).write_bytes(bytes(100))\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "files.save_file = write_half\n"
        "sys.exit(main())\n"
    )
    Path("out.safetensors").write_text("precious")
    command = [sys.executable, "-P", "-c", script, *TRANSFER, "out.safetensors", "--force"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, preexec_fn=default_interrupts) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert len(names_in(files)) == 4
        started = time.monotonic()
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
        assert time.monotonic() - started < 30
    assert process.returncode == code
    assert "Traceback" not in error
    assert Path("out.safetensors").read_text() == "precious"
    assert names_in(files) == ["like.safetensors", "out.safetensors", "source.safetensors"]


@pytest.mark.parametrize(
    ("first", "later", "own"),
    [
        (signal.SIGHUP, (signal.SIGHUP, signal.SIGTERM), ""),
        (signal.SIGTERM, (signal.SIGHUP,), "SIGHUP"),
        (signal.SIGHUP, (signal.SIGTERM, signal.SIGHUP), "SIGTERM"),
    ],
)
def test_a_second_signal_while_files_are_removed_changes_nothing(
    first: signal.Signals, later: tuple[signal.Signals, ...], own: str, files: Path
) -> None:
    """A terminal that is closed sends SIGHUP from the shell, and again from the kernel. A caller's handler, which takes
    one of the signals, is called as ever."""
    script = (
        "import pathlib, signal, sys, time\n"
        "import front_models._files as files\n"
        "from front_models._cli import main\n"
        f"for name in {own.split()}:\n"
        "    signal.signal(getattr(signal, name), lambda *_: print('own', flush=True))\n"
        "def write_half(tensors, path, metadata):\n"
        "    pathlib.Path(path).write_bytes(bytes(100))\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "files.save_file = write_half\n"
        "unlink = pathlib.Path.unlink\n"
        "def slowly(path, *arguments, **options):\n"
        "    print('removing', flush=True)\n"
        "    time.sleep(1)\n"
        "    unlink(path, *arguments, **options)\n"
        "pathlib.Path.unlink = slowly\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, "-P", "-c", script, *TRANSFER, "out.safetensors"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=default_interrupts) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(first)
        assert process.stdout.readline() == "removing\n"
        for number in later:
            process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + first
    assert said.splitlines().count("own") == bool(own)
    assert names_in(files) == ["like.safetensors", "source.safetensors"]


def test_handlers_of_the_caller_and_other_threads(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def own(number: int, frame: object) -> None:
        seen.append(number)

    hangup = signal.getsignal(signal.SIGHUP)  # ignored under nohup
    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("front_models._cli.cli.main", lambda **_: os.kill(os.getpid(), signal.SIGTERM))
            assert main(["--version"]) in (0, None)
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGHUP) is hangup
    finally:
        signal.signal(signal.SIGTERM, before)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, ["inspect", "nope"]).result() == 1
