"""One walk: the model's own decoder layers over the clean rows of some prompts and all streams that ride along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from avflow_ext import AttentionProblem, Cut, Streams, Tokens

from ..errors import NumericError
from ..knockouts.knockout import Knockout, Semantics
from ..knockouts.sides import parts_of
from ..models.attention import AttentionCall, attention
from ..models.base import Model
from ..models.compat import attributes
from ..models.evaluating import in_eval_mode, warn_of_hooks
from ..prompts.correct import leads_options
from ..prompts.divergence import divergence_of
from ..uploads import upload_lists
from .capture import Captured
from .chunks import head_chunk
from .layers import Tables, check_finite, run_layers
from .layout import Early, Layout
from .proof import is_due, prove
from .row_wise import row_wise

if TYPE_CHECKING:
    from ..models.compat import AttentionModule

OnKeys = Callable[[int, torch.Tensor, torch.Tensor], None]


@dataclass
class Prediction:
    """What each predicting row predicts, in the order of `rows`; all on the CPU."""

    logp: torch.Tensor  # [rows] fp32, natural log of the probability of the answer token that the row predicts
    top: torch.Tensor  # [rows] int64, the most probable token
    option: torch.Tensor  # [rows] bool: the answer's logit is the highest among the prompt's options
    kl: torch.Tensor | None = None  # [rows] float64, nats: KL(the prompt's clean row || this row); where asked for
    entropy: torch.Tensor | None = None  # [rows] float64, nats: of the prompt's clean row

    @property
    def columns(self) -> tuple[torch.Tensor, ...]:
        more = () if self.kl is None or self.entropy is None else (self.kl, self.entropy)
        return self.logp, self.top, self.option, *more


class _LayerCall:
    """One layer's attention over the packed rows; `keep` are the problem's keep_rows on the device, int64, or None."""

    def __init__(
        self,
        problem: AttentionProblem,
        semantics: Semantics,
        on_keys: OnKeys | None,
        layer: int,
        keep: torch.Tensor | None,
    ) -> None:
        self.problem, self.semantics, self.on_keys, self.layer, self.keep = problem, semantics, on_keys, layer, keep

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        # q [1, heads, rows, d], k and v [1, kv_heads, rows, d]: rows-major in memory, so these are views
        q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
        if self.on_keys:
            self.on_keys(self.layer, k, v)
        out = attention(q, k, v, self.problem, scale=scale, semantics=self.semantics).out  # [rows, heads, d]
        if self.keep is not None:
            out = q.new_zeros(q.shape).index_copy_(0, self.keep, out)
        return out[None]


class Problems:
    """The attention problem of each layer; the same object as before where nothing has changed."""

    def __init__(self, model: Model, batch: Sequence[Captured], layout: Layout, knockouts: Sequence[Knockout]) -> None:
        self.model, self.layout, self.knockouts = model, layout, knockouts
        self.parts = parts_of(model.groups, knockouts)
        item = np.concatenate([c.columns.item for c in batch])
        group = self.parts.columns(np.concatenate([c.columns.group for c in batch]), item)
        self._late = self._columns(layout, group, item)
        self._early = None if layout.early is None else self._columns(layout.early, group, item)
        self._key: tuple[int, dict[int, tuple[int, ...]], bool, bool] | None = None  # of the problem at hand
        self._problem: AttentionProblem | None = None

    def _columns(self, rows: Layout | Early, group: np.ndarray, item: np.ndarray) -> tuple[Tokens, Streams]:
        """group, item: int32, of the prompts' tokens end to end."""
        columns = (rows.order, group[rows.token], item[rows.token], rows.stream)
        parent = self.layout.parent[: len(rows.start)]
        streams = Streams(torch.from_numpy(parent), torch.from_numpy(rows.start))
        return Tokens(*(torch.from_numpy(a) for a in columns)), streams

    def _is_early(self, layer: int) -> bool:
        return self.layout.early is not None and layer < self.layout.early.layers

    def cuts(self, layer: int) -> list[Cut]:
        active = self.layout.active[layer]
        return [c for k, streams in active.items() for c in self.knockouts[k].cuts(self.parts, streams)]

    def make(self, layer: int, keep_rows: np.ndarray | None) -> AttentionProblem:
        columns = self._early if self._early is not None and self._is_early(layer) else self._late
        tokens = columns[0].head(self.layout.rows[layer])
        return AttentionProblem(
            rows=tokens, keys=tokens, streams=columns[1], cuts=self.cuts(layer), keep_rows=keep_rows
        )

    def at(self, layer: int, keep_rows: np.ndarray | None) -> AttentionProblem:
        key = (self.layout.rows[layer], self.layout.active[layer], keep_rows is None, self._is_early(layer))
        if self._problem is None or key != self._key:
            self._key, self._problem = key, self.make(layer, keep_rows)
        return self._problem


