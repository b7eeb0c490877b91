"""What the commands share: options over samples, errors as one line and an exit code, tables of estimates."""

from __future__ import annotations

import inspect
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from ..checks import MOST_LAYERS, expanded, shown
from ..documents import parse_yaml, read_text
from ..errors import AvflowError, AvflowWarning, InputError
from ..streams import printable
from .leaving import leaving

WRITES_FILES = ("demo", "look", "merge", "plan", "report", "sweep")  # commands whose work is not what they print
state = {"debug": False, "only_prints": True, "default_device": False}


def _set_debug(value: bool) -> None:
    state["debug"] = state["debug"] or value


Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks; a failing sample ends the run.", callback=_set_debug)
]
Checkpoint = Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")]
Questions = Annotated[str, typer.Argument(help="Questions: a .jsonl, .json, .csv or .parquet file, or hf:owner/name.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where the model runs.")]
Memory = Annotated[str | None, typer.Option(help="For the rows of one walk: 8GB, 500MB.", show_default="what is free")]
Fps = Annotated[float | None, typer.Option(help="Frames a second taken from videos.")]
StrictMedia = Annotated[
    bool, typer.Option("--strict-media", help="Refuse sound of another length than its video, or too long to be heard.")
]
Timing = Annotated[
    str, typer.Option(help='"player": frames and sound by the file\'s clock; "published": as the published pipelines.')
]
OwnLabels = Annotated[
    str | None, typer.Option(help='Groups of your own: "file.py:function", called with every prompt and its sample.')
]
Check = Annotated[
    str | None,
    typer.Option(
        help="Where a clean run is not the model's own forward: error, warn or off; N: compare every N-th sample too.",
        show_default="error",
    ),
]
MaxPixels = Annotated[int | None, typer.Option(help="Largest frame, in pixels.")]


@dataclass
class SampleOptions:
    """The options of every command over a file of samples; see `over_samples`."""

    dtype: Dtype = "float32"
    device: Device = "cpu"
    data: Annotated[str | None, typer.Option(help="Layout of SAMPLES: a data set's name, or a mapping file.")] = None
    media: Annotated[Path | None, typer.Option(help="Folder of the media.", show_default="that of SAMPLES")] = None
    task: Annotated[list[str] | None, typer.Option(help="Only samples of this task; may be repeated.")] = None
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None
    shuffle_seed: Annotated[int | None, typer.Option(help="Samples in a random order of this seed.")] = None
    shard: Annotated[
        str | None,
        typer.Option(help='The i-th of n parts of the samples, "1/4"; `avflow merge` joins the runs.'),
    ] = None
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad/--no-skip-bad", help="Rows that make no sample are left out, told and counted.")
    ] = True
    workers: Annotated[
        int | None, typer.Option(help="Processes (or Ray actors), each with a model.", show_default="1")
    ] = None
    ray: Annotated[str | None, typer.Option(help='Ray cluster: "auto", an address, or "local" to start one here.')] = (
        None
    )
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; a run that is in the folder is set aside, as RUN.before-1.")
    ] = False
    decode_threads: Annotated[int, typer.Option(help="Samples whose media are read ahead, each in a thread.")] = 1
    fps: Fps = None
    max_pixels: MaxPixels = None
    strict_media: StrictMedia = False
    timing: Timing = "player"
    labels: OwnLabels = None
    system: Annotated[str | None, typer.Option(help="The system text.", show_default="the model's own")] = None
    instruction: Annotated[
        str | None, typer.Option(help='The line after the options; "" for none.', show_default="the model's own")
    ] = None
    question_first: Annotated[bool, typer.Option("--question-first", help="The text before the media.")] = False
    prompt_style: Annotated[
        str | None,
        typer.Option(
            help="A wording by name (map_the_flow, av-speakerbench, worldsense, tvbench, omnibench, tomato), or a "
            ".yaml or .json file."
        ),
    ] = None
    option_form: Annotated[
        str | None, typer.Option(help='Of every option: "({letter}) {text}".', show_default="{letter}. {text}")
    ] = None
    instruction_first: Annotated[
        bool, typer.Option("--instruction-first", help="The instruction before the question.")
    ] = False
    separate_instruction: Annotated[
        bool, typer.Option("--separate-instruction", help="The instruction is a group of its own, not question_text.")
    ] = False
    answer_prefix: Annotated[
        str | None, typer.Option(help='What the answer begins with: "Best option:(".', show_default="nothing")
    ] = None
    check: Check = None
    debug: Debug = False

    def of_job(self) -> dict[str, Any]:
        """As keyword arguments of a runs.job.RunJob."""
        return dict(
            dtype=self.dtype,
            device=self.device,
            data=self.data,
            media_root=self.media,
            tasks=self.task or [],
            limit=self.limit,
            shuffle_seed=self.shuffle_seed,
            shard=self.shard,
            skip_bad=self.skip_bad,
            workers=self.workers,
            ray=self.ray,
            decode_threads=self.decode_threads,
            media=sampling(self.fps, self.max_pixels, self.strict_media, self.timing) | self.wording(),
            compare=parse_check(self.check),
            restart=self.restart,
            labels=self.labels,
        )

    def wording(self) -> dict[str, Any]:
        """The options of model.prepare about the prompt's text that were given. Raises InputError."""
        style: Any = given(
            option=self.option_form,
            instruction_first=self.instruction_first,
            separate_instruction=self.separate_instruction,
            answer_prefix=self.answer_prefix,
        )
        if self.prompt_style is not None and style:
            raise InputError(
                f"--prompt-style {self.prompt_style} says how the whole prompt is worded: leave it out, or the others"
            )
        texts = given(system=self.system, instruction=self.instruction, question_first=self.question_first)
        return texts | given(prompt_style=style or None if self.prompt_style is None else read_style(self.prompt_style))


