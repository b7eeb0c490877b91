"""The command `avflow`. Everything heavy is imported inside the commands, so that --help is quick."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..streams import tolerant_streams
from . import evict as cli_evict
from . import look as cli_look
from . import sweep as cli_sweep
from .leaving import leaving
from .options import (
    Checkpoint,
    Command,
    Debug,
    Device,
    Dtype,
    cli_errors,
    exit_by,
    given,
    one_line,
    state,
    tell_idle_gpu,
)
from .sweep import draw, print_sweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which tokens of an audio-visual LLM pass what to which, in which layers: attention knockout sweeps.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"avflow {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    state["debug"] = debug


@app.command(cls=Command)
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("avflow-demo"),
    model: Annotated[str, typer.Option(help="Which small model: tiny-omni or tiny-salmonn.")] = "tiny-omni",
    debug: Debug = False,
) -> None:
    """Questions about clips, a small model, and all that can be seen of it on one page: report.html."""
    with cli_errors():
        from ..demo import questions
        from ..demo.flow import run_demo
        from ..report.collect import collect
        from ..report.words import summary
        from ..report.write import report_together

        typer.echo(f"making held-out clips in {folder} ...")
        made = questions.held_out(folder, model=model)
        found = run_demo(made, folder, typer.echo, debug=state["debug"])
        for run in found.folders[: len(found.outcomes)]:
            draw(run, title="Demo")
        page = report_together(found.folders, folder, title="What a small model sees, hears and needs")
        for part in summary(collect(found.folders)):
            typer.echo("\n".join([f"\n{part['title']}", *(f"  {line}" for line in part["lines"])]))
        typer.echo(f"\ncheckpoint  {made['checkpoint']}\nquestions   {made['samples']}")
        if "items" in made:
            typer.echo(f"items       {made['items']}")
        for run, outcome in zip(found.folders, found.outcomes, strict=False):
            print_sweep(run, outcome, [run / "figures" / "flow.png"])
        typer.echo(f"report      {page}")
        if found.schedule:
            typer.echo(f"schedule    {found.schedule}")
        for line in found.missing:
            typer.echo(line)
        for outcome in found.outcomes:
            exit_by(len(outcome.failed), outcome.samples)


@app.command(cls=Command)
def report(
    runs: Annotated[list[Path], typer.Argument(help="Sweeps, finished or not; share, lens and text looks; a plan.")],
    select: Annotated[str, typer.Option(help="correct, wrong or all samples of the run.")] = "all",
    first_layer: Annotated[int, typer.Option(help="Number of the first layer on the axis, 0 or 1.")] = 0,
    title: Annotated[str, typer.Option(help="Heading of the figures.")] = "Information flow",
    out: Annotated[Path, typer.Option(help="Where the page of several folders goes.")] = Path("avflow-comparison"),
    media: Annotated[bool, typer.Option(help="Pictures and waveforms of samples on the page.")] = True,
    center: Annotated[
        str | None,
        typer.Option(help="mean, ratio_of_means, log_ratio or difference; mean, or difference where p_clean < 1 %."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw the figures and report.html again, from the rows alone; of several folders one page, and a comparison."""
    with cli_errors():
        from ..report.collect import kind_of
        from ..report.comparison import compare
        from ..report.write import report_together
        from ..results.default_center import checked_center

        sweeps = [folder for folder in runs if kind_of(folder) == "sweep"]
        options: dict[str, Any] = {"select": select, "first_layer": first_layer, "title": title, "media": media}
        options["center"] = checked_center(center)
        for folder in sweeps:
            for path in draw(folder, **options):
                typer.echo(path)
        if len(sweeps) > 1:
            for path in compare(sweeps, out, select=select, title=title, center=options["center"]):
                typer.echo(path)
        if len(runs) > 1:
            typer.echo(report_together(runs, out, **options))
        elif not sweeps:
            typer.echo(report_together(runs, runs[0], **options))


