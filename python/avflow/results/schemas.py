"""The columns of every experiment's table, in one place, and what older files called them.

One name means one thing in all of them: `token` is a text, `answer_token` the number of an answer's token, `position`
a place in the prompt; `p` is a probability and `logp` its natural log, `p_clean` and `p_knockout` a pair of them.
Probabilities, logs and shares are float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from ..errors import InputError

# One row per prompt x knockout x layer. Null in the *_knockout columns and change_percent: see `status`.
SWEEP = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("knockout", pa.string()),
        ("layer", pa.int32()),  # centre of the window, 0-based
        ("window", pa.int32()),  # its width, as it was asked for
        ("first_layer", pa.int32()),
        ("last_layer", pa.int32()),
        ("answer", pa.string()),
        ("p_clean", pa.float64()),
        ("p_knockout", pa.float64()),
        ("logp_clean", pa.float64()),  # natural log, all answer tokens
        ("logp_knockout", pa.float64()),
        ("change_percent", pa.float64()),  # 100 (p_knockout - p_clean) / p_clean
        ("top_clean", pa.string()),  # most probable first token: its text, or its id where there is no tokenizer
        ("top_knockout", pa.string()),
        ("correct", pa.bool_()),  # is the clean run's answer right
        ("correct_knockout", pa.bool_()),  # is the knocked-out run's; null where there is no value
        ("status", pa.string()),  # "ok", or why the row has no value ("no token: audio")
        ("target", pa.string()),  # whose probability the columns above have: "key" or "own"; null before 0.2
        ("key", pa.string()),  # of an own target, the right answer; its probabilities, which are null otherwise
        ("p_clean_key", pa.float64()),
        ("p_knockout_key", pa.float64()),
        ("change_percent_key", pa.float64()),
        ("kernel", pa.string()),  # which path computed the row ("cpu-avx512")
    ]
)
# Columns that rows may lack: they are null then, as in tables that were written before there were such.
OPTIONAL = {"target", "key", "p_clean_key", "p_knockout_key", "change_percent_key"}
SWEEP_TEXT = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("knockout", pa.string()),
        ("layer", pa.int32()),
        ("window", pa.int32()),
        ("first_layer", pa.int32()),
        ("last_layer", pa.int32()),
        ("text_clean", pa.string()),
        ("text_knockout", pa.string()),
        ("tokens_clean", pa.list_(pa.int64())),
        ("tokens_knockout", pa.list_(pa.int64())),
        ("changed", pa.bool_()),
        ("status", pa.string()),
    ]
)
ATTENTION_SHARE = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("layer", pa.int32()),
        ("answer_token", pa.int32()),  # 0: the last prompt token; i: the answer's i-th token
        ("token", pa.string()),  # its text; "" for the last prompt token
        ("head", pa.int32()),  # null: the mean over heads
        ("group", pa.string()),
        ("share", pa.float64()),
    ]
)
ATTENTION_MAP = pa.schema(
    [
        ("prompt", pa.string()),
        ("layer", pa.int32()),
        ("row_position", pa.int32()),  # first token of the stretch of rows
        ("row_group", pa.string()),
        ("key_position", pa.int32()),  # first token of the stretch of keys
        ("key_group", pa.string()),
        ("share", pa.float64()),  # of a row's attention, mean over the stretch's rows and over heads
    ]
)
ANSWER_LENS = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("layer", pa.int32()),
        ("token", pa.string()),
        ("token_id", pa.int64()),
        ("kind", pa.string()),
        ("p", pa.float64()),
        ("logp", pa.float64()),
        ("top", pa.string()),
    ]
)
TOKEN_LENS = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("group", pa.string()),
        ("layer", pa.int32()),
        ("token", pa.string()),
        ("token_id", pa.int64()),
        ("count", pa.int64()),  # tokens of the group that have it as their most probable word
        ("tokens", pa.int64()),  # of the group, that were looked at
        ("p", pa.float64()),  # its probability, mean over them
    ]
)
LENS_SHIFT = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("group", pa.string()),
        ("layer", pa.int32()),
        ("tokens", pa.int64()),
        ("kl", pa.float64()),  # nats, mean over the tokens
        ("unshifted", pa.float64()),  # share of the tokens whose most probable word is the other model's too
        ("marginal", pa.float64()),  # is its second or third
        ("shifted", pa.float64()),  # is none of them
    ]
)
SINKS = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("layer", pa.int32()),
        ("position", pa.int32()),  # in the prompt, 0-based
        ("group", pa.string()),
        ("item", pa.int32()),
        ("place", pa.int32()),  # within its item: 0 is its first token; null where the token has no item
        ("norm", pa.float64()),
        ("ratio", pa.float64()),  # to the median norm of the looked-at tokens in that layer
        ("drawn", pa.float64()),  # share of the last token's attention in that layer that goes to this one
    ]
)
PATHWAYS = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("run", pa.string()),  # "full", "pathways", "random 0", "random 1", ...
        ("edges_kept", pa.float64()),  # share of the causal edges of all layers
        ("correct", pa.bool_()),
        ("p", pa.float64()),
        ("logp", pa.float64()),
    ]
)
# One row per prompt x site x layer. "base": the run that is patched; "source": where the states are from.
PATCH = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("site", pa.string()),
        ("part", pa.string()),  # "residual", "attention" or "mlp"
        ("source", pa.string()),  # what is put in: "silence", "noise of 3 sd on media", "zero"
        ("layer", pa.int32()),  # centre of the window, 0-based
        ("window", pa.int32()),
        ("first_layer", pa.int32()),
        ("last_layer", pa.int32()),
        ("answer", pa.string()),
        ("p_base", pa.float64()),
        ("p_patched", pa.float64()),
        ("p_source", pa.float64()),  # null where the states are no run's
        ("logp_base", pa.float64()),  # natural log, all answer tokens
        ("logp_patched", pa.float64()),
        ("logp_source", pa.float64()),
        ("change_percent", pa.float64()),  # 100 (p_patched - p_base) / p_base
        ("carried", pa.float64()),  # (logp_patched - logp_base) / (logp_source - logp_base): 1 where all comes along
        ("top_base", pa.string()),
        ("top_patched", pa.string()),
        ("top_source", pa.string()),
        ("correct", pa.bool_()),  # is the answer right where nothing is taken from the prompt (see avflow.patch)
        ("correct_patched", pa.bool_()),
        ("status", pa.string()),  # "ok", or why the row has no value ("no token: audio")
        ("kernel", pa.string()),
    ]
)
# One row per group and layer after which it leaves.
PLAN_EVICTION = pa.schema(
    [
        ("group", pa.string()),
        ("layer", pa.int32()),  # the last that sees the group, 0-based
        ("accuracy_clean", pa.float64()),  # share of prompts answered correctly
        ("accuracy", pa.float64()),  # the same without the group
        ("change", pa.float64()),  # the second less the first
        ("change_low", pa.float64()),  # its exact limits, paired (planning.exact)
        ("change_high", pa.float64()),
        ("p_clean", pa.float64()),  # mean probability of the right answer
        ("p", pa.float64()),  # the same without the group
        ("p_low", pa.float64()),  # its bootstrap interval; null where there is one prompt only
        ("p_high", pa.float64()),
        ("mean_logp_change", pa.float64()),  # natural log, all tokens of the answer
        ("prompts", pa.int32()),
    ]
)
# What an eviction plan is chosen from, rows.parquet of its run folder: one row per prompt, group and layer.
PLAN = pa.schema(
    [
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("group", pa.string()),
        ("layer", pa.int32()),  # the last that sees the group, 0-based
        ("tokens", pa.int64()),
        ("logp_clean", pa.float64()),  # natural log, all answer tokens
        ("logp", pa.float64()),  # the same without the group
        ("correct_clean", pa.bool_()),
        ("correct", pa.bool_()),
    ]
)

SCHEMAS: dict[str, pa.Schema] = {
    "sweep": SWEEP,
    "sweep_text": SWEEP_TEXT,
    "attention_share": ATTENTION_SHARE,
    "attention_map": ATTENTION_MAP,
    "answer_lens": ANSWER_LENS,
    "token_lens": TOKEN_LENS,
    "lens_shift": LENS_SHIFT,
    "sinks": SINKS,
    "pathways": PATHWAYS,
    "patch": PATCH,
    "plan_eviction": PLAN_EVICTION,
    "plan": PLAN,
}
# What the commands and config.yaml call an experiment.
ALIASES = {
    "share": "attention_share",
    "lens": "answer_lens",
    "tokens": "token_lens",
    "shift": "lens_shift",
    "text": "sweep_text",
    "map": "attention_map",
}
# Columns as avflow 0.1 called them, where a file lacks the new name on the right of the first pair.
_RENAMED: dict[str, dict[str, str]] = {
    "attention_share": {"token": "answer_token", "text": "token"},
    "answer_lens": {"probability": "p"},
    "sinks": {"token": "position"},
    "plan_eviction": {"mean_p": "p"},
}


def register(name: str, schema: pa.Schema) -> pa.Schema:
    """Makes the columns of a further experiment known, so that `avflow.read` checks them; returns them.

    Raises:
        InputError: the name has other columns already.
    """
    if name in ALIASES or SCHEMAS.setdefault(name, schema) != schema:
        raise InputError(f"an experiment called {name!r} is there already: choose another name")
    return schema


def experiment_name(name: str) -> str:
    """The name of an experiment, from that name or from what a command calls it ("share": "attention_share")."""
    return ALIASES.get(name, name)


def schema_of(experiment: str) -> pa.Schema | None:
    """The columns of an experiment's table; None where they are not known."""
    return SCHEMAS.get(experiment_name(experiment))


def with_new_names(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns that avflow 0.1 called otherwise under the names of `schema`."""
    for name, renamed in _RENAMED.items():
        if SCHEMAS[name] == schema and _is_old(table, renamed):
            return table.rename_columns([renamed.get(column, column) for column in table.column_names])
    return table


def column_now(experiment: str, name: str) -> str | None:
    """What avflow 0.1's column of that name is called now; None where the name is as it was."""
    return _RENAMED.get(experiment_name(experiment), {}).get(name)


def _is_old(table: pa.Table, renamed: Mapping[str, str]) -> bool:
    old, new = next(iter(renamed.items()))
    return old in table.column_names and new not in table.column_names
