"""The command `avflow`. Everything heavy is imported inside the commands, so that --help is quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from . import evict as cli_evict
from . import look as cli_look
from .options import (
    Checkpoint,
    Data,
    Debug,
    Device,
    Dtype,
    Fps,
    Limit,
    MaxPixels,
    MediaFolder,
    Questions,
    ShuffleSeed,
    Task,
    parse_layers,
    parse_widths,
    print_estimates,
    sampling,
    split_texts,
    state,
    told,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which tokens of an audio-visual LLM pass what to which, in which layers: attention knockout sweeps.",
)


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False):
    state["debug"] = debug


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("avflow-demo"),
    model: Annotated[str, typer.Option(help="A small model of the package: tiny-omni or tiny-salmonn.")] = "tiny-omni",
    debug: Debug = False,
):
    """Questions about clips, a small model, and all that can be seen of it on one page: report.html."""
    with told():
        from ..demo import held_out
        from ..demo.flow import run_demo
        from ..report.collect import collect
        from ..report.words import summary
        from ..report.write import report_together

        typer.echo(f"making held-out clips in {folder} ...")
        made = held_out(folder, model=model)
        found = run_demo(made, folder, typer.echo, debug=state["debug"])
        for run in found.folders[: len(found.outcomes)]:
            _draw(run, title="Demo")
        page = report_together(found.folders, folder, title="What a small model sees, hears and needs")
        for part in summary(collect(found.folders)):
            typer.echo("\n".join([f"\n{part['title']}", *(f"  {line}" for line in part["lines"])]))
        typer.echo(f"\ncheckpoint  {made['checkpoint']}\nquestions   {made['samples']}")
        if "items" in made:
            typer.echo(f"items       {made['items']}")
        for run, outcome in zip(found.folders, found.outcomes, strict=False):
            _close(run, outcome, [run / "figures" / "flow.png"])
        typer.echo(f"report      {page}")
        if found.schedule:
            typer.echo(f"schedule    {found.schedule}")
        for line in found.untold:
            typer.echo(line)
        for outcome in found.outcomes:
            _exit_by(outcome)


@app.command()
def sweep(
    model: Checkpoint,
    samples: Questions,
    out: Annotated[Path | None, typer.Option(help="Run folder; an unfinished one is resumed.")] = None,
    knockouts: Annotated[
        list[str] | None,
        typer.Option(help='A preset or paths such as "video->question", with commas or repeated. [default: av_video]'),
    ] = None,
    window: Annotated[str, typer.Option(help="Width of the window of cut layers; several: 1,3,5,7.")] = "7",
    style: Annotated[str, typer.Option(help="center, inverse, top_down or bottom_up.")] = "center",
    layers: Annotated[str, typer.Option(help='Centres of the windows: "all", "0-11", "3,5,7-9".')] = "all",
    select: Annotated[str, typer.Option(help="Samples by the clean answer: correct, wrong or all.")] = "correct",
    semantics: Annotated[str, typer.Option(help="renormalize or zero.")] = "renormalize",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    memory: Annotated[str | None, typer.Option(help="For the rows of one walk: 8GB, 500MB.")] = None,
    data: Data = None,
    media: MediaFolder = None,
    task: Task = None,
    limit: Limit = None,
    shuffle_seed: ShuffleSeed = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes (or Ray actors), each with a model. [default: 1]")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help='Ray cluster: "auto", an address, or "local" to start one here.')
    ] = None,
    fps: Fps = None,
    max_pixels: MaxPixels = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost; run no layer.")] = False,
    debug: Debug = False,
):
    """Cut every path at every layer, for every sample; a run folder with rows and figures."""
    with told():
        from ..runs.sweep_job import SweepJob, run

        job = SweepJob(
            model=model,
            samples=samples,
            knockouts=split_texts(knockouts or ["av_video"]),
            window=parse_widths(window),
            style=style,
            layers=parse_layers(layers),
            select=select,
            semantics=semantics,
            dtype=dtype,
            media=sampling(fps, max_pixels),
            data=data,
            device=device,
            memory=memory,
            media_root=media,
            tasks=task or [],
            limit=limit,
            shuffle_seed=shuffle_seed,
            workers=workers,
            ray=ray,
        )
        if dry_run:
            from ..runs.sweep_job import estimates

            print_estimates([s.id for s in job.read_samples()], estimates(job))
            return
        if out is None:
            raise InputError("no run folder: give one with --out RUN (or ask for the cost only, with --dry-run)")
        outcome = run(job, out, debug=state["debug"])
        _close(out, outcome, _draw(out))
        _exit_by(outcome)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Sweeps, finished or not; share and lens looks; a plan.")],
    select: Annotated[str, typer.Option(help="correct, wrong or all samples of the run.")] = "all",
    first_layer: Annotated[int, typer.Option(help="Number of the first layer on the axis, 0 or 1.")] = 0,
    title: Annotated[str, typer.Option(help="Heading of the figures.")] = "Information flow",
    out: Annotated[Path, typer.Option(help="Where the page of several folders goes.")] = Path("avflow-comparison"),
    debug: Debug = False,
):
    """Draw the figures and report.html again, from the rows alone; of several folders one page, and a comparison."""
    with told():
        from ..report.collect import kind_of
        from ..report.comparison import compare
        from ..report.write import report_together

        sweeps = [folder for folder in runs if kind_of(folder) == "sweep"]
        options = {"select": select, "first_layer": first_layer, "title": title}
        for folder in sweeps:
            for path in _draw(folder, **options):
                typer.echo(path)
        if len(sweeps) > 1:
            for path in compare(sweeps, out, select=select, title=title):
                typer.echo(path)
        if len(runs) > 1:
            typer.echo(report_together(runs, out, **options))
        elif not sweeps:
            typer.echo(report_together(runs, runs[0], **options))


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="Run folder to write.")],
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders of one configuration.")],
    debug: Debug = False,
):
    """Put runs over different samples into one run folder."""
    with told():
        from ..runs.merge import merge as merge_runs

        results = merge_runs(out, runs)
        typer.echo(f"rows        {out / 'rows.parquet'} ({len(results)})")
        for path in _draw(out):
            typer.echo(path)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False):
    """Versions, threads, codecs, and which kernels run here."""
    with told():
        from .doctor import examine, lines

        facts = examine()
        typer.echo(json.dumps(facts, indent=2, default=str) if as_json else "\n".join(lines(facts)))
        if facts["problems"]:
            raise typer.Exit(1)


@app.command()
def bench(
    checkpoint: Checkpoint = "tiny-omni",
    tokens: Annotated[int, typer.Option(help="Of the prompt.")] = 4096,
    rounds: Annotated[int, typer.Option(help="Turns of each candidate; the best counts.")] = 3,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option(help="Also write the figures there, as JSON.")] = None,
    debug: Debug = False,
):
    """What a sweep and an eviction take here, beside transformers' own forward of the same model."""
    with told():
        from .. import load
        from ..files import write_whole
        from .bench import bench as measure
        from .bench import check, lines

        check(tokens, rounds)
        found = measure(load(checkpoint, device=device, dtype=dtype), tokens, rounds)
        typer.echo("\n".join(lines(found)))
        if out is not None:
            write_whole(out, (json.dumps(found, indent=1) + "\n").encode())


