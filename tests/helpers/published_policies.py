"""What papers' code keeps, in plain torch from its description: hidden states, norm, q, k, rotary, softmax, topk.

Each returns the last layer (0-based) that every token reaches, int [batch, n]; NEVER for those that stay. Nothing of
avflow is used but the dense oracle, under which dropped tokens are hidden from all others.
"""

from __future__ import annotations

import oracle
import torch
from evict_cases import NEVER, Case, cuts_of

from avflow.models.compat import find_text_model


def _members(case: Case, group: str) -> torch.Tensor:
    return torch.tensor([[name in oracle.names(group) for name in row] for row in case.groups])


def _into(hf, case: Case, gone: torch.Tensor, number: int):
    """The layer, what enters it [batch, n, D], and cos and sin for it, in the run that lost what is gone."""
    text, seen = find_text_model(hf), {}
    layer = text.layers[number]

    def watch(module, args, kwargs):
        seen["hidden"] = args[0] if args else kwargs["hidden_states"]
        seen["tables"] = kwargs["position_embeddings"]

    hook = layer.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        cuts = {at: cut[:, :1] for at, cut in cuts_of(gone, 0, layers=len(text.layers)).items()}
        with oracle.dense(hf, cuts), torch.no_grad():
            hf(**case.inputs)
    finally:
        hook.remove()
    return layer, seen["hidden"], seen["tables"]


def _turned(x: torch.Tensor, tables, config) -> torch.Tensor:
    """Rotary embedding of x [batch, n, heads, d]."""
    cos, sin = tables
    if cos.dim() == 4:  # [3, batch, n, d]: time, height and width each turn a section of the channels
        widths = list(config.rope_parameters["mrope_section"]) * 2
        cos, sin = (torch.cat([p[i % 3] for i, p in enumerate(t.split(widths, -1))], -1) for t in (cos, sin))
    half = x.shape[-1] // 2
    return x * cos[:, :, None] + torch.cat([-x[..., half:], x[..., :half]], -1) * sin[:, :, None]


def _paid_by_last(hf, case: Case, gone: torch.Tensor, number: int) -> torch.Tensor:
    """The attention of the last token in a layer to all tokens that enter it, averaged over heads: [batch, n]."""
    layer, hidden, tables = _into(hf, case, gone, number)
    attention, config = layer.self_attn, find_text_model(hf).config
    with torch.no_grad():
        x = layer.input_layernorm(hidden)
        q, k = (p(x).unflatten(-1, (-1, attention.head_dim)) for p in (attention.q_proj, attention.k_proj))
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        q, k = _turned(q, tables, config), _turned(k, tables, config)
        k = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
        score = torch.einsum("bhd,bnhd->bhn", q[:, -1], k) / attention.head_dim**0.5
        there = (gone >= number) & case.inputs["attention_mask"].bool()
        return torch.softmax(score.masked_fill(~there[:, None], -torch.inf), -1).mean(1)


def fastv(hf, case: Case, k: int, r: float, group: str) -> torch.Tensor:
    """Entering layer k, round(n (1 - r)) of n tokens stay: those that got most in layer k - 1."""
    members = _members(case, group)
    gone = torch.full(members.shape, NEVER)
    paid = _paid_by_last(hf, case, gone, k - 1)
    for b in range(len(gone)):
        at = members[b].nonzero()[:, 0]
        best = at[paid[b, at].topk(round(len(at) * (1 - r))).indices]
        gone[b, at] = k - 1
        gone[b, best] = NEVER
    return gone


def pyramiddrop(hf, case: Case, layers, ratios, group: str) -> torch.Tensor:
    """Entering each layer, int(n ratio) of the first n stay: by what that layer's q and k make of those there."""
    members = _members(case, group)
    gone = torch.full(members.shape, NEVER)
    for layer, ratio in zip(layers, ratios, strict=True):
        paid = _paid_by_last(hf, case, gone, layer)
        for b in range(len(gone)):
            at = (members[b] & (gone[b] == NEVER)).nonzero()[:, 0]
            best = at[paid[b, at].topk(int(int(members[b].sum()) * ratio)).indices]
            gone[b, at] = layer - 1
            gone[b, best] = NEVER
    return gone


def evs(hf, case: Case, q: float) -> torch.Tensor:
    """Of each video's embeddings [T, h w, D], the flat top max(h w, int(T h w (1 - q))): 255 in the first frame, else
    1 - cosine similarity to the frame before."""
    members = _members(case, "video")
    _, hidden, _ = _into(hf, case, torch.full(members.shape, NEVER), 0)
    gone = torch.where(members, -1, NEVER)
    for b, (t, h, w) in enumerate(case.inputs["video_grid_thw"].tolist()):  # one video a sequence
        at, cells = members[b].nonzero()[:, 0], h * w // 4
        x = hidden[b, at].view(t, cells, -1)
        unlike = torch.cat([torch.full((1, cells), 255.0), 1 - torch.cosine_similarity(x[1:], x[:-1], -1)])
        stay = unlike.flatten().argsort(descending=True, stable=True)[: max(cells, int(t * cells * (1 - q)))]
        gone[b, at[stay]] = NEVER
    return gone


def vtw(hf, case: Case, k: int, group: str) -> torch.Tensor:
    """Nothing of it enters layer k."""
    members = _members(case, group)
    return torch.where(members, k - 1, NEVER)
