"""The command line: every command, its errors and exit codes, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import front_models
import front_models._cli_options as options_module
import front_models._files as files_module
import front_models._learngene as learngene_module
from command import TRANSFER, assert_error, folder_of_weights, names_in
from front_models._cli import main
from front_models._files import open_weights, save_weights


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return folder_of_weights(tmp_path, monkeypatch)


# What the commands do


def test_transfer_to_a_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRANSFER, "out.safetensors"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "blocks.{}.mlp.fc1.weight" in captured.out
    assert "wrote out.safetensors" in captured.out
    expected, _ = front_models.transfer("source.safetensors", "like.safetensors")
    written = load_file("out.safetensors")
    assert sorted(written) == sorted(expected)
    for name, tensor in expected.items():
        assert torch.equal(written[name], tensor)
    assert torch.equal(written["extra.weight"], load_file("like.safetensors")["extra.weight"])
    with safe_open("out.safetensors", framework="pt") as stored:
        assert stored.metadata() == {"format": "pt"}


def test_extract_and_init_equal_transfer(files: Path) -> None:
    options = ["--gain", "area", "--depth-fill", "random", "--select-n", "1", "--seed", "5"]
    assert main(["extract", "source.safetensors", "-o", "gene.safetensors", "--keep-ratio", "0.5"]) == 0
    assert main(["init", "gene.safetensors", "--like", "like.safetensors", "-o", "a.safetensors", *options]) == 0
    assert main([*TRANSFER, "b.safetensors", "--keep-ratio", "0.5", *options]) == 0
    one, other = load_file("a.safetensors"), load_file("b.safetensors")
    before = load_file("like.safetensors")
    for name in before:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(one[name], before[name]) == (name == "extra.weight")


def test_ties_of_a_file_stay(files: Path) -> None:
    shared = torch.randn(9, 6)
    save_weights("tied.safetensors", {**load_file("like.safetensors"), "embed.weight": shared, "head.weight": shared})
    save_file({**load_file("source.safetensors"), "embed.weight": torch.randn(9, 8)}, "source.safetensors")
    assert main(["extract", "source.safetensors", "-o", "gene.safetensors"]) == 0
    assert main(["init", "gene.safetensors", "--like", "tied.safetensors", "-o", "a.safetensors"]) == 0
    assert main(["transfer", "source.safetensors", "--like", "tied.safetensors", "-o", "b.safetensors"]) == 0
    for path in ("a.safetensors", "b.safetensors"):
        written = open_weights(path)
        assert written.aliases == {"head.weight": "embed.weight"}
        assert not torch.equal(written["embed.weight"], shared)
    assert torch.equal(open_weights("tied.safetensors")["embed.weight"], shared)


def test_the_output_may_be_the_source(files: Path) -> None:
    expected, _ = front_models.transfer("source.safetensors", "like.safetensors")
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    assert main([*TRANSFER, "source.safetensors", "--force"]) == 0
    written = load_file("source.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--keep-ratio", "0.4"], {"keep_ratio": 0.4}),
        (["--mlp-axes", "hidden"], {"mlp_axes": "hidden"}),
        (["--no-depth"], {"depth": False}),
        (["--gain", "ortho"], {"gain": "ortho"}),
        (["--depth-fill", "consistence"], {"depth_fill": "consistence"}),
        (["--select-n", "1"], {"select_n": 1}),
        (["--skip", "norm,*.fc2.*", "--skip", "qkv"], {"skip": ("norm", "*.fc2.*", "qkv")}),
    ],
)
def test_options_reach_the_transfer(files: Path, flags: list[str], options: dict[str, Any]) -> None:
    assert main([*TRANSFER, "out.safetensors", *flags]) == 0
    expected, _ = front_models.transfer("source.safetensors", "like.safetensors", **options)
    plain, _ = front_models.transfer("source.safetensors", "like.safetensors")
    written = load_file("out.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    assert not all(torch.equal(written[name], tensor) for name, tensor in plain.items())


def test_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({**load_file("source.safetensors"), "nan": torch.full((4,), torch.nan)}, "source.safetensors")
    save_file({**load_file("like.safetensors"), "nan": torch.zeros(4)}, "like.safetensors")
    documents = []
    for command in (
        ["extract", "source.safetensors", "-o", "gene.safetensors"],
        ["init", "gene.safetensors", "--like", "like.safetensors", "-o", "a.safetensors"],
        [*TRANSFER, "b.safetensors"],
        ["inspect", "source.safetensors"],
    ):
        assert main([*command, "--json"]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        documents.append(json.loads(captured.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")))
    gene, init, transfer, inspect = documents
    assert {row["role"]: row["kept"] for row in gene["rows"]}["blocks.{}.mlp.fc1.weight"] == [16, 8]
    assert [row["role"] for row in init["rows"]] == [row["role"] for row in transfer["rows"]]
    assert transfer["output"] == "b.safetensors"
    row = {row["role"]: row for row in transfer["rows"]}["blocks.{}.mlp.fc1.weight"]
    assert (row["source_shape"], row["source_depth"]) == ([16, 8], 2)
    assert (row["target_shape"], row["target_depth"]) == ([12, 6], 3)
    assert 0 < row["energy_kept"] < 1
    assert {row["role"]: row["depth"] for row in inspect["rows"]}["blocks.{}.mlp.fc2.weight"] == 2


def test_inspect_prints_whole_names_and_draws(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a.very.long.name." * 12 + "weight"
    save_file({name: torch.randn(9, 9)}, "long.safetensors")
    assert main(["inspect", "long.safetensors", "--plot", "energy.png"]) == 0
    out = capsys.readouterr().out
    assert name in out
    assert "wrote energy.png" in out
    assert Path("energy.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_whose_config_is_not_hugging_faces(files: Path) -> None:
    """As timm's: the weights in it are the target."""
    Path("like").mkdir()
    Path("like.safetensors").rename("like/model.safetensors")
    Path("like/config.json").write_text('{"architecture": "vit_tiny"}')
    assert main(["transfer", "source.safetensors", "--like", "like", "-o", "out"]) == 0
    assert names_in(files / "out") == ["config.json", "model.safetensors"]
    assert Path("out/config.json").read_text() == '{"architecture": "vit_tiny"}'
    expected, _ = front_models.transfer("source.safetensors", "like")
    assert torch.equal(
        load_file("out/model.safetensors")["blocks.1.mlp.fc1.weight"], expected["blocks.1.mlp.fc1.weight"]
    )


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["extract"], ["init"], ["transfer"], ["inspect"]):
        assert main([*command, "--help"]) == 0
        assert "Example" in capsys.readouterr().out
    assert main([]) == 0
    assert "Usage: front" in capsys.readouterr().out


