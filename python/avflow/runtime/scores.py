"""How much attention tokens receive from a few rows: what score-based policies ask for, from the op's own pass."""

from __future__ import annotations

import numpy as np
import torch

from avflow_ext import AttentionProblem, Tokens, table_of
from avflow_ext.reference import cut_mask, visible

from ..errors import InputError
from ..eviction.policies import ScoredBy
from ..knockouts.knockout import Semantics

_ROWS = 16  # at a time: memory O(heads x 16 x tokens)


class Scored:
    """One layer's queries, keys and log-sum-exps, kept until the rows leave after it.

    Args:
        q: [batch * rows, heads, d]. k: [batch, keys, kv_heads, d]; the rows are the last keys of each sequence.
        lse: float32 [batch * rows, heads], or None: for a layer that has not run, those of the rows that are asked are
            made here. problem: that the op was given, or would be. question: 64-bit set of groups.
        end: columns of the prompt; rows after it are the answer's, and no scores are taken from them.
        semantics: of the problem's cuts; of interest without lse.
    """

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        lse: torch.Tensor | None,
        problem: AttentionProblem,
        scale: float,
        question: int,
        end: int,
        semantics: Semantics = "renormalize",
    ) -> None:
        self.q, self.k, self.lse, self.problem, self.scale = q, k, lse, problem, scale
        self.end, self.semantics = end, semantics
        self.question = torch.from_numpy(table_of(question))

    def __call__(self, b: int, at: np.ndarray, by: ScoredBy) -> np.ndarray:
        """Attention of the last row of sequence b's prompt, or of its question's rows on average, to its rows `at`.

        The mean over all heads.

        Returns:
            float32 [len(at)]. What is cut or hidden receives none.
        """
        n = self.k.shape[1]
        m = len(self.q) // len(self.k)
        rows, keys = self.problem.rows, self.problem.keys
        mine = torch.arange(b * m, (b + 1) * m)
        mine = mine[(rows.stream[mine] == b) & (rows.order[mine] < self.end)]
        if by == "question":
            mine = mine[self.question[rows.group[mine].long()]]
        elif by == "last":
            mine = mine[-1:]
        else:
            raise InputError(f"scores({by!r}): ask for 'last' or 'question'")
        if not len(mine):
            raise InputError(f"scores({by!r}): the prompt has no such token in this layer")
        columns = n - m + torch.from_numpy(at)
        looked_at = keys.select(b * n + columns)
        group = self.q.shape[1] // self.k.shape[2]
        k = self.k[b, columns.to(self.k.device)].float().repeat_interleave(group, 1)  # [c, heads, d]
        total = torch.zeros(len(at), device=self.k.device)
        for some in mine.split(_ROWS):
            here = self._part(some, looked_at)
            open_edges = visible(here)[None] & ~cut_mask(here, self.q.shape[1])  # [heads, r, c]
            device = some.to(self.q.device)
            score = torch.einsum("rhd,chd->hrc", self.q[device].float(), k) * self.scale
            weight = torch.exp(score - self._lse(b, some)[..., None])
            total += torch.where(open_edges.to(weight.device), weight, 0.0).sum((0, 1))
        return (total / (len(mine) * self.q.shape[1])).cpu().numpy()

    def _part(self, some: torch.Tensor, keys: Tokens) -> AttentionProblem:
        """The problem for some of its rows, and these keys."""
        whole = self.problem
        return AttentionProblem(whole.rows.select(some), keys, whole.streams, whole.cuts, window=whole.window)

    def _lse(self, b: int, some: torch.Tensor) -> torch.Tensor:
        """Log-sum-exps of some rows of sequence b: float32 [heads, r]."""
        if self.lse is not None:
            return self.lse[some.to(self.q.device)].T
        n, heads = self.k.shape[1], self.q.shape[1]
        keys = self.problem.keys.select(b * n + torch.arange(n))
        here = self._part(some, keys)
        closed = ~visible(here)[None].expand(heads, -1, -1)  # [heads, r, n]
        if self.semantics == "renormalize":
            closed = closed | cut_mask(here, heads)
        q = self.q[some.to(self.q.device)].float().unflatten(1, (self.k.shape[2], -1))  # [r, kv_heads, group, d]
        score = torch.einsum("rvgd,nvd->vgrn", q, self.k[b].float()).flatten(0, 1) * self.scale
        return score.masked_fill(closed.to(score.device), -torch.inf).logsumexp(-1)
