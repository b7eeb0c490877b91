"""prompts.jsonl of a run folder: each sample as it was asked, and what every token of its prompt is. For looking at
samples later, without the model; no number depends on it, and a run goes on without it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from .. import checks
from ..models.base import Model
from ..prompts.prompt import Prompt

FILE = "prompts.jsonl"
LONGEST = 200  # characters of a stretch's text


def told(prompt: Prompt, model: Model) -> dict[str, Any]:
    """{sample: the fields of its Sample that are set, but for labels; tokens: {count, stretches}} of a prompt.

    stretches: [[group, item, first token, tokens, text]], in the prompt's order, one for tokens of one group and item
    that stand together; item is -1 for none, text "" for media.
    """
    sample = {} if prompt.sample is None else json.loads(prompt.sample.to_json())
    sample.pop("labels", None)
    return {"sample": sample, "tokens": {"count": len(prompt), "stretches": stretches(prompt, model)}}


def stretches(prompt: Prompt, model: Model) -> list[list[Any]]:
    """The prompt's tokens as `told` gives them."""
    items = prompt.items if prompt.items is not None else [-1] * len(prompt)
    media, ids = model.groups.members("media"), prompt.input_ids
    found, at = [], 0
    for (group, item), members in itertools.groupby(zip(prompt.groups, items, strict=True)):
        count = len(list(members))
        text = "" if group in media or ids is None else model.text(ids[at : at + count].tolist())
        found.append([group, int(item), at, count, text[:LONGEST]])
        at += count
    return found


def line_of(sample_id: str, value: dict[str, Any]) -> str:
    """Of `told`, the sample's line."""
    return json.dumps({"id": sample_id, **value})


def read_told(folder: str | Path) -> dict[str, dict[str, Any]]:
    """{sample id: what `told` gave}, of the samples whose lines are whole; empty for a run of before this file."""
    path = checks.path("the run folder", folder) / FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found: dict[str, dict[str, Any]] = {}
    for line in text.split("\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # cut short by a kill
            continue
        if isinstance(value, dict) and isinstance(value.get("id"), str) and _is_told(value):
            found[value["id"]] = {key: value[key] for key in ("sample", "tokens")}
    return found


def _is_told(value: dict[str, Any]) -> bool:
    tokens = value.get("tokens")
    if not (
        isinstance(value.get("sample"), dict) and isinstance(tokens, dict) and isinstance(tokens.get("count"), int)
    ):
        return False
    kinds = [str, int, int, int, str]
    known = tokens.get("stretches")
    return isinstance(known, list) and all(isinstance(s, list) and [type(v) for v in s] == kinds for s in known)
