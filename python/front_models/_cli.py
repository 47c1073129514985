"""The command `front`: extract, init, transfer, compare and inspect."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
import torch
from click.core import ParameterSource
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from front_models import _cli_options as options
from front_models._atomic import check_output
from front_models._compare import compare
from front_models._files import open_weights, tied_names
from front_models._inspect import inspect_weights, plot_choice
from front_models._learngene import GeneRole, Learngene
from front_models._naming import expand_skip, own_names, unmatched
from front_models._options import CHOOSING
from front_models._plot import check_picture, plot_energy
from front_models._report import TransferReport
from front_models._targets import Target, align_names, load_target
from front_models._transfer import extract, initialize, transfer

__all__ = ["cli", "main"]

LIKE = click.option(
    "--like",
    required=True,
    metavar="TARGET",
    callback=options.named,
    help="The model to be started: a weights file or folder, or a folder with a Hugging Face config.json. From a "
    "config the model is built: of the class in its architectures or, where it names none, without a head (AutoModel), "
    "and with fresh values (--seed), which roles that the source lacks keep; weights beside the config are not read.",
)
WHERE = "Where to write: a .safetensors file, or a folder (weights, config.json, and the tokenizer's files of TARGET"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="front-kernels", prog_name="front")
def cli() -> None:
    """Start a model of any size from a trained model of another size, without training.

    The low-frequency part of the trained weights, taken by a discrete cosine transform, is cut or padded to the new
    size (FRONT, Shen et al., ICML 2026, arXiv:2603.07523).

    \b
    Example:
      front transfer minilm/ --like my-bert-config/ -o my-bert/
    """


@cli.command("extract")
@click.argument("source", metavar="SRC", callback=options.named)
@options.output_options("GENE", "The learngene to write: one safetensors file.", folder=False)
@options.extraction_options
@options.skip_option
@options.reporting_options
def extract_command(
    source: str, output: str, force: bool, skip: tuple[str, ...], as_json: bool, quiet: bool, **extraction: Any
) -> None:
    """Take the learngene out of the weights SRC.

    SRC is a .safetensors, .pt, .pth or .bin file, or a folder with model.safetensors (sharded or not). One learngene
    starts any number of models: see front init.

    \b
    Example:
      front extract model.safetensors -o model.gene.safetensors --keep-ratio 0.5
    """
    path = Path(output)
    if path.suffix != ".safetensors":
        raise click.BadParameter(f"{output!r} must end in .safetensors.", param_hint="'-o' / '--output'")
    check_output(path, force=force, folder=False)
    started = time.perf_counter()
    weights = open_weights(source)
    with options.progress_bar("extracting", quiet=quiet) as progress:
        gene = extract(weights, skip=skip, progress=progress, **extraction)
    gene.save(path, force=force)
    _note_unmatched(skip, weights)
    seconds = time.perf_counter() - started
    if as_json:
        rows = [_gene_row(role) for role in gene.roles.values()]
        options.print_json({"command": "extract", "output": output, "seconds": seconds, "rows": rows})
        return
    table = Table(title=f"{len(gene.roles)} roles extracted", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("role", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for heading in ("shape", "depth", "kept", "coefficients"):
        table.add_column(heading, justify="right", no_wrap=True)
    for role in gene.roles.values():
        count = f"{role.coefficients.numel():,}"
        table.add_row(Text(role.template), role.kind, _times(role.shape), str(role.depth), _times(role.kept), count)
    options.print_table(table)
    click.echo(f"wrote {output} ({path.stat().st_size / 1e6:.1f} MB) in {seconds:.1f} s")


@cli.command("init")
@click.argument("gene", metavar="GENE", callback=options.named)
@LIKE
@options.output_options("OUT", f"{WHERE}).", folder=True)
@options.initialization_options
@options.skip_option
@options.seed_option
@options.reporting_options
def init_command(
    gene: str,
    like: str,
    output: str,
    force: bool,
    skip: tuple[str, ...],
    gain: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    **start: Any,
) -> None:
    """Start a model like TARGET from the learngene GENE.

    \b
    Example:
      front init model.gene.safetensors --like small-config/ -o small/ --gain area
    """
    path, folder = options.output_path(output, force=force)
    started = time.perf_counter()
    learngene = Learngene.load(gene)
    target = load_target(like, seed=seed)
    target.check(output, folder=folder)
    own = _writable(target)
    known = [n for role in learngene.roles.values() for n in role.names]
    names = align_names(own, known, target.prefix)
    words = expand_skip(skip, names)
    tensors = {names[name]: tensor for name, tensor in own.items()}
    with options.progress_bar("initializing", quiet=quiet) as progress:
        report = initialize(
            tensors,
            learngene,
            skip=_known(words, [*names.values(), *known]),
            gain=_gain(gain),
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
            **start,
        )
    target.save(path, {name: tensors[names[name]] for name in own}, folder=folder, force=force)
    _note_unmatched(skip, [*names, *names.values(), *known])
    _tell("init", own_names(report, names, words), output, time.perf_counter() - started, as_json=as_json)


@cli.command("transfer")
@click.argument("source", metavar="SRC", callback=options.named)
@LIKE
@options.output_options("OUT", f"{WHERE} or else of the source).", folder=True)
@options.extraction_options
@options.transfer_options
@options.skip_option
@options.seed_option
@options.reporting_options
def transfer_command(
    source: str,
    like: str,
    output: str,
    force: bool,
    skip: tuple[str, ...],
    gain: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    **both: Any,
) -> None:
    """Start a model like TARGET from the weights SRC: front extract and front init in one go.

    SRC is a .safetensors, .pt, .pth or .bin file, or a folder with model.safetensors (sharded or not).

    \b
    Examples:
      front transfer model.safetensors --like small.safetensors -o init.safetensors
      front transfer minilm/ --like my-bert-config/ -o my-bert/ --gain area
      front transfer gpt2/ --like small-gpt2-config/ -o small/ --recipe aligned
    """
    path, folder = options.output_path(output, force=force)
    _check_recipe(both["recipe"], both["heads"], both["depth_fill"])
    if both["recipe"] == "aligned" and both["depth_fill"] not in CHOOSING:  # not given
        both["depth_fill"] = None
    started = time.perf_counter()
    weights = open_weights(source)
    target = load_target(like, seed=seed)
    target.check(output, folder=folder)
    names = align_names(target.tensors, weights, target.prefix)
    words = expand_skip(skip, names)
    with options.progress_bar("transferring", quiet=quiet) as progress:
        tensors, report = transfer(
            weights,
            target.renamed(names),
            skip=_known(words, [*names.values(), *weights]),
            gain=_gain(gain),
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
            **both,
        )
    target.save(path, {n: tensors[names[n]] for n in target.tensors}, folder=folder, source=Path(source), force=force)
    _note_unmatched(skip, [*names, *names.values(), *weights])
    _tell("transfer", own_names(report, names, words), output, time.perf_counter() - started, as_json=as_json)


@cli.command("compare")
@click.argument("source", metavar="SRC", callback=options.named)
@LIKE
@options.heads_option
@options.config_seed_option
@options.reporting_options
def compare_command(
    source: str, like: str, heads: tuple[int, int] | None, seed: int, as_json: bool, quiet: bool
) -> None:
    """Show what each recipe would keep of SRC in a model like TARGET, and which one that speaks for.

    Beside each share stands what would be kept of white noise: where they are the same, nothing is gained over a random
    choice. Nothing is trained or written.

    \b
    Example:
      front compare gpt2/ --like small-gpt2-config/
    """
    weights = open_weights(source)
    target = load_target(like, seed=seed)
    names = align_names(target.tensors, weights, target.prefix)
    with options.progress_bar("comparing", quiet=quiet) as progress:
        report = compare(weights, target.renamed(names), heads=heads, progress=progress)
    if as_json:
        options.print_json({"command": "compare", "source": source, "like": like, **report.to_dict()})
    else:
        options.print_table(report)


@cli.command("inspect")
@click.argument("file", metavar="FILE", callback=options.named)
@click.option(
    "--plot",
    metavar="PICTURE",
    callback=options.named,
    help="Draw the energy of up to four matrices: .png, .svg or .pdf.",
)
@click.option("--force", is_flag=True, help="Replace an existing picture.")
@click.option("--aligned", is_flag=True, help="Also show what alignment changes along the residual stream.")
@options.reporting_options
def inspect_command(file: str, plot: str | None, force: bool, aligned: bool, as_json: bool, quiet: bool) -> None:
    """Show how much of each role's energy lies in low frequencies, beside what white noise would have.

    FILE is a weights file or folder. The quarter corner is the lowest quarter of each axis (1/16 of a matrix), the half
    corner the lowest half (1/4 of a matrix). Where the share is white noise's, low frequencies hold no more knowledge
    than any others.

    \b
    Example:
      front inspect model.safetensors --plot energy.png
    """
    if plot is not None:
        try:
            check_picture(Path(plot))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'--plot'") from error
        check_output(Path(plot), force=force, folder=False)
    weights = open_weights(file)
    with options.progress_bar("inspecting", quiet=quiet) as progress:
        report = inspect_weights(weights, aligned=aligned, progress=progress)
    if plot is not None:
        chosen = {name: weights[name] for name in plot_choice(report)}
        plot_energy(chosen, plot, title=f"{Path(file).resolve().name}: energy over frequency", force=force)
    if as_json:
        options.print_json({"command": "inspect", "file": file, "plot": plot, **report.to_dict()})
        return
    options.print_table(report)
    if plot is not None:
        click.echo(f"wrote {plot}")


def _check_recipe(recipe: str, heads: tuple[int, int] | None, depth_fill: str) -> None:
    """Which options go with a recipe; raises click.UsageError for others."""
    context = click.get_current_context()

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    if recipe == "paper":
        if heads is not None:
            raise click.UsageError("'--heads' goes with '--recipe aligned'.")
        if depth_fill in CHOOSING:
            raise click.UsageError(f"'--depth-fill': '{depth_fill}' goes with '--recipe aligned'.")
        return
    if given("depth_fill") and depth_fill not in CHOOSING:
        raise click.UsageError(
            f"'--depth-fill': '{depth_fill}' goes with '--recipe paper'; with aligned: {' or '.join(CHOOSING[::-1])}."
        )
    for name in ("gain", "keep_ratio", "mlp_axes", "depth", "select_n"):
        if given(name):
            raise click.UsageError(f"'--{name.replace('_', '-')}' goes with '--recipe paper'.")


def _gene_row(role: GeneRole) -> dict[str, Any]:
    return {
        "role": role.template,
        "kind": role.kind,
        "shape": list(role.shape),
        "depth": role.depth,
        "kept": list(role.kept),
        "coefficients": role.coefficients.numel(),
    }


def _gain(word: str) -> Any:
    return None if word == "none" else word


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _writable(target: Target) -> Mapping[str, Tensor]:
    """The target's tensors to be written in place: the model's own, or copies of a file's, tied as in the file."""
    if target.model is not None:
        return target.tensors
    tied = tied_names(target.tensors)
    copies = {name: tensor.clone() for name, tensor in target.tensors.items() if name not in tied}
    return {name: copies[tied.get(name, name)] for name in target.tensors}


