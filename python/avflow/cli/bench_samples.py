"""`avflow bench --samples`: what a schedule saves on a set of one's own prompts, beside the model without it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from ..checks import MOST_TOKENS, integer
from ..data import choose, is_hub, read
from ..data.prepare import reason
from ..errors import InputError
from ..eviction.schedule import EvictionSchedule
from ..models.attention import kernel_name
from ..models.base import Model
from ..progress import Progress
from ..prompts.prompt import Prompt
from ..prompts.sample import Sample
from ..runtime.generating import read_schedule
from ..runtime.serving import Turns, summary


def read_some(source: str, limit: int | None) -> list[Sample]:
    """The first so many samples of a file. Raises InputError as `avflow.data.read`."""
    return choose(read(source if is_hub(source) else Path(source), answers=False).samples, limit=limit)


def bench_file(
    load: Callable[[], Model],
    samples: str,
    evict: str,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    batch: int | None = None,
) -> dict[str, Any]:
    """`bench_samples` of the files that are named, which prints what it found. The model is loaded last of all.

    Raises:
        InputError: a file that cannot be read, and as `bench_samples`.
    """
    count, size = 32 if max_new_tokens is None else max_new_tokens, 1 if batch is None else batch
    check_counts(count, size)
    schedule, some = read_schedule(evict), read_some(samples, limit)
    found = bench_samples(load(), some, schedule, count, size, quiet=False)
    typer.echo("\n".join(lines(found)))
    return found


def check_counts(max_new_tokens: int, batch: int) -> None:
    """Raises InputError: no token, no prompt in a call."""
    integer("max_new_tokens =", max_new_tokens, low=1, high=MOST_TOKENS, mend="pass a number of tokens, 1 or more")
    integer("batch =", batch, low=1, high=4096, mend="pass a number of prompts, 1 or more")


def bench_samples(
    model: Model,
    samples: list[Sample],
    schedule: EvictionSchedule,
    max_new_tokens: int = 32,
    batch: int = 1,
    quiet: bool = True,
) -> dict[str, Any]:
    """Generates the answers of all samples without and with a schedule, in turns.

    Args:
        samples: media are read before a call's clock starts. max_new_tokens: of each answer, at most.
        batch: prompts a call, left-padded by `model.prepare_batch`.

    Returns:
        What `runtime.serving.summary` gives, and model, device, dtype, kernel, batch, max_new_tokens; process_bytes:
        the largest resident size of this process, the model's weights and both ways of running it included; failed:
        {id: reason} of samples that could not be read, or whose call failed.

    Raises:
        InputError: counts out of range, a schedule that does not fit the model, or all samples failed.
    """
    check_counts(max_new_tokens, batch)
    in_turns, turns = Turns(model, schedule, max_new_tokens), []
    failed: dict[str, str] = {}
    with Progress(len(samples), unit="sample", quiet=quiet, doing="bench") as bar:
        for at in range(0, len(samples), batch):
            part = samples[at : at + batch]
            prompts = _prepared(model, part, failed)
            try:
                turns += [in_turns.take(model.prepare_batch(prompts))] if prompts else []
            except Exception as error:
                failed |= {prompt.id: reason(error) for prompt in prompts}
            bar.finish(len(part))
    if not turns:
        raise InputError(f"all {len(samples)} samples failed, the first because: {next(iter(failed.values()))}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "model": type(model.hf).__name__,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "kernel": kernel_name(model.device),
        "batch": batch,
        "max_new_tokens": max_new_tokens,
        **summary(turns),
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
        "failed": failed,
    }


def _prepared(model: Model, samples: list[Sample], failed: dict[str, str]) -> list[Prompt]:
    """Their prompts; why there is none goes to `failed`: one broken clip is not the end of a measurement."""
    prompts = []
    for sample in samples:
        try:
            prompts.append(model.prepare(sample))
        except Exception as error:
            failed[sample.id] = reason(error)
    return prompts


def lines(found: dict[str, Any]) -> list[str]:
    """What `bench_samples` found, in lines."""
    plain, evicted = found["plain"], found["evicted"]
    where = f"{found['dtype']} on {found['device']}, kernel {found['kernel']}"
    rows = [
        f"{found['model']}, {found['prompts']} prompts, {found['batch']} a call, {where}",
        f"{'':<30}{'plain':>12}{'evicted':>12}{'ratio':>9}",
    ]
    names = {
        "prefill_seconds": "prefill (ms)",
        "first_seconds": "first token (ms)",
        "step_seconds": "decoded token (ms)",
    }
    for key, name in names.items():
        for which in ("median", "p95"):
            values = [None if run[key] is None else 1e3 * run[key][which] for run in (plain, evicted)]
            rows.append(_row(f"{name}, {which}", *values))
    rows.append(_row("KV cache (MB), mean of a call", *(run["kv_bytes"]["mean"] / 1e6 for run in (plain, evicted))))
    if plain["device_bytes"] is not None:
        rows.append(_row("GPU memory (MB), peak", *(run["device_bytes"] / 1e6 for run in (plain, evicted))))
    rows.append(f"process: at most {found['process_bytes'] / 1e6:,.0f} MB resident, both ways and the weights in it")
    rows.append(
        f"same first token {100 * found['first_token_same']:.1f} %, same answer {100 * found['all_tokens_same']:.1f} % "
        f"of {found['prompts']} prompts, {found['max_new_tokens']} tokens at most"
    )
    return rows


def _row(name: str, plain: float | None, evicted: float | None) -> str:
    ratio = evicted / plain if plain and evicted is not None else None
    cells = [f"{'-':>12}" if v is None else f"{v:>12.3f}" for v in (plain, evicted)]
    return f"{name:<30}{''.join(cells)}" + (f"{'-':>9}" if ratio is None else f"{ratio:>9.2f}")