# Errors: one line on stderr, nothing on stdout, nothing left behind


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep-ratio", "0"], "'--keep-ratio': 0 is not in the range (0, 1]"),
        (["--keep-ratio", "1.5"], "'--keep-ratio': 1.5 is not in the range (0, 1]"),
        (["--keep-ratio", "nan"], "'--keep-ratio': nan is not in the range (0, 1]"),
        (["--keep-ratio", "many"], "'--keep-ratio': 'many' is not a valid float"),
        (["--select-n", "0"], "'--select-n': 0 is not in the range x>=1"),
        (["--seed", "-1"], "'--seed': -1 is not in the range 0<=x<=4294967295"),
        (["--gain", "loud"], "'--gain': 'loud' is not one of 'none', 'area', 'ortho'"),
        (["--depth-fill", "x"], "'--depth-fill': 'x' is not one of"),
        (["--mlp-axes", "x"], "'--mlp-axes': 'x' is not one of"),
        (["--depth-fill", "select"], "'--depth-fill': 'select' goes with '--recipe aligned'."),
        (["--heads", "2"], "'--heads' goes with '--recipe aligned'."),
        (["--recipe", "aligned", "--gain", "ortho"], "'--gain' goes with '--recipe paper'."),
        (["--recipe", "aligned", "--keep-ratio", "0.5"], "'--keep-ratio' goes with '--recipe paper'."),
        (["--recipe", "aligned", "--mlp-axes", "hidden"], "'--mlp-axes' goes with '--recipe paper'."),
        (["--recipe", "aligned", "--no-depth"], "'--depth' goes with '--recipe paper'."),
        (["--recipe", "aligned", "--select-n", "1"], "'--select-n' goes with '--recipe paper'."),
        (
            ["--recipe", "aligned", "--depth-fill", "zero"],
            "'--depth-fill': 'zero' goes with '--recipe paper'; with aligned: first or select.",
        ),
        (["--heads", "2,1,1"], "'2,1,1' is not a number of heads, nor two with a comma between them, such as 12,4"),
        (["--heads", "0"], "'0' is not a number of heads"),
        (["--skip", "norm,atention"], "unknown word 'atention'; allowed are qkv, o, mlp, norm"),
        (["--skip", "norm,"], "unknown word ''"),
        (["--nonsense"], "No such option"),
        (["-o", "out.pt"], "'out.pt' must end in .safetensors, or be a folder"),
    ],
)
def test_wrong_usage(files: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert_error(capsys, main([*TRANSFER, "out.safetensors", *flags]), 2, message)
    assert names_in(files) == ["like.safetensors", "source.safetensors"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["transfer", "source.safetensors", "-o", "out"], "Missing option '--like'"),
        (["transfer"], "Missing argument 'SRC'"),
        (["transmit"], "No such command 'transmit'"),
        (["extract", "source.safetensors", "-o", "gene"], "'gene' must end in .safetensors"),
        (["inspect", "source.safetensors", "--plot", "a.jpg"], "must end in one of .png, .svg, .pdf"),
        (["inspect", ""], "'FILE': the name is empty."),
        (["inspect", "source.safetensors", "--plot", ""], "'--plot': the name is empty."),
        ([*TRANSFER, ""], "'-o' / '--output': the name is empty."),
        (["transfer", "source.safetensors", "--like", "", "-o", "out"], "'--like': the name is empty."),
        (["transfer", "", "--like", "like.safetensors", "-o", "out"], "'SRC': the name is empty."),
        (["init", "", "--like", "like.safetensors", "-o", "out"], "'GENE': the name is empty."),
        (["init", "g", "--like", "l", "-o", "o", "--depth-fill", "first"], "'--depth-fill': 'first' is not one of"),
    ],
)
def test_wrong_commands(files: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str) -> None:
    assert_error(capsys, main(command), 2, message)


