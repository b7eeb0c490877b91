"""The naive engine: one full forward of the same transformers model per knockout, eager attention, dense N x N masks.

Written from the definitions, with nothing of the walk: groups by name, items, causality, self edges, heads. Only the
hash that chooses a random share is the op's own (avflow_ext.reference.edge_hash).
"""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from avflow.models.compat import attention_name, cache_in, find_text_model
from avflow.prompts.groups import ALIASES, BASE_GROUPS
from avflow_ext.reference import edge_hash

NAME = "dense_oracle"


def names(side: str) -> set[str]:
    out: set[str] = set()
    for part in side.split("+"):
        out |= set(BASE_GROUPS) if part == "all" else set(ALIASES.get(part, (part,)))
    return out


def cut_edges(knockout, groups: list[str], items: list[int], heads: int) -> torch.Tensor:
    """bool [heads, N, N]: query i, key j."""
    n = len(groups)
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    item = torch.tensor(items)
    cut = torch.zeros(n, n, dtype=torch.bool)
    pairs = [(knockout.source, knockout.target)]
    if knockout.both:
        pairs.append((knockout.target, knockout.source))
    for source, target in pairs:
        from_source = torch.tensor([g in names(source) for g in groups])[None, :]
        to_target = torch.tensor([g in names(target) for g in groups])[:, None]
        edge = (j <= i) & from_source & to_target
        if knockout.scope == "other_items":
            edge &= (item[:, None] != item[None, :]) & (item[:, None] >= 0) & (item[None, :] >= 0)
        if not knockout.cut_self:
            edge &= i != j
        if knockout.random_share is not None:
            edge &= edge_hash(knockout.seed, torch.arange(n), torch.arange(n)) < round(knockout.random_share * 2**32)
        cut |= edge
    out = torch.zeros(heads, n, n, dtype=torch.bool)
    out[list(range(heads)) if knockout.heads is None else list(knockout.heads)] = cut
    return out