@torch.no_grad()
def run_walk(
    model: Model,
    batch: Sequence[Captured],
    layout: Layout,
    knockouts: Sequence[Knockout],
    predict: np.ndarray,
    targets: np.ndarray,
    semantics: Semantics,
    find_nonfinite: bool = False,
    on_layer: Callable[[int], None] | None = None,
    on_keys: OnKeys | None = None,
    divergence: bool = False,
) -> Prediction:
    """Runs all layers once.

    Args:
        batch: the prompts, in the order of the layout's clean streams.
        predict: rows whose prediction is wanted, int64 [P]; increasing.
        targets: the token each of them should predict, int64 [P].
        on_layer: called after each layer, with its rows.
        on_keys: called in each layer as (layer, k, v), [rows, kv_heads, d] each.
        divergence: also how far each row's next-token distribution is from its prompt's clean one; every prompt then
            has one predicting row a stream, in `predict` too (`answer_ids` of one token).
        find_nonfinite: look for NaN and infinity after every layer; the error then names the layer where they begin.

    Raises:
        NumericError: NaN or infinity; the message names the prompt and, with find_nonfinite, the layer.
        UnsupportedModelError: the clean run is not the model's own (`walk.proof`).
    """
    options = _options(batch, layout, predict)  # [rows, options] or None
    early = layout.early
    lists = [layout.token, predict, targets, *([] if options is None else [options.ravel()])]
    lists = [*([] if early is None else [early.token, early.kept]), *lists]
    before, sent = [], list(upload_lists([*lists, *layout.joins, *layout.saves], model.device))
    if early is not None:
        before, sent = sent[:2], sent[2:]
    token, rows, own, *more = sent
    choices = None if options is None else more.pop(0).view(options.shape)
    joins, saves = more[: model.n_layers], more[model.n_layers :]
    every = (torch.cat([c.cos for c in batch], -2), torch.cat([c.sin for c in batch], -2))  # [1, tokens, d]
    tables = (every[0].index_select(-2, token), every[1].index_select(-2, token))  # [1, rows at the end, d]
    shed: tuple[int, torch.Tensor, Tables] | None = None
    if early is not None:
        shed = early.layers, before[1], tables
        tables = (every[0].index_select(-2, before[0]), every[1].index_select(-2, before[0]))
    problems = Problems(model, batch, layout, knockouts)
    last = model.n_layers - 1

    def call(layer: int) -> AttentionCall:
        problem = problems.at(layer, predict if layer == last else None)
        return _LayerCall(problem, semantics, on_keys, layer, rows if layer == last else None)

    def after(layer: int, hidden: torch.Tensor) -> None:
        if on_layer:
            on_layer(hidden.shape[1])
        if find_nonfinite:
            check_finite(hidden, [(c.prompt.id, len(c)) for c in batch], f"after decoder layer {layer}")

    if len(layout.parent) > len(batch):
        warn_of_hooks(model, "a sweep")
    with in_eval_mode(model):  # the output matrix too: an adapter's dropout would make each run differ
        with attributes(row_wise(model, rows)):
            hidden = run_layers(
                model, _clean_rows(batch), tables, call, None, joins, saves, layout.reads, after=after, shed=shed
            )
        of_clean = torch.from_numpy(_prompts_of(layout, predict)).to(hidden.device) if divergence else None
        logp, top, option, finite, *far = _predict(model, hidden[0].index_select(0, rows), own, choices, of_clean)
        if not bool(finite.all()):
            c = batch[_prompts_of(layout, predict)[int(finite.logical_not().nonzero()[0])]]
            raise NumericError(f"prompt {c.prompt.id!r}: NaN or infinity in the logits")
        for number, captured in enumerate(batch):
            if not find_nonfinite and is_due(model, captured, "walk"):
                clean = layout.stream[predict] == number
                clean &= layout.order[predict] >= captured.columns.n_prompt - 1
                mine = torch.from_numpy(predict[clean]).to(hidden.device)
                ours = model.logits(hidden.index_select(1, mine))[0]  # [answer tokens, vocab]
                prove(model, captured, "walk", ours)
    has = torch.tensor([c.prompt.option_ids is not None for c in batch])[_prompts_of(layout, predict)]
    return Prediction(logp.float(), top.long(), option.bool() & has, *far)