def _draw(folder: Path, **options) -> list[Path]:
    from ..report.write import report as make_report

    return make_report(folder, **options)


def _close(folder: Path, outcome, files: list[Path]) -> None:
    """Where everything is, and what came of the samples."""
    counts = outcome.counts
    told = f"{counts['ok']} swept, {counts['selected_out']} selected out, {counts['failed']} failed"
    earlier = f" ({outcome.skipped} finished before)" if outcome.skipped else ""
    typer.echo(f"samples     {told}{earlier}")
    if not counts["ok"] and counts["selected_out"]:
        typer.echo("            nothing was left to sweep: --select all takes every sample, whatever it was answered")
    kernels = sorted(set(outcome.results.table["kernel"].to_pylist()))
    if kernels:
        typer.echo(f"kernel      {', '.join(kernels)}")
    typer.echo(f"rows        {folder / 'rows.parquet'} ({outcome.results.table.num_rows})")
    for path in files:
        if path.suffix == ".png" and path.stem == "flow":
            typer.echo(f"figure      {path}")
        if path.suffix == ".html":
            typer.echo(f"report      {path}")


def _exit_by(outcome) -> None:
    if failed := outcome.counts["failed"]:
        asked = sum(outcome.counts.values())
        typer.echo(
            f"error: {failed} of {asked} samples failed, see samples.jsonl; the same command tries them again", err=True
        )
        raise typer.Exit(1)


cli_evict.add_to(app)
cli_look.add_to(app)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