def dense_attention(q, k, v, seen, cut, scale, semantics):
    """q [B, H, M, d], k, v [B, Hkv, K, d], seen bool [B, 1, M, K], cut bool [B, H, M, K] -> [B, M, H, d], weights."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    score = (q @ k.transpose(2, 3)).float() * scale
    closed = ~seen | cut if semantics == "renormalize" else ~seen.expand_as(score)
    weight = torch.softmax(score.masked_fill(closed, -math.inf), -1)
    weight = weight.nan_to_num(0.0)  # a row with no open edge
    weight = weight.masked_fill(cut, 0.0)
    return (weight.to(v.dtype) @ v).transpose(1, 2), weight


@contextmanager
def dense(hf, cuts: dict[int, torch.Tensor], semantics: str = "renormalize", saved: dict | None = None):
    """The model's own forward with dense masks. cuts: layer -> bool [B or 1, H or 1, N, N] over the whole sequence.

    Query m of M stands at sequence position m + (keys written so far - M); padding as the 4-D mask says. saved gets the
    attention [B, H, M, K] of every layer.
    """

    def attend(module, query, key, value, attention_mask=None, scaling=None, **_):
        b, h, m, _ = query.shape
        total = key.shape[2]
        if attention_mask is None:
            position = torch.arange(m) + total - m
            seen = (torch.arange(total)[None, :] <= position[:, None])[None, None]
        else:
            seen = attention_mask[..., :total]
            position = None
        cut = torch.zeros(b, h, m, total, dtype=torch.bool)
        full = cuts.get(module.layer_idx)
        if full is not None:
            at = state["at"] if position is None else int(position[0])
            n = min(total, full.shape[-1])
            cut[..., :n] = full[:, :, at : at + m, :n]
        out, weight = dense_attention(query, key, value, seen, cut, scaling, semantics)
        if saved is not None:
            saved[module.layer_idx] = weight
        return out, None

    state = {"at": 0}
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    text_model = find_text_model(hf)

    def before(module, args, kwargs):
        cache = cache_in(kwargs)
        state["at"] = 0 if cache is None else int(cache.get_seq_length())

    handle = text_model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with attention_name(text_model, NAME):
            yield
    finally:
        handle.remove()


@torch.no_grad()
def answer_logp(hf, prompt, knockout=None, layers=(), semantics: str = "renormalize", cuts=None) -> tuple[float, int]:
    """Log-probability of the prompt's answer (all tokens teacher-forced), and the most probable first token.

    A knockout in some layers, or `cuts` as `dense` takes them."""
    extra = prompt.answer_ids[:-1]
    heads = find_text_model(hf).config.num_attention_heads
    groups = [*prompt.groups, *["answer"] * len(extra)]
    items = [*prompt.items, *[-1] * len(extra)]
    cuts = cuts or {}
    if knockout is not None:
        cut = cut_edges(knockout, groups, items, heads)[None]
        cuts = {layer: cut for layer in layers}
    if prompt.input_ids is not None:
        ids = torch.cat([prompt.input_ids, torch.tensor(extra, dtype=torch.long)])[None]
        inputs = dict(prompt.model_inputs or {}) | {"input_ids": ids}
    else:
        more = hf.get_input_embeddings()(torch.tensor(extra, dtype=torch.long))
        inputs = {"inputs_embeds": torch.cat([prompt.inputs_embeds, more])[None]}
    if prompt.position_ids is not None:
        p = prompt.position_ids
        more = p.max() + 1 + torch.arange(len(extra))
        inputs["position_ids"] = torch.cat([p, more.expand(*p.shape[:-1], -1)], -1).unsqueeze(-2)
    # A full mask: without one, transformers takes position ids with gaps for several packed sequences.
    inputs["attention_mask"] = torch.ones(1, len(groups), dtype=torch.long)
    with dense(hf, cuts, semantics):
        logits = hf(**inputs, use_cache=False).logits[0].float()
    at = len(prompt) - 1
    target = torch.tensor(prompt.answer_ids)
    logp = torch.log_softmax(logits[at : at + len(target)], -1)[torch.arange(len(target)), target]
    return float(logp.sum()), int(logits[at].argmax())


def window_layers(layer: int, width: int, style: str, n: int) -> list[int]:
    """The window's layers, from the definition."""
    inside = {
        "center": lambda x: layer - width // 2 <= x < layer + math.ceil(width / 2),
        "inverse": lambda x: not layer - width // 2 <= x < layer + math.ceil(width / 2),
        "top_down": lambda x: x >= layer,
        "bottom_up": lambda x: x <= layer,
    }[style]
    return [x for x in range(n) if inside(x)]


def check_rows(hf, prompt, knockouts, rows, window: int, style="center", semantics="renormalize") -> float:
    """Asserts that every row equals the oracle; the largest effect of a knockout on logp."""
    n_layers = len(find_text_model(hf).layers)
    by_name = {k.name: k for k in knockouts}
    clean, top = answer_logp(hf, prompt)
    largest, seen = 0.0, {}
    for row in rows:
        layers = window_layers(row["layer"], window, style, n_layers)
        key = (row["knockout"], *layers)
        if key not in seen:
            seen[key] = answer_logp(hf, prompt, by_name[row["knockout"]], layers, semantics)
        logp, top_cut = seen[key]
        where = f"{prompt.id} {row['knockout']} layer {row['layer']}"
        assert abs(row["logp_clean"] - clean) <= 1e-4 and row["top_clean"] == str(top), where
        assert abs(row["logp_knockout"] - logp) <= 1e-4, f"{where}: {row['logp_knockout']} is not {logp}"
        assert row["top_knockout"] == str(top_cut), where
        assert abs(row["p_knockout"] - math.exp(logp)) <= 1e-4
        change = 100 * (row["p_knockout"] - row["p_clean"]) / row["p_clean"]
        assert abs(row["change_percent"] - change) <= 1e-6 * max(1.0, abs(change)), where
        largest = max(largest, abs(logp - clean))
    return largest
