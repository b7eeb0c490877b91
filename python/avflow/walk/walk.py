"""One walk: the model's own decoder layers over the clean rows of some prompts and all streams that ride along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from avflow_ext import AttentionProblem, Cut, Streams, Tokens

from ..errors import NumericError
from ..knockouts.amplification import Amplification
from ..knockouts.knockout import Knockout, Semantics
from ..knockouts.sides import parts_of
from ..models.attention import AttentionCall, attention
from ..models.base import Model
from ..models.compat import attributes
from ..models.evaluating import in_eval_mode, warn_of_hooks
from ..models.fused import fused_layers
from ..models.windows import layer_windows
from ..prompts.correct import leads_options
from ..prompts.divergence import divergence_of
from ..uploads import upload, upload_lists
from .amplified import Loud, combined, factors_of
from .capture import Captured
from .chunks import head_chunk
from .deep_rows import DeepRows
from .edits import Edits, with_edited_mlps
from .layers import Tables, check_finite, run_layers
from .layout import Early, Layout
from .places import joined_places, with_places
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
    own: torch.Tensor | None = None  # [rows] float64: logp of the prompt's own token; where asked for
    own_token: torch.Tensor | None = None  # [rows] int64, that token: what its clean run would say first

    @property
    def columns(self) -> dict[str, torch.Tensor]:
        """Those that there are, by name."""
        there = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column for name, column in there.items() if column is not None}


class LayerCall:
    """One layer's attention over the packed rows; `keep` are the problem's keep_rows on the device, int64, or None."""

    def __init__(
        self,
        problem: AttentionProblem,
        semantics: Semantics,
        on_keys: OnKeys | None,
        layer: int,
        keep: torch.Tensor | None,
        edits: Edits | None,
        loud: Loud | None,
    ) -> None:
        self.problem, self.semantics, self.on_keys, self.layer, self.keep = problem, semantics, on_keys, layer, keep
        self.edits, self.loud = edits, loud

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        # q [1, heads, rows, d], k and v [1, kv_heads, rows, d]: rows-major in memory, so these are views
        q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
        if self.on_keys:
            self.on_keys(self.layer, k, v)
        out = self._attend(q, k, v, scale)  # [rows, heads, d]
        if self.keep is not None:
            out = q.new_zeros(q.shape).index_copy_(0, self.keep, out)
        if self.edits is not None:
            self.edits.apply("attention", self.layer, out)
        return out[None]

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        if self.loud is None:
            return attention(q, k, v, self.problem, scale=scale, semantics=self.semantics).out
        lse = self.semantics == "renormalize"
        kept, whole = (
            attention(q, k, v, problem, scale=scale, semantics=self.semantics, return_lse=lse)
            for problem in (self.problem, self.loud.problem)
        )
        return combined(kept, whole, self.loud.factors, self.semantics)


class Problems:
    """The attention problem of each layer; the same object as before where nothing has changed."""

    def __init__(self, model: Model, batch: Sequence[Captured], layout: Layout, knockouts: Sequence[Knockout]) -> None:
        self.model, self.layout, self.knockouts = model, layout, knockouts
        self.parts = parts_of(model.groups, knockouts)
        item = np.concatenate([c.columns.item for c in batch])
        group = self.parts.columns(np.concatenate([c.columns.group for c in batch]), item)
        self._late = self._columns(layout, group, item)
        self._early = None if layout.early is None else self._columns(layout.early, group, item)
        self.windows = layer_windows(model.text_model)
        self._key: tuple[Any, ...] | None = None  # of the problem at hand
        self._problem: AttentionProblem | None = None
        self._loud: Loud | None = None

    def _columns(self, rows: Layout | Early, group: np.ndarray, item: np.ndarray) -> tuple[Tokens, Streams]:
        """group, item: int32, of the prompts' tokens end to end."""
        columns = (rows.order, group[rows.token], item[rows.token], rows.stream)
        parent = self.layout.parent[: len(rows.start)]
        streams = Streams(torch.from_numpy(parent), torch.from_numpy(rows.start))
        return Tokens(*(torch.from_numpy(a) for a in columns)), streams

    def _early_at(self, layer: int) -> Early | None:
        early = self.layout.early
        return early if early is not None and layer < early.layers else None

    def cuts(self, layer: int, amplified: bool = True) -> list[Cut]:
        """amplified: also of edges that are to be amplified."""
        active = {
            k: streams
            for k, streams in self.layout.active[layer].items()
            if amplified or not isinstance(self.knockouts[k], Amplification)
        }
        return [c for k, streams in active.items() for c in self.knockouts[k].cuts(self.parts, streams)]

    def make(self, layer: int, keep_rows: np.ndarray | None, amplified: bool = True) -> AttentionProblem:
        columns = self._early if self._early is not None and self._early_at(layer) else self._late
        tokens = columns[0].head(self.layout.rows[layer])
        return AttentionProblem(
            rows=tokens,
            keys=tokens,
            streams=columns[1],
            cuts=self.cuts(layer, amplified),
            keep_rows=keep_rows,
            window=self.windows[layer],
        )

    def make_loud(self, layer: int, keep_rows: np.ndarray | None) -> Loud | None:
        stream = (self._early_at(layer) or self.layout).stream[: self.layout.rows[layer]]
        stream = stream if keep_rows is None else stream[keep_rows]
        factors = factors_of(self.layout.active[layer], self.knockouts, stream, self.model.device)
        return None if factors is None else Loud(self.make(layer, keep_rows, amplified=False), factors)

    def at(self, layer: int, keep_rows: np.ndarray | None) -> AttentionProblem:
        early, window = self._early_at(layer) is not None, self.windows[layer]
        key = (self.layout.rows[layer], self.layout.active[layer], keep_rows is None, early, window)
        if self._problem is None or key != self._key:
            self._key, self._problem = key, self.make(layer, keep_rows)
            self._loud = self.make_loud(layer, keep_rows)
        return self._problem

    @property
    def loud(self) -> Loud | None:
        """Of the layer that `at` was last asked for."""
        return self._loud


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
    edits: Edits | None = None,
    own: bool = False,
    begun: list[torch.Tensor] | None = None,
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
        own: also the probability of the prompt's own token: the most probable one at its clean run's first predicting
            row, which is in `predict` too.
        begun: what `opening.open_walk` gave of this walk, which goes on from there. It is taken out of the list, so
            that nothing holds it while the layers run. None or empty: nothing was begun.
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
    token, rows, wanted, *more = sent
    choices = None if options is None else more.pop(0).view(options.shape)
    joins, saves = more[: model.n_layers], more[model.n_layers :]
    every = (torch.cat([c.cos for c in batch], -2), torch.cat([c.sin for c in batch], -2))  # [1, tokens, d]
    tables = (every[0].index_select(-2, token), every[1].index_select(-2, token))  # [1, rows at the end, d]
    shed: tuple[int, torch.Tensor, Tables] | None = None
    if early is not None:
        shed = early.layers, before[1], tables
        tables = (every[0].index_select(-2, before[0]), every[1].index_select(-2, before[0]))
    problems = Problems(model, batch, layout, knockouts)
    tokens = [layout.token] if early is None else [layout.token, early.token]
    features = DeepRows([c.deep for c in batch], [len(c) for c in batch], tokens)
    last = model.n_layers - 1

    def call(layer: int) -> AttentionCall:
        problem = problems.at(layer, predict if layer == last else None)
        keep = rows if layer == last else None
        return LayerCall(problem, semantics, on_keys, layer, keep, edits, problems.loud)

    def deep(layer: int, hidden: torch.Tensor) -> torch.Tensor:
        return features.add(layer, hidden, int(early is not None and layer < early.layers))

    def enter(layer: int, hidden: torch.Tensor) -> None:
        if edits is not None and layer:
            edits.apply("residual", layer - 1, hidden[0])

    def after(layer: int, hidden: torch.Tensor) -> None:
        if on_layer:
            on_layer(hidden.shape[1])
        if find_nonfinite:
            check_finite(hidden, [(c.prompt.id, len(c)) for c in batch], f"after decoder layer {layer}")

    if len(layout.parent) > len(batch):
        warn_of_hooks(model, "a sweep")
    with in_eval_mode(model):  # the output matrix too: an adapter's dropout would make each run differ
        where = joined_places(batch, model.device)

        def places(layer: int) -> torch.Tensor:
            return where.index_select(-1, before[0] if early is not None and layer < early.layers else token)

        parts = with_edited_mlps(model, row_wise(model, rows, fused_layers(model)), edits)
        with attributes([*parts, *with_places(model, places)]):
            begin = 1 if begun else 0
            if begun:
                after(0, begun[0])
            hidden = run_layers(
                model,
                begun or [clean_rows(batch, layout, token if early is None else before[0])],
                tables,
                call,
                begin=begin,
                joins=joins,
                saves=saves,
                reads=layout.reads,
                after=after,
                enter=enter,
                shed=shed,
                deep=deep,
            )
            enter(model.n_layers, hidden)
        prompts = _prompts_of(layout, predict)
        beside = Beside(prompts, divergence, _first_rows(batch, layout, predict) if own else None)
        found = _predict(model, hidden[0].index_select(0, rows), wanted, choices, beside)
        finite = found.pop("finite")
        if not bool(finite.all()):
            c = batch[prompts[int(finite.logical_not().nonzero()[0])]]
            raise NumericError(f"prompt {c.prompt.id!r}: NaN or infinity in the logits")
        for number, captured in enumerate(batch):
            if not find_nonfinite and is_due(model, captured, "walk"):
                clean = layout.stream[predict] == number
                clean &= layout.order[predict] >= captured.columns.n_prompt - 1
                mine = torch.from_numpy(predict[clean]).to(hidden.device)
                ours = model.logits(hidden.index_select(1, mine))[0]  # [answer tokens, vocab]
                prove(model, captured, "walk", ours)
    has = torch.tensor([c.prompt.option_ids is not None for c in batch])[prompts]
    logp, top, option = found.pop("logp"), found.pop("top"), found.pop("option")
    if "own_token" in found:
        found["own_token"] = found["own_token"].long()
    return Prediction(logp.float(), top.long(), option.bool() & has, **found)