class Command(TyperCommand):
    """A command whose paths come with "~" expanded: the shell leaves it in --out=~/run."""

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a file name that is no UTF-8 can be shown too
        state["only_prints"] = ctx.info_name not in WRITES_FILES or bool(ctx.params.get("dry_run"))
        source = ctx.get_parameter_source("device")
        state["default_device"] = source is not None and source.name == "DEFAULT"
        with cli_errors():
            ctx.params = {name: _expanded(name, value) for name, value in ctx.params.items()}
        with warnings_as_lines():
            return super().invoke(ctx)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """A warning of ours is one line on stderr, as an error is; others are shown as before."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, AvflowWarning):
                typer.echo(f"warning: {one_line(str(message))}", err=True)
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, whatever a file's id or name has put in."""
    return printable(" ".join(text.split()))


def _expanded(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(name, one) for one in value]
    return Path(expanded(f"--{name}", value)) if isinstance(value, Path) else value


def over_samples(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator: the command's parameter `over: SampleOptions` becomes the options that SampleOptions has as fields."""
    hints = get_type_hints(SampleOptions, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default) for f in fields(SampleOptions)
    ]
    shared = [p.replace(annotation=hints[p.name]) for p in shared]
    signature = inspect.signature(command, eval_str=True)
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "over"]

    def with_options(**values: Any) -> None:
        over = SampleOptions(**{p.name: values.pop(p.name) for p in shared})
        command(**values, over=over)

    # What typer asks a command for; functools.wraps would lead it on to the command itself.
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
    vars(with_options)["__signature__"] = signature.replace(parameters=[*own, *shared])
    return with_options


def tell_idle_gpu() -> None:
    """A line where a command takes its default, the CPU, and a GPU that avflow has kernels for is there."""
    if not state["default_device"]:
        return
    from avflow_ext import capabilities

    cuda = capabilities()["cuda"]
    if cuda is not None and cuda["path"] is not None:
        typer.echo("note: a GPU is idle, this runs on the CPU: --device cuda --dtype bfloat16 uses it", err=True)


def as_time(seconds: float) -> str:
    """About so long, in two digits: "0.4 s", "12 s", "3.0 min", "5.0 h", "3 days"."""
    for unit, length, until in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < until:
            value = seconds / length
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def given(**values: Any) -> dict[str, Any]:
    """The options that were given: what is left out has its default where it is used."""
    return {name: value for name, value in values.items() if value is not None and value is not False and value != []}


