"""`avflow plan` and `avflow generate`: choosing an eviction schedule, and answering with one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .options import (
    Checkpoint,
    Command,
    Debug,
    Device,
    Dtype,
    Fps,
    MaxPixels,
    Memory,
    OwnLabels,
    Questions,
    SampleOptions,
    cli_errors,
    exit_by,
    given,
    over_samples,
    parse_layers,
    print_estimates,
    sampling,
    state,
    tell_bad,
    tell_idle_gpu,
)
from .sweep import print_check


def add_to(app: typer.Typer) -> None:
    app.command(cls=Command)(plan)
    app.command(cls=Command)(generate)


@over_samples
def plan(
    model: Checkpoint,
    samples: Questions,
    over: SampleOptions,
    out: Annotated[Path | None, typer.Option(help="The schedule's file, such as schedule.json.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder; an unfinished one is resumed.", show_default="--out without .json")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help='What may leave, with commas: groups, aliases, sums ("video+audio").',
            show_default="video,audio",
        ),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy that may be lost, a share of the samples: 0.01.", show_default="0.0")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Also the exact bound on the drop.")] = False,
    holdout: Annotated[
        float | None, typer.Option(help="Share of the samples to judge on, not to choose on.", show_default="0.5")
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(help="Without answers: next-token KL in nats; --max-drop: the share that may be further off."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Share that the answer's probability may lose beyond --max-drop.", show_default="0.01"),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help='Layers after which to leave: "all", "0-11", "3,5,7-9"; -1 is before layer 0 (--layers=-1,0-11).',
            show_default="all",
        ),
    ] = None,
    rest_until: Annotated[
        int | None,
        typer.Option(
            help="Groups rest until this layer and come back in the next.", show_default="they leave for good"
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            "--for", help="What is to run it: avflow, or vllm, which saves at some layers only.", show_default="avflow"
        ),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Of the bound, the margin and the intervals.", show_default="0.95")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the hold-out and the bootstrap.", show_default="0")] = None,
    memory: Memory = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what measuring would cost; run no layer.")] = False,
) -> None:
    """Measure what dropping each group after each layer does, and choose an eviction schedule."""
    with cli_errors():
        from ..planning.plan_eviction import PlanRequest
        from ..runs.loop import estimates
        from ..runs.plan_job import PlanJob
        from ..runs.plan_run import run_plan

        names = None if groups is None else [name.strip() for name in groups.split(",")]
        if names is not None and not all(names):
            raise InputError(f"groups {groups!r} hold an empty one: write them as video,audio")
        request = PlanRequest(
            **given(
                groups=names,
                max_accuracy_drop=max_drop,
                strict=strict,
                holdout=holdout,
                margin=margin,
                max_kl=max_kl,
                layers=None if layers is None else parse_layers(layers, before=True),
                confidence=confidence,
                seed=seed,
                memory=memory,
                until=rest_until,
                runtime=runtime,
            )
        )
        job = PlanJob(model, samples, request, **over.of_job())
        tell_idle_gpu()
        if dry_run:
            ids = [s.id for s in job.read_samples()]
            tell_bad(job.bad)
            from .rate import measured_rate

            loaded = job.load()
            print_estimates(ids, estimates(job, loaded), lambda tokens: measured_rate(loaded, tokens))
            return
        if out is None:
            raise InputError("no file for the schedule: give one with --out schedule.json (or --dry-run for the cost)")
        if run is None and out.suffix != ".json":
            raise InputError(f"--out {out} has no .json suffix: name the schedule's file so, or give --run RUN too")
        folder = out.with_suffix("") if run is None else run
        outcome = run_plan(job, folder, out, debug=state["debug"])
        _print_plan(outcome, folder, out, _draw(folder, outcome.schedule))
        tell_bad(outcome.bad, folder)
        exit_by(len(outcome.failed), outcome.samples, folder / "samples.jsonl")


def _draw(folder: Path, schedule: Any) -> list[Path]:
    from ..files import writing
    from ..plots import information_flow as plots
    from ..plots.eviction import eviction_lines

    chosen = {step.group: step.after for step in schedule.steps}
    figures = schedule.figures
    figure, _ = eviction_lines(schedule.plan.table, chosen, until=figures.get("until"), measure=figures["measure"])
    with writing(folder / "figures"):
        return plots.save(figure, folder / "figures" / "plan")


def _print_plan(outcome: Any, folder: Path, out: Path, figures: list[Path]) -> None:
    schedule, found = outcome.schedule, outcome.schedule.figures
    for step in schedule.steps:
        when = f"leaves {step.when}"
        if step.until is not None:
            when = f"rests in layers {step.after + 1} .. {step.until}"
        typer.echo(f"{step.group:<24} {when}")
    if not schedule.steps:
        typer.echo("nothing can leave within the tolerance: --max-drop allows more")
    else:
        low, high = found["accuracy_change_interval"]
        held = "held-out samples" if schedule.data["held_out"] else "samples, those that it was chosen on"
        if found["measure"] == "kl":
            typer.echo(
                f"near        {100 * found['accuracy_kept']:.1f} % of {found['prompts']} {held} within "
                f"{found['max_kl']:g} nats; further off are below {100 * found['accuracy_drop_bound']:.1f} % with "
                f"{100 * found['confidence']:.4g} % confidence"
            )
        else:
            typer.echo(
                f"accuracy    {100 * found['accuracy_clean']:.1f} % -> {100 * found['accuracy_kept']:.1f} %, "
                f"change {100 * found['accuracy_change']:+.1f} ({100 * low:+.1f} .. {100 * high:+.1f}) points on "
                f"{found['prompts']} {held}"
            )
            typer.echo(
                f"drop        below {100 * found['accuracy_drop_bound']:.1f} points with "
                f"{100 * found['confidence']:.4g} % confidence"
            )
        if "kl_mean" in found:
            typer.echo(
                f"KL          mean {found['kl_mean']:.4f}, median {found['kl_median']:.4f}, largest "
                f"{found['kl_largest']:.4f} nats; same first token {100 * found['same_first_token']:.1f} %"
            )
        if worst := found["worst_task"]:
            task = found["tasks"][worst]
            typer.echo(
                f"worst task  {worst}: {100 * task['accuracy_clean']:.1f} % -> {100 * task['accuracy_kept']:.1f} % on "
                f"{task['prompts']}, drop below {100 * task['accuracy_drop_bound']:.1f}"
            )
        typer.echo(
            f"prefill     {100 * found['flops_saved']:.1f} % of the decoder's FLOPs saved; time x "
            f"{found['prefill_time_ratio']:.2f}, of the decoder alone x {found['decoder_time_ratio']:.2f}"
        )
        typer.echo(
            f"KV cache    {found['kv_bytes_clean'] / 1e6:.2f} MB -> {found['kv_bytes_kept'] / 1e6:.2f} MB a sample"
        )
    print_check(schedule.plan.check)
    typer.echo(f"samples     {outcome.samples - len(outcome.failed)} measured, {len(outcome.failed)} failed")
    typer.echo(f"schedule    {out}\ntable       {folder / 'plan.parquet'}\nfigure      {figures[0]}")


def generate(
    model: Annotated[str, typer.Option(help="Checkpoint folder or hub name.")],
    question: Annotated[str, typer.Option(help="The question.")],
    video: Annotated[Path | None, typer.Option(help="A video; its own sound is read with it.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A sound file.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An answer to choose from; repeat it.")] = None,
    silent: Annotated[bool, typer.Option("--silent", help="Frames only, without the video's sound.")] = False,
    evict: Annotated[str | None, typer.Option(help="A schedule's file, or a preset such as omni_3b_av_video.")] = None,
    decode: Annotated[str, typer.Option(help="keep, or drop: free what left in all layers after prefill.")] = "keep",
    max_new_tokens: Annotated[int, typer.Option(help="Length of the answer, at most.")] = 64,
    compare: Annotated[bool, typer.Option("--compare", help="Time and cache with the schedule and without.")] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    fps: Fps = None,
    max_pixels: MaxPixels = None,
    labels: OwnLabels = None,
    debug: Debug = False,
) -> None:
    """Answer a question about media; with --evict, tokens leave mid-network."""
    with cli_errors():
        from ..models import load
        from ..prompts.label_hook import Labels
        from ..runtime.generating import generate as answer
        from ..runtime.generating import open_sample, read_schedule

        if evict is None and (compare or decode != "keep"):
            raise InputError("--compare and --decode are about a schedule: name one with --evict")
        schedule = None if evict is None else read_schedule(evict)
        media = {name: str(path) for name, path in (("video", video), ("audio", audio), ("image", image)) if path}
        sample = open_sample(question, option, **media, use_audio_in_video=False if silent else None)
        own = Labels.of(labels)
        tell_idle_gpu()
        loaded = load(model, device=device, dtype=dtype)
        if own is not None:
            own.declare(loaded.groups)
        if schedule is not None:
            schedule.check(loaded)
        prompt = loaded.prepare(sample, labels=own, **sampling(fps, max_pixels))
        if compare:
            for one in (None, schedule):  # the first run of a process is slow
                answer(loaded, prompt, one, decode, max_new_tokens=2)
            plain = answer(loaded, prompt, None, decode, max_new_tokens)
        with_it = answer(loaded, prompt, schedule, decode, max_new_tokens)
        typer.echo(with_it.text)
        if compare:
            typer.echo(_compared(plain, with_it))


def _compared(plain: Any, evicted: Any) -> str:
    """A small table: what the two runs took."""

    def row(name: str, a: float | None, b: float | None) -> str:
        cells = [f"{'-':>12}" if v is None else f"{v:>12.3f}" for v in (a, b, b / a if a and b is not None else None)]
        return f"{name:<22}{''.join(cells)}"

    def step(run: Any) -> float | None:
        return None if run.step_seconds is None else 1e3 * run.step_seconds

    lines = [
        f"{'':<22}{'without':>12}{'with':>12}{'ratio':>12}",
        row("prefill (ms)", 1e3 * plain.prefill_seconds, 1e3 * evicted.prefill_seconds),
        row("decode (ms a token)", step(plain), step(evicted)),
        row("KV cache (MB)", plain.kv_bytes / 1e6, evicted.kv_bytes / 1e6),
    ]
    same = "the same answer" if plain.ids == evicted.ids else f"without the schedule: {plain.text}"
    return "\n".join([*lines, same])