def test_bad_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path("source.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-10])
    Path("model.onnx").touch()
    Path("empty").mkdir()
    save_file({"something.else": torch.zeros(3)}, "other.safetensors")
    front_models.extract("source.safetensors").save("gene.safetensors")
    before = names_in(files)
    like = ["--like", "like.safetensors", "-o", "out.safetensors"]
    for command, message in (
        (["transfer", "nope.safetensors", *like], "nope.safetensors: no such file or folder"),
        (["transfer", "cut.safetensors", *like], "cut.safetensors: truncated or not a safetensors file"),
        (["transfer", "model.onnx", *like], "model.onnx: unknown suffix '.onnx'"),
        (["transfer", "empty", *like], "empty: the folder has none of model.safetensors"),
        (["transfer", "gene.safetensors", *like], "gene.safetensors: a learngene, not a model's weights"),
        (["transfer", "other.safetensors", *like], "something.else"),
        (["init", "source.safetensors", *like], "not a learngene"),
        (["init", "nope.safetensors", *like], "nope.safetensors"),
        (["init", "cut.safetensors", *like], "cut.safetensors"),
        (["transfer", "source.safetensors", "--like", "nope", "-o", "out"], "nope: no such file or folder"),
        ([*TRANSFER, "out"], "a folder needs a config.json"),
        ([*TRANSFER, "none/out.safetensors"], "none does not exist"),
        ([*TRANSFER, "out.safetensors", "--depth-fill", "repeat"], "repeat"),
        (["extract", "cut.safetensors", "-o", "out.safetensors"], "cut.safetensors: truncated"),
        (["inspect", "cut.safetensors"], "cut.safetensors: truncated"),
        (["inspect", "other.safetensors", "--plot", "a.png"], "no matrix with both sides of 8 and more to draw"),
    ):
        assert_error(capsys, main(command), 1, message)
        assert names_in(files) == before, command


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("it-ran",)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_is_not_run(files: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    if how == "torch":
        torch.save({"w": Evil()}, "evil.pt")
    else:
        Path("evil.pt").write_bytes(pickle.dumps({"w": Evil()}))
    for command in (
        ["transfer", "evil.pt", "--like", "like.safetensors", "-o", "out.safetensors"],
        ["transfer", "source.safetensors", "--like", "evil.pt", "-o", "out.safetensors"],
        ["inspect", "evil.pt"],
    ):
        assert_error(capsys, main(command), 1, "evil.pt: ")
    assert names_in(files) == ["evil.pt", "like.safetensors", "source.safetensors"]


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ([*TRANSFER, "out.safetensors"], "out.safetensors"),
        (["extract", "source.safetensors", "-o", "out.safetensors"], "out.safetensors"),
        (["inspect", "source.safetensors", "--plot", "out.png"], "out.png"),
    ],
)
def test_force(files: Path, capsys: pytest.CaptureFixture[str], command: list[str], output: str) -> None:
    Path(output).write_text("precious")
    code = main(command)
    assert_error(capsys, code, 1, f"{output}: exists; it is replaced only with force (--force)")
    assert Path(output).read_text() == "precious"
    assert main([*command, "--force"]) == 0
    assert Path(output).stat().st_size > 100
    assert names_in(files) == sorted(["like.safetensors", "source.safetensors", output])


