"""`avflow sweep`: every path cut at every layer; a run folder with rows, figures and a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .options import (
    Checkpoint,
    Command,
    Memory,
    Questions,
    SampleOptions,
    cli_errors,
    exit_by,
    given,
    over_samples,
    parse_cells,
    parse_layers,
    parse_widths,
    print_estimates,
    split_texts,
    state,
    tell_bad,
    tell_idle_gpu,
)


def add_to(app: typer.Typer) -> None:
    app.command(cls=Command)(sweep)


@over_samples
def sweep(
    model: Checkpoint,
    samples: Questions,
    over: SampleOptions,
    out: Annotated[Path | None, typer.Option(help="Run folder; an unfinished one is resumed.")] = None,
    knockouts: Annotated[
        list[str] | None,
        typer.Option(
            help='A preset or paths such as "video->question", with commas or repeated.', show_default="av_video"
        ),
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="Width of the window of cut layers; several: 1,3,5,7.", show_default="7")
    ] = None,
    style: Annotated[
        str | None, typer.Option(help="center, inverse, top_down or bottom_up.", show_default="center")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help='Centres of the windows: "all", "0-11", "3,5,7-9".', show_default="all")
    ] = None,
    select: Annotated[
        str | None, typer.Option(help="Samples by the clean answer: correct, wrong or all.", show_default="correct")
    ] = None,
    semantics: Annotated[str | None, typer.Option(help="renormalize or zero.", show_default="renormalize")] = None,
    cells: Annotated[
        list[str] | None,
        typer.Option(help='Single cells instead of --knockouts and --layers: "video->question@10,audio->last@3".'),
    ] = None,
    correct_by: Annotated[
        str | None,
        typer.Option(
            help="A correct answer: its letter leads the options, or the most probable token of the whole vocabulary "
            "is the answer (as the studies select).",
            show_default="options",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Whose probability is measured: the key's, or the model's own answer's, as in the studies.",
            show_default="key",
        ),
    ] = None,
    media_until: Annotated[
        str | None,
        typer.Option(
            help="An estimate of the paths within the media: runs have none above this layer; or a schedule's file.",
            show_default="exact",
        ),
    ] = None,
    media_check: Annotated[
        float | None,
        typer.Option(help="Of such estimates, the random share that is run exactly too, 0 to 1.", show_default="0.02"),
    ] = None,
    spread: Annotated[
        int | None,
        typer.Option(help="Of the paths within the media, each sample runs every so-many-th cell.", show_default="1"),
    ] = None,
    memory: Memory = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost; run no layer.")] = False,
) -> None:
    """Cut every path at every layer, for every sample; a run folder with rows and figures."""
    with cli_errors():
        from ..runs.loop import estimates, run
        from ..runs.sweep_job import SweepJob

        request = sweep_options(
            knockouts=knockouts,
            window=window,
            style=style,
            layers=layers,
            select=select,
            semantics=semantics,
            cells=cells,
            correct_by=correct_by,
            target=target,
            media_until=media_until,
            media_check=media_check,
            spread=spread,
            memory=memory,
        )
        job = SweepJob(model, samples, **request, **over.of_job())
        tell_idle_gpu()
        if dry_run:
            ids = [s.id for s in job.read_samples()]
            tell_bad(job.bad)
            from .rate import measured_rate

            loaded = job.load()
            print_estimates(ids, estimates(job, loaded), lambda tokens: measured_rate(loaded, tokens))
            return
        if out is None:
            raise InputError("no run folder: give one with --out RUN (or ask for the cost only, with --dry-run)")
        outcome = run(job, out, debug=state["debug"])
        from ..report.write import report_and_finding

        print_sweep(out, outcome, *report_and_finding(out))
        tell_bad(outcome.bad, out)
        exit_by(len(outcome.failed), outcome.samples)


def sweep_options(**options: Any) -> dict[str, Any]:
    """The options of a SweepRequest that were given, read; its own defaults serve for the others. Raises InputError."""
    read: dict[str, Callable[[Any], Any]] = {
        "knockouts": split_texts,
        "window": parse_widths,
        "layers": parse_layers,
        "cells": parse_cells,
        "media_until": lambda text: int(text) if re.fullmatch("[0-9]{1,9}", text) else text,
    }
    return {name: read[name](value) if name in read else value for name, value in given(**options).items()}


def draw(folder: Path, **options: Any) -> list[Path]:
    """The figures of a sweep and its page; the files made."""
    from ..report.write import report

    return report(folder, **options)


def print_sweep(folder: Path, outcome: Any, files: list[Path], said: str = "") -> None:
    """Where everything is, and what came of the samples. outcome: runs.loop.Outcome. said: what was found."""
    counts = outcome.counts
    earlier = f" ({outcome.skipped} finished before)" if outcome.skipped else ""
    typer.echo(
        f"samples     {counts['ok']} swept, {counts['selected_out']} selected out, {counts['failed']} failed{earlier}"
    )
    if not counts["ok"] and counts["selected_out"]:
        typer.echo("            nothing was left to sweep: --select all takes every sample, whatever it was answered")
    kernels = sorted(set(outcome.table["kernel"].to_pylist()))
    if kernels:
        typer.echo(f"kernel      {', '.join(kernels)}")
    print_check(outcome.results.meta.get("check"))
    print_estimate(outcome)
    typer.echo(f"rows        {folder / 'rows.parquet'} ({outcome.table.num_rows})")
    for path in files:
        if path.suffix == ".png" and path.stem == "flow":
            typer.echo(f"figure      {path}")
        if path.suffix == ".html":
            typer.echo(f"report      {path}")
    for label, line in zip(("found", ""), said.splitlines(), strict=False):
        typer.echo(f"{label:11} {line}")


def print_estimate(outcome: Any) -> None:
    """Of estimates by --media-until, how far those are from exact runs that were run both ways."""
    from ..experiments.cheaper import check_summary, described

    asked = outcome.results.meta.get("config") or {}
    if asked.get("media_until") is not None:
        cells = (one for record in outcome.records.values() for one in record.get("media_check") or ())
        typer.echo(f"estimate    {described(asked['media_until'], check_summary(cells))}")


def print_check(check: dict[str, Any] | None) -> None:
    """How near the run came to the model's own forward. check: of models.proof.figures, or None."""
    from ..models.proof import described

    if check:
        typer.echo(f"check       clean run and the model's own forward differ by {described(check)}")