def read_style(text: str) -> str | dict[str, Any]:
    """A style's name as it is; of a file, the fields of an avflow.PromptStyle. Raises InputError."""
    if not text.lower().endswith((".yaml", ".yml", ".json")):
        return text
    path = Path(expanded("--prompt-style", text))
    try:
        values = parse_yaml(read_text(path, "the prompt style"))  # JSON is YAML
    except InputError as error:
        raise InputError(f"--prompt-style {path}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"the prompt style {path} holds no keys: write lines such as 'separate_instruction: true'")
    return values


def sampling(
    fps: float | None, max_pixels: int | None, strict_media: bool = False, timing: str = "player"
) -> dict[str, Any]:
    """The options of model.prepare that were given."""
    other = None if timing == "player" else timing  # the default: as if it were not there, also for runs without it
    return given(fps=fps, max_pixels=max_pixels, strict_media=strict_media, timing=other)


@contextmanager
def cli_errors() -> Iterator[None]:
    """An error of ours is one line on stderr and exit code 2; ctrl-C is one line and 130."""
    try:
        yield
    except AvflowError as error:
        if state["debug"]:
            raise
        typer.echo(f"error: {one_line(str(error))}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        leaving.with_code(130)
        kept = "" if state["only_prints"] else ": finished samples are kept; run the same command again to go on"
        typer.echo(f"stopped{kept}", err=True)
        raise typer.Exit(130) from None


def exit_by(failed: int, asked: int, records: str | Path = "samples.jsonl") -> None:
    """Exit code 1, and a line that says so, where samples failed."""
    if failed:
        typer.echo(
            f"error: {failed} of {asked} samples failed, see {records}; the same command tries them again", err=True
        )
        raise typer.Exit(1)


def tell_bad(bad: dict[str, str], folder: Path | None = None) -> None:
    """How many rows of the samples file make no sample, the first of them, and where all are told."""
    if not bad:
        return
    where, reason = next(iter(bad.items()))
    more = f", and {len(bad) - 1} more: see {folder / 'bad_rows.jsonl'}" if folder is not None and len(bad) > 1 else ""
    rows = "1 row makes" if len(bad) == 1 else f"{len(bad)} rows make"
    typer.echo(f"warning: {rows} no sample, left out: {one_line(f'{where}: {reason}')}{more}", err=True)


def print_estimates(
    ids: Sequence[str],
    estimates: Iterable[tuple[str, dict[str, Any] | str]],
    rate: Callable[[int], float] | None = None,
) -> None:
    """A line a sample, and their sum. `estimates`: (id, its cost as cost.walks_cost gives it, or why there is none).

    rate: of a prompt's tokens, the operations a second of this machine; None: no time is told.
    """
    width = min(60, max(len(i) for i in ids))
    typer.echo(f"{'sample':<{width}} {'tokens':>8} {'rows':>10} {'GFLOP':>12} {'walks':>6} {'ratio':>7}")
    total, failed = {"tokens": 0, "rows": 0, "flops": 0.0, "walks": 0}, 0
    for sample_id, found in estimates:
        if isinstance(found, str):
            failed += 1
            typer.echo(f"{printable(sample_id):<{width}} failed: {one_line(found)}")
            continue
        typer.echo(_estimate_line(sample_id, found, width) + f" {found['ratio']:>7.2f}")
        total = {key: value + found[key] for key, value in total.items()}
    typer.echo(_estimate_line("total", total, width))
    told = "rows: over all layers; ratio: to those of one clean forward. No sample was run."
    if rate is not None and total["flops"]:
        speed = rate(round(total["tokens"] / (len(ids) - failed)))
        told += (
            f" Here the walks take about {as_time(total['flops'] / speed)} or somewhat more, at {speed / 1e9:,.0f} "
            "GFLOP/s, measured just now at this model's sizes; reading and encoding media comes on top."
        )
    typer.echo(told)
    if failed:
        typer.echo(f"error: {failed} samples failed", err=True)
        raise typer.Exit(1)


def _estimate_line(name: str, values: dict, width: int) -> str:
    numbers = f"{values['tokens']:>8,} {values['rows']:>10,} {values['flops'] / 1e9:>12,.1f} {values['walks']:>6}"
    return f"{printable(name):<{width}} {numbers}"


def parse_check(text: str | None) -> str | int | None:
    """A word of `check=`, or a number of samples; it is the job that refuses others."""
    return int(text) if text is not None and re.fullmatch("[0-9]{1,9}", text) else text


def parse_widths(text: str) -> int | list[int]:
    """Width of "7", or widths of "1,3,5". Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise InputError(f"window {shown(text)}: write a width, or several: 1,3,5,7")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def parse_layers(text: str, before: bool = False) -> list[int] | None:
    """Layers of "0-11" or "3,5,7-9", ends included, without repeats; None for "all". Raises InputError.

    before: "-1" is one too, for before layer 0.
    """
    if text.strip() == "all":
        return None
    found: set[int] = set()
    for part in text.split(","):
        if before and part.strip() == "-1":
            found.add(-1)
            continue
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        long = match and max(len(match[1]), len(match[2] or "")) > 9  # digits
        first, last = (int(match[1]), int(match[2] or match[1])) if match and not long else (1, 0)
        if last < first and not long:
            raise InputError(f'layers {shown(text)}: cannot read {part.strip()!r}; write "all", "0-11" or "3,5,7-9"')
        if long or last > MOST_LAYERS:
            raise InputError(f"layers {shown(text)}: no model has as many layers; they count from 0")
        found.update(range(first, last + 1))
    return sorted(found)


def parse_cells(texts: list[str]) -> list[tuple[str, int]]:
    """Knockouts and centres of "video->question@10,audio->last@3". Raises InputError."""
    cells = []
    for part in split_texts(texts):
        name, at, centre = part.rpartition("@")
        if not at or not re.fullmatch("[0-9]{1,9}", centre.strip()):
            raise InputError(f"cells hold {shown(part)}: write a path and the window's centre, video->question@10")
        cells.append((name.strip(), int(centre)))
    return cells


def split_texts(texts: list[str]) -> list[str]:
    """Texts at their commas, those in brackets left: "video[0,2]->last (heads 1,2),cross:video"."""
    parts = [part.strip() for text in texts for part in re.split(r",(?![^\[]*\])(?![^(]*\))", text)]
    if not all(parts):
        raise InputError(f"knockouts {', '.join(texts)!r} hold an empty one: write them as a->b,c->d")
    return parts
