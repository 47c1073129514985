"""What the commands share: options, the kind of output, the progress bar, and what goes to stdout."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from front_models._atomic import check_output
from front_models._kinds import check_skip

__all__ = [
    "config_seed_option",
    "extraction_options",
    "heads_option",
    "initialization_options",
    "named",
    "output_options",
    "output_path",
    "print_json",
    "print_table",
    "progress_bar",
    "reporting_options",
    "seed_option",
    "skip_option",
    "transfer_options",
]

F = TypeVar("F", bound=Callable[..., Any])


def _ratio(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    # A NaN fails every comparison, so that the range is asked for, not its outside.
    if not 0 < value <= 1:
        raise click.BadParameter(f"{value:g} is not in the range (0, 1].")
    return value


def named(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """The callback of every path: an empty one would stand for the current folder."""
    if value == "":
        raise click.BadParameter("the name is empty.")
    return value


def _skip_words(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    words = tuple(word.strip() for value in values for word in value.split(","))
    try:
        return check_skip(words)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _heads(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    numbers = value.split(",")
    if len(numbers) > 2 or not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
        raise click.BadParameter(f"{value!r} is not a number of heads, nor two with a comma between them, such as 12,4")
    return int(numbers[0]), int(numbers[-1])


def _compose(*options: Callable[[F], F]) -> Callable[[F], F]:
    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


skip_option = click.option(
    "--skip",
    multiple=True,
    callback=_skip_words,
    metavar="WORDS",
    help="Leave these roles as they are: qkv, o, mlp, norm, embed, head, or patterns on names such as 'blocks.0.*'; "
    "separated by commas, or given several times.",
)


def _seed_option(more: str = "") -> Callable[[F], F]:
    return click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        metavar="N",
        default=0,
        show_default=True,
        help=f"For the initial values of a model built from a config{more}.",
    )


def _heads_option(start: str) -> Callable[[F], F]:
    return click.option(
        "--heads",
        callback=_heads,
        metavar="N[,KV]",
        help=f"{start} of a layer of SRC, and key/value heads where they are others. Without it, what the config.json "
        "beside SRC says.",
    )


seed_option = _seed_option(", and for --depth-fill random")
config_seed_option = _seed_option()
heads_option = _heads_option("For the aligned recipe: attention heads")
extraction_options: Callable[[F], F] = _compose(
    click.option(
        "--keep-ratio",
        type=float,
        callback=_ratio,
        default=1.0,
        show_default=True,
        metavar="R",
        help="Keep the lowest R of the coefficients of each axis, 0 < R <= 1.",
    ),
    click.option(
        "--mlp-axes",
        type=click.Choice(["both", "hidden"]),
        default="both",
        show_default=True,
        help="Transform both axes of the MLP's matrices, or their hidden axis only.",
    ),
    click.option(
        "--depth/--no-depth",
        default=True,
        show_default=True,
        help="Transform along the layers too, or treat each layer by itself and match it by its name.",
    ),
)


def _initialization_options(*fills: str, more: str = "") -> Callable[[F], F]:
    return _compose(
        click.option(
            "--gain",
            type=click.Choice(["none", "area", "ortho"]),
            default="none",
            show_default=True,
            help="Scale each axis of a matrix by n_target/n_kept (area) or sqrt(n_target/n_source) (ortho), the layers "
            "never. Without a gain, weights grow when a model shrinks: see 'std before' and 'std after' in the report.",
        ),
        click.option(
            "--depth-fill",
            type=click.Choice(["zero", "random", "consistence", "repeat", *fills]),
            default="zero",
            show_default=True,
            help="What a deeper target's depth coefficients beyond the source's are: zero, drawn from the kept ones' "
            "mean and std, copies of the kept ones; repeat inverts at the source's depth (for targets no deeper than "
            f"that).{more}",
        ),
        click.option(
            "--select-n",
            type=click.IntRange(min=1),
            metavar="N",
            show_default="as many as fit",
            help="Keep at most N coefficients along the layers.",
        ),
    )


initialization_options = _initialization_options()
transfer_options: Callable[[F], F] = _compose(
    _initialization_options(
        "first",
        "select",
        more=" With --recipe aligned: the first layers, and from the first again where there are no more (first, its "
        "default), or evenly spaced ones (select).",
    ),
    click.option(
        "--recipe",
        type=click.Choice(["paper", "aligned"]),
        default="paper",
        show_default=True,
        help="aligned: rotate the residual stream to its principal axes and order units and heads by importance, then "
        "transform along the stream alone and choose units, heads and layers (ViT, BERT, GPT-2, Llama). Of the "
        "transform's other options it takes --depth-fill.",
    ),
    _heads_option("With --recipe aligned: attention heads"),
)
reporting_options: Callable[[F], F] = _compose(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table."),
    click.option("-q", "--quiet", is_flag=True, help="No progress bar."),
)


def output_options(metavar: str, description: str, *, folder: bool) -> Callable[[F], F]:
    """``-o/--output`` and ``--force``; `folder`: the output may be a folder."""
    force = "Replace an existing file."
    if folder:
        force = (
            "Replace an existing file, or a folder that holds a model and nothing else: config.json, weights, "
            "tokenizer's files, README.md. A folder with any other file is never replaced."
        )
    return _compose(
        click.option("-o", "--output", required=True, metavar=metavar, callback=named, help=description),
        click.option("--force", is_flag=True, help=force),
    )


def output_path(output: str, *, force: bool) -> tuple[Path, bool]:
    """The path of a started model, and whether it is a folder; checked before any work.

    Raises:
        click.BadParameter: The name says neither folder nor ``.safetensors``.
        OSError: It exists and `force` is False, or cannot be written (see `check_output`).
    """
    path = Path(output)
    suffix = path.suffix
    folder = output.endswith("/") or path.is_dir() or suffix == "" or suffix[1:].isdecimal()
    if not folder and suffix != ".safetensors":
        raise click.BadParameter(
            f"{output!r} must end in .safetensors, or be a folder (a name without a suffix, or ending in /).",
            param_hint="'-o' / '--output'",
        )
    check_output(path, force=force, folder=folder)
    return path, folder


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A callback (done, total, role) that draws a bar on stderr; None where that is no terminal or with `quiet`."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[role]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, role="")

        def update(done: int, total: int, role: str) -> None:
            progress.update(task, completed=done, total=total, role=role)

        yield update


def print_table(table: Any) -> None:
    """Print what rich can render to stdout; as wide as it needs to be where stdout is no terminal."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        wide = console.options.update(max_width=10_000)
        console.width = Measurement.get(console, wide, table).maximum
    console.print(table)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document to stdout; numbers that are not finite become null, as JSON has none."""
    click.echo(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
