"""`avflow look`: attention shares, lenses, sinks, pathways, patching, generated text, into a run folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .options import (
    Checkpoint,
    Command,
    Questions,
    SampleOptions,
    cli_errors,
    exit_by,
    given,
    over_samples,
    parse_layers,
    parse_widths,
    split_texts,
    state,
    tell_bad,
    tell_idle_gpu,
)
from .sweep import print_check, sweep_options

# Options of the experiments, by experiment; the others are those of every command.
OPTIONS = {
    "share": {"layers", "tokens", "generate", "heads", "knockouts", "cut_layers"},
    "lens": {"layers", "knockouts", "cut_layers"},
    "tokens": {"layers", "tokens", "words", "most", "every", "generate", "knockouts", "cut_layers"},
    "shift": {"layers", "tokens", "other", "without_sound"},
    "sinks": {"layers", "times", "among"},
    "pathways": {"keep", "random", "seed", "rule", "within", "counted_from"},
    "patch": {"source", "sites", "part", "direction", "select", "window", "style", "layers", "memory"},
    "text": {"knockouts", "window", "style", "layers", "max_new_tokens", "semantics", "memory"},
}


def add_to(app: typer.Typer) -> None:
    app.command(cls=Command)(look)


def parse_keep(texts: list[str]) -> dict[str, list[int] | None]:
    """Pathways of "video->question=8-19" or "question->last" (all layers), or groups; "last=none": in no layer.

    Raises:
        InputError: one that cannot be read, or is given twice.
    """
    out: dict[str, list[int] | None] = {}
    for text in texts:
        path, _, layers = re.sub(r"\s", "", text).partition("=")
        if path in out:
            raise InputError(f"pathway {path!r} is given twice: write its layers together, such as {path}=3-5,9")
        out[path] = [] if layers == "none" else parse_layers(layers or "all")
    return out


def parse_width(text: str) -> int:
    """One width of a window. Raises InputError."""
    widths = parse_widths(text)
    if not isinstance(widths, int):
        raise InputError(f"--window {text}: patching takes one width; run it once for each")
    return widths


def parse_most(text: str) -> int | None:
    """A number of words; None for "all". Raises InputError."""
    if text == "all":
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InputError(f"--most {text}: write how many words of each layer and group are kept, or all")
    return int(text)


def chosen_options(what: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as keyword arguments of the experiment.

    Raises:
        InputError: an unknown experiment, an option that belongs to another one, pathways without --keep.
    """
    if what not in OPTIONS:
        raise InputError(f"look {what!r}: pass one of {', '.join(OPTIONS)}")
    there = given(**asked)
    for name in there:
        if name not in OPTIONS[what]:
            owners = ", ".join(w for w, names in OPTIONS.items() if name in names)
            raise InputError(f"--{name.replace('_', '-')} is no option of `look {what}`, but of: {owners}")
    if what == "text":
        there = sweep_options(**there)
        if len(there.get("knockouts", ())) == 1:  # a preset or one path, as config.yaml has always named it
            (there["knockouts"],) = there["knockouts"]
    elif "layers" in there:
        there["layers"] = parse_layers(there["layers"])
    if what == "patch":
        if "source" not in there:
            raise InputError('nothing is put in: say what, such as --source silence or --source "noise 3"')
        there |= {name: split_texts(there[name]) for name in ("sites",) if name in there}
        if "window" in there:
            there["window"] = parse_width(there["window"])
    if "words" in there:
        there["words"] = [int(word) if re.fullmatch("[0-9]{1,9}", word) else word for word in there["words"]]
    if "most" in there:
        there["keep"] = parse_most(there.pop("most"))
    if what == "shift" and "other" not in there:
        raise InputError("no other model: name the one to compare with, such as --other BASE_CHECKPOINT")
    if what in ("share", "lens", "tokens"):
        there |= {"knockouts": split_texts(there["knockouts"])} if "knockouts" in there else {}
        there |= {"cut_layers": parse_layers(there["cut_layers"])} if "cut_layers" in there else {}
    if what == "pathways":
        if "keep" not in there:
            raise InputError(
                'no path is kept: name them, such as --keep "video->question=8-19" --keep "question->last"'
            )
        there["keep"] = parse_keep(there["keep"])
        if "within" in there:
            there["within"] = parse_keep(there["within"])
    return there