@app.command(cls=Command)
def view(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, as of `avflow report`.")],
    port: Annotated[int, typer.Option(help="Of this machine's own address; 0: one that is free.")] = 0,
    select: Annotated[str, typer.Option(help="correct, wrong or all samples of the run.")] = "all",
    first_layer: Annotated[int, typer.Option(help="Number of the first layer on the axis, 0 or 1.")] = 0,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Information flow",
    media: Annotated[bool, typer.Option(help="Pictures and waveforms of samples.")] = True,
    center: Annotated[
        str | None,
        typer.Option(help="mean, ratio_of_means, log_ratio or difference; mean, or difference where p_clean < 1 %."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show run folders in a browser on this machine, each sample when it is chosen: for runs of many samples."""
    with cli_errors():
        from ..report.view import View, address, server
        from ..results.default_center import checked_center

        shown = View(
            runs, select=select, first_layer=first_layer, title=title, media=media, center=checked_center(center)
        )
        with server(shown, port) as serving:
            typer.echo(f"view        {address(serving)}  (Ctrl-C ends it)")
            with suppress(KeyboardInterrupt):
                serving.serve_forever()


@app.command(cls=Command)
def merge(
    out: Annotated[Path, typer.Argument(help="Run folder to write.")],
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders of one configuration.")],
    debug: Debug = False,
) -> None:
    """Put runs over different samples into one run folder."""
    with cli_errors():
        from ..runs.merge import merge as merge_runs

        results = merge_runs(out, runs)
        typer.echo(f"rows        {out / 'rows.parquet'} ({len(results)})")
        for path in draw(out):
            typer.echo(path)


@app.command(cls=Command)
def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A checkpoint folder or hub name to be tried, in place of this machine.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    weights: Annotated[
        bool | None,
        typer.Option(
            "--weights/--no-weights",
            help="Load MODEL's weights and run it, or look at its config.json alone.",
            show_default="load those of a folder that fit the memory",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    vllm: Annotated[bool, typer.Option("--vllm", help="Also whether vLLM here would take a schedule.")] = False,
) -> None:
    """Versions, threads, codecs, and which kernels run here; of MODEL, whether avflow's runs are its own."""
    with cli_errors():
        from .doctor import examine, lines
        from .model_check import examine_model

        if model is None and weights is not None:
            raise InputError("--weights and --no-weights are about a model: name one (avflow doctor MODEL)")
        if model is not None and vllm:
            raise InputError("--vllm is about this machine: leave MODEL out, or it")
        facts = examine(vllm) if model is None else examine_model(model, device, dtype, weights)
        typer.echo(json.dumps(facts, indent=2, default=str) if as_json else "\n".join(lines(facts)))
        if facts["problems"]:
            raise typer.Exit(1)


@app.command(cls=Command)
def bench(
    checkpoint: Checkpoint = "tiny-omni",
    tokens: Annotated[int | None, typer.Option(help="Of a random prompt.", show_default="4096")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Turns of each candidate; the best counts.", show_default="3")
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="One's own prompts instead: a samples file; --evict says what leaves.")
    ] = None,
    evict: Annotated[str | None, typer.Option(help="A schedule's file, or a preset; with --samples.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Length of an answer, at most; with --samples.", show_default="32")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Samples a call; with --samples.", show_default="1")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option(help="Also write the figures there, as JSON.")] = None,
    debug: Debug = False,
) -> None:
    """What a sweep and an eviction take here; with --samples, what a schedule saves on prompts of one's own."""
    with cli_errors():
        from .. import load
        from ..files import write_whole
        from . import bench as random_words

        own = given(evict=evict, limit=limit, max_new_tokens=max_new_tokens, batch=batch)
        if samples is not None:
            from .bench_samples import bench_file

            if random := given(tokens=tokens, rounds=rounds):
                raise InputError(f"--{next(iter(random))} is about a random prompt: leave --samples out, or it")
            if evict is None:
                raise InputError("--samples without a schedule: name its file, or a preset, with --evict")
            tell_idle_gpu()
            loading = dict(device=device, dtype=dtype)
            found = bench_file(lambda: load(checkpoint, **loading), samples, evict, limit, max_new_tokens, batch)
        elif own:
            name = next(iter(own)).replace("_", "-")
            raise InputError(f"--{name} is about prompts of your own: name their file with --samples")
        else:
            tell_idle_gpu()
            tokens, rounds = 4096 if tokens is None else tokens, 3 if rounds is None else rounds
            random_words.check(tokens, rounds)
            found = random_words.bench(load(checkpoint, device=device, dtype=dtype), tokens, rounds)
            typer.echo("\n".join(random_words.lines(found)))
        if out is not None:
            write_whole(out, (json.dumps(found, indent=1) + "\n").encode())
        for name, why in found.get("failed", {}).items():
            typer.echo(f"failed: {name}: {one_line(why)}", err=True)
        if failed := found.get("failed"):
            typer.echo(f"error: {len(failed)} of {len(failed) + found['prompts']} samples failed", err=True)
            raise typer.Exit(1)


cli_sweep.add_to(app)
cli_evict.add_to(app)
cli_look.add_to(app)


def main() -> None:
    """The program: its exit code is that of the work, whatever becomes of what it prints."""
    code: Any = 0
    leaving.begin()
    with tolerant_streams() as failures:
        try:
            app()
        except SystemExit as ended:
            code = ended.code
            leaving.with_code(code if isinstance(code, int) else int(code is not None))
    if failures:
        typer.echo(f"error: cannot write the output: {failures[0].strerror}", err=True)
        code = code or (2 if state["only_prints"] else 0)
        leaving.with_code(code)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