@dataclass
class Beside:
    """What is wanted of the predicting rows beside their answers.

    prompts: int [P], the prompt of each row. divergence: from the prompt's clean row. first: per prompt, the row of P
    that predicts the first token of its clean run's answer; None: its own token is not asked for.
    """

    prompts: np.ndarray
    divergence: bool = False
    first: np.ndarray | None = None


def _first_rows(batch: Sequence[Captured], layout: Layout, predict: np.ndarray) -> np.ndarray:
    """Per prompt, which of the predicting rows predicts the first token of its clean run's answer; increasing."""
    at = [
        np.flatnonzero((layout.stream[predict] == n) & (layout.order[predict] == c.columns.n_prompt - 1))
        for n, c in enumerate(batch)
    ]
    return np.concatenate(at)


def clean_rows(batch: Sequence[Captured], layout: Layout, token: torch.Tensor) -> torch.Tensor:
    """The prompts' hidden states end to end, [1, rows, D]; `token` int64: the layout's, on the device."""
    hidden = torch.cat([c.hidden for c in batch], 1) if len(batch) > 1 else batch[0].hidden
    count = layout.rows[0] - len(layout.joins[0])
    return hidden if count == hidden.shape[1] else hidden.index_select(1, token[:count])  # some begin alike


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
    beside: Beside,
) -> dict[str, torch.Tensor]:
    """Final norm and output matrix on the predicting rows [P, D], in pieces; log-softmax in fp32.

    Returns:
        float64 [P] on the CPU each, by one copy at the end: logp, top, option (whether the answer leads its options),
        finite (whether all logits are); numbers of fp32 and token ids are exact in it. With divergence kl and entropy,
        with first rows own and own_token.
    """
    parts: list[dict[str, torch.Tensor]] = []
    chunk = head_chunk(model)
    of_prompt = upload(torch.from_numpy(beside.prompts), hidden.device)
    clean = None
    if beside.divergence:
        chunk = max(1, chunk // 4)  # both distributions in float64 beside the logits
        count = int(beside.prompts.max()) + 1
        clean = torch.cat([model.logits(hidden[None, at : at + 1])[0].float() for at in range(count)])
    own = None if beside.first is None else of_prompt.new_zeros(len(beside.first))  # [prompts] token ids
    for at in range(0, hidden.shape[0], chunk):
        part = slice(at, at + chunk)
        logits = model.logits(hidden[None, part])[0].float()  # [rows, vocab]
        total = logits.logsumexp(-1)  # [rows]
        found = {"top": logits.argmax(-1), "finite": torch.isfinite(logits).all(-1)}
        found["logp"] = logits.gather(1, targets[part, None])[:, 0] - total
        found["option"] = found["finite"] if options is None else leads_options(logits, targets[part], options[part])
        if clean is not None:
            found["kl"], found["entropy"] = divergence_of(clean.index_select(0, of_prompt[part]), logits)
        if own is not None and beside.first is not None:
            for prompt, row in enumerate(beside.first.tolist()):  # clean rows come before those of any stream
                if at <= row < at + chunk:
                    own[prompt] = found["top"][row - at]
            found["own_token"] = own.index_select(0, of_prompt[part])  # [rows]
            found["own"] = logits.gather(1, found["own_token"][:, None])[:, 0] - total
        parts.append({name: column.double() for name, column in found.items()})
    names = list(parts[0])
    together = torch.cat([torch.stack([part[name] for name in names]) for part in parts], 1).cpu()
    return dict(zip(names, together, strict=True))