def _known(words: Iterable[str], names: Iterable[str]) -> list[str]:
    """Without those in a form that these names do not have, of which the report would say so."""
    missing = set(unmatched(words, names))
    return [word for word in words if word not in missing]


def _note_unmatched(skip: Iterable[str], names: Iterable[str]) -> None:
    for word in unmatched(skip, names):
        click.echo(f"front: note: --skip {word!r} matched nothing", err=True)


def _tell(command: str, report: TransferReport, output: str, seconds: float, *, as_json: bool) -> None:
    if as_json:
        options.print_json({"command": command, "output": output, "seconds": seconds, **report.to_dict()})
        return
    options.print_table(report)
    click.echo(f"wrote {output} in {seconds:.1f} s")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return " ".join(text.split()) or type(error).__name__


_ENDING = (signal.SIGTERM, signal.SIGHUP)


def _terminate(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that temporaries are removed on the way out; and once, for another one would end that: a
    # closed terminal sends two.
    for each in _ENDING:
        if signal.getsignal(each) is _terminate:
            signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _terminated() -> dict[int, Any]:
    """Has signals that end a process end it so; their handlers before. Not those that it ignores (nohup) or handles."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # where handlers cannot be set
    ending = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    return {number: signal.signal(number, _terminate) for number in ending}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 for success, 1 where the work failed, 2 for wrong usage, 130 for Ctrl-C.

    Every failure that bad input can cause is one line on stderr. Nothing is fetched from the network.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    before = _terminated()
    try:
        chosen = sys.argv[1:] if arguments is None else list(arguments)
        code = cli.main(args=chosen or ["--help"], prog_name="front", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        click.echo(f"front: error: {_one_line(error)}", err=True)
        return 2
    except click.Abort:
        click.echo("front: interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reader of stdout has gone (front inspect | head); Python's own flush at exit must not fail on it again.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        click.echo(f"front: error: {_one_line(error)}", err=True)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if isinstance(code, int) else 0
