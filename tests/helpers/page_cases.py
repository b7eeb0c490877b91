"""Run folders with known numbers for the page: a sweep with an effect in one task, looks, a plan, a shown sample."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from avflow.experiments.answer_lens import SCHEMA as LENS
from avflow.experiments.attention_share import SCHEMA as SHARE
from avflow.experiments.lens_shift import SCHEMA as SHIFT
from avflow.experiments.patch import SCHEMA as PATCH
from avflow.experiments.token_lens import SCHEMA as TOKENS
from avflow.planning.choice import Tolerance, Trials, table_of
from avflow.results.table import write_table
from avflow.runs.folder import RunFolder

LAYERS = 6
PATHS = ("cross:video", "video->question", "audio->question", "question->last", "video->last", "audio->last")


def change(task, path, layer, number):
    """Cutting video -> question hurts color in layers 2 to 4, most at 3; all else is noise below one percent."""
    noise = 0.1 * np.sin(number + 3 * layer + 7 * PATHS.index(path))
    if task == "color" and path == "video->question":
        return {2: -30.0, 3: -50.0, 4: -40.0}.get(layer, -2.0) + noise
    return noise


def sweep(folder, count=12, tasks=("color", "pitch"), finish=True, paths=PATHS, widths=(3,)):
    config = {"model": "org/made-up", "knockouts": list(paths), "window": list(widths)}
    with RunFolder(folder, config) as run:
        for task in tasks:
            for number in range(count):
                rows = [
                    row(f"{task}-{number}", task, path, x, number) | {"window": width}
                    for width in widths
                    for path in paths
                    for x in range(LAYERS)
                ]
                run.add(f"{task}-{number}", rows=rows, correct=number > 0, p_clean=0.5, seconds=0.1)
        if finish:
            run.finish(info={"versions": {"torch": "2.0", "avflow": "0"}})
    return folder


def row(prompt, task, path, layer, number):
    value = change(task, path, layer, number)
    p = 0.5 * (1 + value / 100)
    same = dict(prompt=prompt, task=task, knockout=path, layer=layer, window=3, first_layer=max(0, layer - 1))
    same |= dict(last_layer=min(LAYERS - 1, layer + 1), answer="A", p_clean=0.5, p_knockout=p)
    same |= dict(logp_clean=float(np.log(0.5)), logp_knockout=float(np.log(p)), change_percent=value, correct=True)
    same |= dict(correct_knockout=True)
    return same | dict(top_clean="A", top_knockout="A", status="ok", kernel="cpu-avx2")


def look(folder, what, rows, schema):
    with RunFolder(folder, {"model": "org/made-up", "experiment": what}, schema) as run:
        for prompt in dict.fromkeys(r["prompt"] for r in rows):
            run.add(prompt, rows=[r for r in rows if r["prompt"] == prompt], status="ok", seconds=0.1)
        run.merge()
    return folder


def share(folder, count=4):
    parts = {"system": 0.2, "video": 0.3, "audio": 0.1, "last": 0.4}
    rows = [
        dict(prompt=str(n), task="color" if n % 2 else "pitch", layer=x)
        | dict(answer_token=0, token="", head=None, group=g, share=v)
        for n in range(count)
        for x in range(LAYERS)
        for g, v in parts.items()
    ]
    return look(folder, "share", rows, SHARE)


def lens(folder, count=4):
    rows = []
    for n in range(count):
        for x in range(LAYERS):
            for token, kind in ((0, "true option"), (1, "false option"), (2, "false option")):
                p = 0.1 + (0.1 * (x - 3) if token == 0 and x > 3 else 0.0) - (0.01 if token == 0 and x <= 3 else 0.0)
                same = dict(prompt=str(n), task="color" if n % 2 else "pitch", layer=x, token="ABC"[token])
                rows.append(same | dict(token_id=token, kind=kind, p=p, logp=float(np.log(p)), top="A"))
    return look(folder, "lens", rows, LENS)


def patch(folder, count=12):
    """Blank states at the options take 30 points in layers 2 to 4 (most at 3), those at the audio nothing."""
    rows = []
    for n in range(count):
        for site in ("option_correct", "audio"):
            for x in range(LAYERS):
                points = {2: -20.0, 3: -30.0, 4: -22.0}.get(x, 0.0) if site == "option_correct" else 0.0
                p = 0.5 + (points + 0.1 * np.sin(n + 3 * x)) / 100
                same = dict(prompt=str(n), task="", site=site, part="residual", source="silence", layer=x, window=1)
                same |= dict(first_layer=x, last_layer=x, answer="A", p_base=0.5, p_patched=p, p_source=0.2)
                same |= dict(
                    logp_base=float(np.log(0.5)), logp_patched=float(np.log(p)), logp_source=float(np.log(0.2))
                )
                same |= dict(change_percent=100 * (p - 0.5) / 0.5, carried=0.0, top_base="A", top_patched="A")
                rows.append(same | dict(top_source="B", correct=True, correct_patched=True, status="ok", kernel=""))
    return look(folder, "patch", rows, PATCH)


def tokens(folder, count=2):
    """Of ten video tokens the word "sky" is said by as many as the layer's number, "a$b" by one."""
    rows = [
        dict(prompt=str(n), task="", group="video", layer=x, token=word, token_id=i, count=c, tokens=10, p=0.1)
        for n in range(count)
        for x in range(LAYERS)
        for i, (word, c) in enumerate((("sky", x), ("a$b", 1)))
    ]
    return look(folder, "tokens", rows, TOKENS)


def shift(folder, count=2):
    """Half of the video's tokens are shifted in prompt 0, none in prompt 1; KL is the layer's number in both."""
    rows = [
        dict(prompt=str(n), task="", group="video", layer=x, tokens=4, kl=float(x), unshifted=0.5, marginal=0.5 * n)
        | dict(shifted=0.5 - 0.5 * n)
        for n in range(count)
        for x in range(LAYERS)
    ]
    return look(folder, "shift", rows, SHIFT)


def plan(folder):
    """Groups may leave from layer 3 on."""
    n, grid = 20, [(g, x) for g in ("video", "audio", "video+audio") for x in range(LAYERS - 1)]
    right = np.arange(n) > 1
    correct = np.stack([right if x >= 3 else right & (np.arange(n) % 3 > 0) for _, x in grid], 1)
    logp = np.log(np.where(correct, 0.9, 0.2))
    ids, tokens = [str(i) for i in range(n)], np.full(n, 100)
    trials = Trials(ids, ["color"] * n, tokens, np.log(np.where(right, 0.9, 0.2)), right, logp, correct)
    folder.mkdir(parents=True)
    write_table(table_of(trials, grid, Tolerance()), folder / "plan.parquet")
    figures = dict(max_accuracy_drop=0.0, accuracy_clean=0.9, accuracy_kept=0.9, accuracy_change=0.0)
    figures |= dict(accuracy_change_interval=[0.0, 0.0], flops_saved=0.31, kv_bytes_clean=2e5, kv_bytes_kept=1.2e5)
    figures |= dict(kv_saved=0.4, prefill_time_ratio=0.8, decoder_time_ratio=0.7)
    summary = {"schedule": {"video": 3, "audio": 3}, "figures": figures, "failed": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("model: org/made-up\nevict: [video, audio]\n")
    return folder


def numbers_of(table: pa.Table) -> dict:
    """{(path, layer): (mean, low, high, samples)} of a mean_change table."""
    return {(r["knockout"], r["layer"]): (r["mean"], r["low"], r["high"], r["samples"]) for r in table.to_pylist()}