def _clean_rows(batch: Sequence[Captured]) -> torch.Tensor:
    """The prompts' hidden states end to end, [1, rows, D]."""
    return torch.cat([c.hidden for c in batch], 1) if len(batch) > 1 else batch[0].hidden


def _prompts_of(layout: Layout, predict: np.ndarray) -> np.ndarray:
    """The prompt of each predicting row, int [P]."""
    which = layout.stream[predict]
    return np.where(layout.parent[which] < 0, which, layout.parent[which])


def _options(batch: Sequence[Captured], layout: Layout, predict: np.ndarray) -> np.ndarray | None:
    """Option ids of each predicting row, int64 [P, most options]; shorter lists repeat their first; None: no options.

    A prompt without options has zeros.
    """
    ids = [c.prompt.option_ids or [0] for c in batch]
    if all(c.prompt.option_ids is None for c in batch):
        return None
    widest = max(map(len, ids))
    return np.array([[*one, *[one[0]] * (widest - len(one))] for one in ids], np.int64)[_prompts_of(layout, predict)]


def _predict(
    model: Model,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    options: torch.Tensor | None,
    of_clean: torch.Tensor | None = None,
) -> torch.Tensor:
    """Final norm and output matrix on the predicting rows [P, D], in pieces; log-softmax in fp32.

    of_clean: int64 [P], which of the rows, the clean ones first, is each one's clean row; None: nothing is compared.

    Returns:
        float64 [4, P] on the CPU, by one copy at the end: logp, top, whether the answer leads its options, whether all
        logits are finite. Numbers of fp32 and token ids are exact in it. With of_clean two more: KL and entropy.
    """
    parts, chunk = [], head_chunk(model)
    clean = None
    if of_clean is not None:
        chunk = max(1, chunk // 4)  # both distributions in float64 beside the logits
        count = int(of_clean.max()) + 1
        clean = torch.cat([model.logits(hidden[None, at : at + 1])[0].float() for at in range(count)])
    for at in range(0, hidden.shape[0], chunk):
        part = slice(at, at + chunk)
        logits = model.logits(hidden[None, part])[0].float()  # [rows, vocab]
        finite = torch.isfinite(logits).all(-1)
        own = logits.gather(1, targets[part, None])[:, 0]  # [rows]
        logp, top = own - logits.logsumexp(-1), logits.argmax(-1)
        leads = finite if options is None else leads_options(logits, targets[part], options[part])
        found = [logp, top, leads, finite]
        if clean is not None and of_clean is not None:
            found += divergence_of(clean.index_select(0, of_clean[part]), logits)
        parts.append(torch.stack([t.double() for t in found]))
    return torch.cat(parts, 1).cpu()
