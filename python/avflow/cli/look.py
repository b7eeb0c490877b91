"""`avflow look`: attention shares, answer lens, sinks, pathways and generated text, into a run folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
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
    sampling,
    state,
    told,
)

# Options of the experiments, by experiment; the others are those of every command.
OPTIONS = {
    "share": {"layers", "tokens", "generate", "heads"},
    "lens": {"layers"},
    "sinks": {"layers", "times", "among"},
    "pathways": {"keep", "random", "seed"},
    "text": {"knockouts", "window", "style", "layers", "max_new_tokens", "semantics", "memory"},
}


def add_to(app: typer.Typer) -> None:
    app.command()(look)


def parse_keep(texts: list[str]) -> dict[str, list[int] | None]:
    """Pathways of "video->question=8-19" or "question->last" (all layers). Raises InputError."""
    from .options import parse_layers

    out: dict[str, list[int] | None] = {}
    for text in texts:
        path, _, layers = re.sub(r"\s", "", text).partition("=")
        if path in out:
            raise InputError(f"pathway {path!r} is given twice: write its layers together, such as {path}=3-5,9")
        out[path] = parse_layers(layers or "all")
    return out


def chosen_options(what: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as keyword arguments of the experiment.

    Raises:
        InputError: an unknown experiment, an option that belongs to another one, pathways without --keep.
    """
    from .options import parse_layers, parse_widths, split_texts

    if what not in OPTIONS:
        raise InputError(f"look {what!r}: pass one of {', '.join(OPTIONS)}")
    there = {name: value for name, value in given.items() if value is not None and value is not False and value != []}
    for name in there:
        if name not in OPTIONS[what]:
            owners = ", ".join(w for w, names in OPTIONS.items() if name in names)
            raise InputError(f"--{name.replace('_', '-')} is no option of `look {what}`, but of: {owners}")
    if "layers" in there:
        there["layers"] = parse_layers(there["layers"])
    if "window" in there:
        there["window"] = parse_widths(there["window"])
    if "knockouts" in there:
        names = split_texts(there["knockouts"])
        there["knockouts"] = names[0] if len(names) == 1 else names
    if what == "pathways":
        if "keep" not in there:
            raise InputError(
                'no path is kept: name them, such as --keep "video->question=8-19" --keep "question->last"'
            )
        there["keep"] = parse_keep(there["keep"])
    return there


def look(
    what: Annotated[str, typer.Argument(help="share, lens, sinks, pathways or text.")],
    model: Checkpoint,
    samples: Questions,
    out: Annotated[Path, typer.Option(help="Run folder; an unfinished one is resumed.")],
    layers: Annotated[
        str | None, typer.Option(help='share, lens, sinks, text: "0-11", "3,5,7-9". [default: all]')
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="share: last, or answer: its tokens too. [default: last]")] = None,
    generate: Annotated[int | None, typer.Option(help="share: so many generated tokens for the answer.")] = None,
    heads: Annotated[bool, typer.Option("--heads", help="share: every head apart.")] = False,
    times: Annotated[float | None, typer.Option(help="sinks: norm in medians of the group's. [default: 10]")] = None,
    among: Annotated[str | None, typer.Option(help="sinks: group or alias to look among. [default: media]")] = None,
    keep: Annotated[list[str] | None, typer.Option(help='pathways: "video->question=8-19"; repeat it.')] = None,
    random: Annotated[int | None, typer.Option(help="pathways: controls with random edges. [default: 1]")] = None,
    seed: Annotated[int | None, typer.Option(help="pathways: of the controls. [default: 0]")] = None,
    knockouts: Annotated[list[str] | None, typer.Option(help="text: preset or paths. [default: av_video]")] = None,
    window: Annotated[str | None, typer.Option(help="text: width of the window, or several. [default: 7]")] = None,
    style: Annotated[str | None, typer.Option(help="text: center, inverse, top_down, bottom_up.")] = None,
    semantics: Annotated[str | None, typer.Option(help="text: renormalize or zero.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="text: of every answer. [default: 32]")] = None,
    memory: Annotated[str | None, typer.Option(help="text: for rows, keys and values of one walk: 8GB.")] = None,
    first_layer: Annotated[int, typer.Option(help="Number of the first layer on the axis, 0 or 1.")] = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    data: Data = None,
    media: MediaFolder = None,
    task: Task = None,
    limit: Limit = None,
    shuffle_seed: ShuffleSeed = None,
    fps: Fps = None,
    max_pixels: MaxPixels = None,
    debug: Debug = False,
):
    """Look into runs: attention shares, answer lens, sinks, pathways, text under knockouts."""
    given = dict(layers=layers, tokens=tokens, generate=generate, heads=heads, times=times, among=among, keep=keep)
    given |= dict(random=random, seed=seed, knockouts=knockouts, window=window, style=style, semantics=semantics)
    given |= dict(max_new_tokens=max_new_tokens, memory=memory)
    with told():
        options = chosen_options(what, given)
        from ..runs.look_run import LookJob, draw, run_look

        job = LookJob(
            model,
            samples,
            what,
            options,
            dtype=dtype,
            media=sampling(fps, max_pixels),
            data=data,
            device=device,
            media_root=media,
            tasks=task or [],
            limit=limit,
            shuffle_seed=shuffle_seed,
        )
        outcome = run_look(job, out, debug=state["debug"])
        files = draw(out, what, outcome.table, first_layer)
        typer.echo(f"samples     {outcome.samples - len(outcome.failed)} looked at, {len(outcome.failed)} failed")
        typer.echo(f"rows        {out / 'rows.parquet'} ({outcome.table.num_rows})")
        for path in files:
            if path.suffix == ".png":
                typer.echo(f"figure      {path}")
        if outcome.failed:
            typer.echo(
                f"error: {len(outcome.failed)} of {outcome.samples} samples failed, see samples.jsonl; the same "
                "command tries them again",
                err=True,
            )
            raise typer.Exit(1)