def test_a_full_disk(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.safetensors").write_text("precious")

    def write_half(tensors: dict[str, Tensor], path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"\0" * 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files_module, "save_file", write_half)
    assert_error(capsys, main([*TRANSFER, "out.safetensors", "--force"]), 1, "No space left on device")
    assert Path("out.safetensors").read_text() == "precious"
    assert names_in(files) == ["like.safetensors", "out.safetensors", "source.safetensors"]


def test_extract_on_a_full_disk_names_its_output(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(_tensors: dict[str, Tensor], path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"\0" * 100)
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(learngene_module, "save_file", write_half)
    code = main(["extract", "source.safetensors", "-o", "gene.safetensors"])
    assert_error(capsys, code, 1, "front: error: gene.safetensors: No space left on device\n")
    assert names_in(files) == ["like.safetensors", "source.safetensors"]


def test_the_current_folder_is_not_swapped_away(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files.stat().st_ino
    Path("empty").mkdir()
    os.chdir("empty")
    command = ["transfer", "../source.safetensors", "--like", "../like.safetensors", "-o", "."]
    assert_error(capsys, main(command), 1, ".: the current folder is never replaced")
    assert files.stat().st_ino == before
    assert names_in(files / "empty") == []


def test_a_skip_pattern_that_matches_nothing_is_noted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip = ["--skip", "*.fc9.*,*.fc2.*,qkv", "--skip", "blocks.{}.mlp.fc1.bias", "--skip", "layers.{}.*"]
    note = "".join(f"front: note: --skip {word!r} matched nothing\n" for word in ("*.fc9.*", "layers.{}.*"))
    for command in (
        ["extract", "source.safetensors", "-o", "gene.safetensors"],
        ["init", "gene.safetensors", "--like", "like.safetensors", "-o", "a.safetensors"],
        [*TRANSFER, "b.safetensors"],
    ):
        assert main([*command, *skip]) == 0
        printed = capsys.readouterr()
        assert printed.err == note
        assert "matches no tensor" not in printed.out


def test_files_of_compiled_models_are_read_by_plain_names(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both sides; what is written has plain names, too."""
    for name in ("source", "like"):
        plain = load_file(f"{name}.safetensors")
        save_file({f"_orig_mod.{key}": tensor for key, tensor in plain.items()}, f"{name}-compiled.safetensors")
    skip = ["--skip", "blocks.*.mlp.fc1.*,_orig_mod.*"]
    note = "front: note: --skip '_orig_mod.*' matched nothing\n"
    for end in ("", "-compiled"):
        source, like = f"source{end}.safetensors", f"like{end}.safetensors"
        assert main(["transfer", source, "--like", like, "-o", f"t{end}.safetensors", *skip]) == 0
        assert capsys.readouterr().err == note
        assert main(["extract", source, "-o", f"g{end}.safetensors", *skip]) == 0
        assert capsys.readouterr().err == note
        assert main(["init", f"g{end}.safetensors", "--like", like, "-o", f"i{end}.safetensors", *skip]) == 0
        assert capsys.readouterr().err == note
        assert main(["inspect", source, "--plot", f"p{end}.png"]) == 0
        capsys.readouterr()
    for made in "ti":
        one, other = (load_file(f"{made}{end}.safetensors") for end in ("", "-compiled"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_names_that_look_like_markup(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["blocks.0.w[/x]", "blocks.0.b[bold]w", "a$^$b"]
    odd = "m$x_{$.safetensors"
    save_file({name: torch.randn(8, 8) for name in names}, odd)
    assert main(["inspect", odd, "--plot", "odd.png"]) == 0
    assert main(["extract", odd, "-o", "odd-gene.safetensors"]) == 0
    assert main(["compare", odd, "--like", odd]) == 0
    out = capsys.readouterr().out
    for name in names:
        assert out.count(name) == 3


def test_the_progress_bar_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200)
    monkeypatch.setattr(options_module, "Console", lambda **_: console)
    with options_module.progress_bar("reading", quiet=False) as update:
        assert update is not None
        update(1, 2, "w[/x][bold]")
    assert "w[/x][bold]" in screen.getvalue()