@over_samples
def look(
    what: Annotated[str, typer.Argument(help="share, lens, tokens, shift, sinks, pathways, patch or text.")],
    model: Checkpoint,
    samples: Questions,
    over: SampleOptions,
    out: Annotated[Path, typer.Option(help="Run folder; an unfinished one is resumed.")],
    layers: Annotated[str | None, typer.Option(help='all but pathways: "0-11", "3,5,7-9".', show_default="all")] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="share: last, or answer: its tokens too; tokens, shift: groups (media; last+answer).",
            show_default="last",
        ),
    ] = None,
    generate: Annotated[
        int | None, typer.Option(help="share, tokens: so many generated tokens for the answer.")
    ] = None,
    words: Annotated[
        list[str] | None, typer.Option(help="tokens: a word of one token, or its id, that is always listed; repeat it.")
    ] = None,
    most: Annotated[
        str | None,
        typer.Option(help="tokens: words kept of each layer and group, the most counted; or all.", show_default="20"),
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="tokens: one of so many tokens of a group.", show_default="1")
    ] = None,
    other: Annotated[str | None, typer.Option(help="shift: the checkpoint to compare with.")] = None,
    without_sound: Annotated[
        bool, typer.Option("--without-sound", help="shift: the other model reads the samples without their sound.")
    ] = False,
    heads: Annotated[bool, typer.Option("--heads", help="share: every head apart.")] = False,
    times: Annotated[
        float | None, typer.Option(help="sinks: norm in medians of the group's.", show_default="10")
    ] = None,
    among: Annotated[
        str | None, typer.Option(help="sinks: group or alias to look among.", show_default="media")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help='pathways: "video->question=8-19"; repeat it.')] = None,
    random: Annotated[int | None, typer.Option(help="pathways: controls with random edges.", show_default="1")] = None,
    seed: Annotated[int | None, typer.Option(help="pathways: of the controls.", show_default="0")] = None,
    source: Annotated[
        str | None, typer.Option(help='patch: silence, black, silence+black, zero, "noise 3", "noise sd=0.1".')
    ] = None,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            help='patch: groups, "video[0-3]", "last (heads 1,5)", "last (mlp)".',
            show_default="video,audio,question,last",
        ),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="patch: residual, attention or mlp.", show_default="residual")
    ] = None,
    direction: Annotated[str | None, typer.Option(help="patch: noise or denoise.", show_default="noise")] = None,
    select: Annotated[
        str | None, typer.Option(help="patch: samples answered correct, wrong, or all.", show_default="correct")
    ] = None,
    knockouts: Annotated[
        list[str] | None,
        typer.Option(
            help="text: preset or paths; share, lens, tokens: what is cut (nothing).", show_default="av_video"
        ),
    ] = None,
    cut_layers: Annotated[
        str | None, typer.Option(help="share, lens, tokens: where the knockouts are in force.", show_default="all")
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="text, patch (there 1): width of the window; text: or several.", show_default="7")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="pathways: map_the_flow cuts and counts as that study.", show_default="avflow")
    ] = None,
    within: Annotated[
        list[str] | None, typer.Option(help='pathways: edges within a group stay there: "video=0-19", "last=none".')
    ] = None,
    counted_from: Annotated[
        str | None, typer.Option(help="pathways: edges count from this group's first token on.", show_default="all")
    ] = None,
    style: Annotated[
        str | None, typer.Option(help="text, patch: center, inverse, top_down, bottom_up.", show_default="center")
    ] = None,
    semantics: Annotated[
        str | None, typer.Option(help="text: renormalize or zero.", show_default="renormalize")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="text: of every answer.", show_default="32")] = None,
    memory: Annotated[str | None, typer.Option(help="text, patch: for the rows of one walk: 8GB.")] = None,
    first_layer: Annotated[int, typer.Option(help="Number of the first layer on the axis, 0 or 1.")] = 0,
) -> None:
    """Look into runs: attention shares, lenses, sinks, pathways, patching, text under knockouts."""
    asked = dict(layers=layers, tokens=tokens, generate=generate, heads=heads, times=times, among=among, keep=keep)
    asked |= dict(rule=rule, within=within, counted_from=counted_from)
    asked |= dict(random=random, seed=seed, knockouts=knockouts, window=window, style=style, semantics=semantics)
    asked |= dict(max_new_tokens=max_new_tokens, memory=memory)
    asked |= dict(words=words, most=most, every=every, other=other, without_sound=without_sound)
    asked |= dict(cut_layers=cut_layers, source=source, sites=sites, part=part, direction=direction, select=select)
    with cli_errors():
        options = chosen_options(what, asked)
        from ..runs.look_figures import draw_look
        from ..runs.look_job import LookJob
        from ..runs.look_words import look_words
        from ..runs.loop import run

        tell_idle_gpu()
        outcome = run(LookJob(model, samples, what, options, **over.of_job()), out, debug=state["debug"])
        typer.echo(f"samples     {outcome.samples - len(outcome.failed)} looked at, {len(outcome.failed)} failed")
        print_check(outcome.results.meta.get("check"))
        typer.echo(f"rows        {out / 'rows.parquet'} ({outcome.table.num_rows})")
        for line in look_words(what, outcome.table, outcome.samples - len(outcome.failed), options):
            typer.echo(f"found       {line}")
        for path in draw_look(out, what, outcome.table, first_layer):
            if path.suffix == ".png":
                typer.echo(f"figure      {path}")
        tell_bad(outcome.bad, out)
        exit_by(len(outcome.failed), outcome.samples)
