"""One forward of the decoder: its rows, where they leave, and its layers' attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from avflow_ext import AttentionProblem

from ..errors import InputError
from ..eviction.policies import Changed, ScoredBy, ScoredIn, TopK, scored_in, waits
from ..eviction.schedule import BEFORE, Step, when
from ..eviction.views import Labels, views
from ..models.attention import attention
from ..models.causal import refuse_if_given
from ..models.decoder_inputs import refuse_other_layer_arguments
from ..models.deepstack import Add, of_rows
from ..models.windows import layer_windows
from ..uploads import upload
from .boundary import gather_hidden, take
from .cache import check_cache, count_missing, drop, is_static, take_back
from .conversation import Conversation, remember
from .next_layer import queries_and_keys
from .resting import Resting, followed_by, merged
from .scores import Scored
from .state import Interventions

if TYPE_CHECKING:
    from ..models.compat import AttentionModule, DecoderLayer


def padding(mask: Any, what: str) -> torch.Tensor | None:
    """The 2-D padding mask as bool [batch, keys] on the CPU, or None where there is no padding.

    Raises:
        InputError: a mask with two sequence dimensions, which the op has no use for.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values()), None))  # of padding, all kinds say the same
    refuse_if_given(mask)
    if mask is None:
        return None
    if mask.dim() != 2:
        raise InputError(
            f"attention_mask has shape {tuple(mask.shape)}: {what} takes a 2-D padding mask [batch, tokens]"
        )
    return mask.bool().cpu()


class Prefill:
    """A forward that reads tokens of a prompt.

    Its rows are the last `new` columns of `state`, which the cache takes over only once all layers have run.
    """

    def __init__(
        self,
        interventions: Interventions,
        cache: Any,
        state: Conversation,
        new: int,
        ends_prompt: bool,
        prompt_end: int | None = None,
        gather_all: bool = False,
        times: np.ndarray | None = None,
    ) -> None:
        """ends_prompt: the prompt ends among the new tokens. prompt_end: how many columns it has; None: all of them.

        gather_all: rows are gathered where all of them go on, too, as they are where some leave. times: float64
        [1 or batch, N], seconds of the conversation's first N columns, NaN where there is none.
        """
        self.interventions, self.cache, self.state, self.new, self.ends_prompt = (
            interventions,
            cache,
            state,
            new,
            ends_prompt,
        )
        # Without a cache, or with proposed tokens to check, answer tokens are read with the prompt: they score nothing.
        self.prompt_end = len(state) if prompt_end is None else prompt_end
        self.gather_all, self.times = gather_all, times
        self.asked: Counter[int] = Counter()  # by layer, the calls of its attention
        self.segment = 0  # of the layer that ran last
        # Per segment: logical columns of the rows int [batch, m], -1 is padding; the rows of the segment before that
        # they are, those that come back counted after them, int64 [batch, m] (None: all of them); what the decoder
        # passes to every layer, gathered.
        self.rows: list[np.ndarray] = []
        self.index: list[torch.Tensor | None] = []
        self.gathered: dict[tuple[int, str, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self.resting: list[Resting] = []
        self.problems: dict[Any, AttentionProblem] = {}
        self.windows = layer_windows(interventions.model.text_model)
        self.scored: dict[ScoredIn, Scored] = {}  # of the layer after which rows leave, of the one they would enter
        self.entering: Callable[[], Scored]  # makes the latter; set on the way into a layer
        self.hidden: torch.Tensor | None = None  # [batch, m, D] of the rows that may leave; likewise
        self.blank: list[int] = []  # segments that run on a row of padding only

    def begin(self, mask: Any) -> None:
        """Before the first layer. Whatever can be refused is refused here, while the cache is as it was."""
        state, past = self.state, len(self.state) - self.new
        if self.cache is not None:
            if BEFORE in state.ends:
                check_cache(self.cache, "a step before layer 0 cannot count tokens that no layer holds")
            elif self.interventions.decode == "drop":
                check_cache(self.cache, "decode='drop' frees nothing")
        seen = padding(mask, self.interventions.block)
        if seen is not None:
            new = seen[:, past : len(state)].numpy()
            state.real[:, past : past + new.shape[1]] &= new
        rows = np.repeat(np.arange(past, len(state), dtype=np.int32)[None], state.batch, 0)
        self._enter(0, rows, None)
        self._check_scores()
        for segment in range(len(state.ends)):
            if any(s.after == state.ends[segment] and waits(s.keep) for s in state.steps):
                break  # until the layer has run
            self._leave(segment)

    def _enter(self, segment: int, rows: np.ndarray, index: torch.Tensor | None) -> None:
        self.rows.append(rows)
        self.index.append(index)
        self.state.enter(segment, rows)

    # --- leaving ------------------------------------------------------------------------------------------------------

    def _candidates(self, step: Step, b: int, rows: np.ndarray) -> np.ndarray:
        """Positions among the rows of sequence b that belong to the step's group."""
        table = self.interventions.model.groups.table(self.interventions.model.groups.expand(step.group))
        columns = np.maximum(rows[b], 0)
        return np.flatnonzero((rows[b] >= 0) & self.state.real[b, columns] & table[self.state.group[b, columns]])

    def _check_scores(self) -> None:
        table = self.interventions.model.groups.table(self.interventions.model.groups.expand("question"))
        for step in self.state.steps:
            if not isinstance(step.keep, (TopK, Changed)):
                continue
            leaving = [b for b in range(self.state.batch) if len(self._candidates(step, b, self.rows[0]))]
            if leaving and not self.ends_prompt:
                what = "the attention of the prompt's end" if isinstance(step.keep, TopK) else "every frame"
                raise InputError(f"{step.keep} needs {what}: read the prompt in one forward")
            if isinstance(step.keep, Changed):
                continue
            new = slice(len(self.state) - self.new, None)
            asking = (table[self.state.group] & self.state.real)[:, new]
            if step.keep.by == "question" and any(not asking[b].any() for b in leaving):
                raise InputError(f"{step.keep}: the prompt has no token of 'question': use by='last'")

    def _back(self, segment: int) -> list[Resting]:
        """What comes back as a segment begins."""
        return [rest for rest in self.resting if rest.ends == segment]

    def _leave(self, segment: int) -> None:
        """Decides which rows go on into segment + 1, after those that come back have."""
        state, rows, end = self.state, self.rows[segment], self.state.ends[segment]
        back, source = self._back(segment + 1), None
        if back:
            rows, source = merged(rows, back)
        columns = np.maximum(rows, 0)
        sequence = np.arange(state.batch)[:, None]
        real = (rows >= 0) & state.real[sequence, columns]  # [batch, m]
        stay, gone = real.copy(), np.zeros_like(real)
        for step in state.steps:
            if step.after == end:
                taken = self._taken(step, np.where(stay, rows, -1), source)
                stay &= ~taken
                if step.until is None:
                    gone |= taken
                elif taken.any():
                    places = np.broadcast_to(np.arange(rows.shape[1]), rows.shape) if source is None else source
                    ends = state.ends.index(step.until) + 1
                    parts = [[values[b, taken[b]] for b in range(state.batch)] for values in (rows, places)]
                    self.resting.append(Resting(segment + 1, ends, *parts))
        self._check_end(real, stay, rows, end)
        state.gone = state.gone.copy()
        for b in range(state.batch):
            state.gone[b, rows[b, gone[b]]] = end
        if not back and np.array_equal(stay, real) and not self.gather_all:  # nothing leaves, padding goes on too
            if segment in self.blank:
                self.blank.append(segment + 1)
            return self._enter(segment + 1, rows, None)
        most = int(stay.sum(1).max())
        if not most:  # of a chunk; transformers' layers need a row: one of padding runs along, and is taken back
            self.blank.append(segment + 1)
            most = 1
        index = np.full((state.batch, most), -1, np.int64)
        for b in range(state.batch):  # the last row stays the last: sequences with fewer rows are padded on the left
            at = np.flatnonzero(stay[b])
            index[b, most - len(at) :] = at
        kept = np.where(index >= 0, rows[sequence, np.maximum(index, 0)], -1)
        if source is not None:
            index = np.where(index >= 0, source[sequence, np.maximum(index, 0)], -1)
        self._enter(segment + 1, kept, torch.from_numpy(index))

    def _taken(self, step: Step, rows: np.ndarray, source: np.ndarray | None) -> np.ndarray:
        """Which of the rows int [batch, m] a step takes: bool [batch, m]. source: of `merged`, where some are back."""
        taken = np.zeros(rows.shape, bool)
        for b in range(self.state.batch):
            at = self._candidates(step, b, rows)
            if not len(at):
                continue
            whole = self.rows[0][b, self._candidates(step, b, self.rows[0])]
            before = at if source is None else source[b, at]
            scores, embeddings = self._scores(step, b, at, before), partial(self._embeddings, step, b, before)
            for part, view in views(step, self._labels(b), rows[b, at], whole, scores, embeddings):
                kept = np.asarray(step.keep.select(view))
                if kept.dtype != bool or kept.shape != part.shape:
                    raise InputError(f"{step.keep} returned {kept.dtype} {kept.shape}: return bool [{len(part)}]")
                taken[b, at[part[~kept]]] = True
        return taken

    def _labels(self, b: int) -> Labels:
        """Of sequence b."""
        state, time = self.state, None
        if self.times is not None:
            mine = self.times[b * len(self.times) // state.batch]  # beams repeat rows
            time = np.full(state.group.shape[1], np.nan)
            time[: len(mine)] = mine[: len(time)]
        model = self.interventions.model
        return Labels(model.groups, state.group[b], state.item[b], time, model.family.frames_apart)

    def _scores(self, step: Step, b: int, at: np.ndarray, before: np.ndarray) -> Callable[[ScoredBy], np.ndarray]:
        """For the step's policy: the attention that some rows of sequence b receive in the layer it names.

        at: the rows' places where some are back; before: their places in the layer that has run, which had those not.
        """
        where = scored_in(step.keep)

        def scores(by: ScoredBy) -> np.ndarray:
            if where is None:
                raise InputError(
                    f"{step.keep} asks for scores, which its uses_scores = False rules out: take that line out"
                )
            if where == "next" and where not in self.scored:
                self.scored[where] = self.entering()
            if where not in self.scored:
                raise InputError(
                    f"{step.keep} asks for scores before layer 0, and no layer has run by then: with "
                    "scored_in = 'next' they are those of layer 0"
                )
            return self.scored[where](b, at if where == "next" else before, by)

        return scores

    def _embeddings(self, step: Step, b: int, at: np.ndarray) -> torch.Tensor:
        """For the step's policy: float32 [len(at), D], rows of sequence b as the next layer is given them.

        at: places among the rows of the layer that has run, followed by those that come back.
        """
        if self.hidden is None:
            raise InputError(f"{step.keep} asks for embeddings: say uses_embeddings = True in its class")
        back = self._back(len(self.rows))
        hidden = followed_by(self.hidden, back) if back else self.hidden
        return hidden[b, upload(torch.from_numpy(at), hidden.device)].float()

    def _check_end(self, real: np.ndarray, stay: np.ndarray, rows: np.ndarray, end: int) -> None:
        """What predicts the next token must not leave."""
        if not self.ends_prompt:
            return
        for b in range(len(real)):
            last = np.flatnonzero(real[b])[-1:]
            if len(last) and not stay[b, last[0]]:
                name = self.interventions.model.groups.names[self.state.group[b, rows[b, last[0]]]]
                why = "nothing remains" if not stay[b].any() else "no answer could be predicted"
                raise InputError(
                    f"the prompt's last token is of group {name!r}, which leaves {when(end)}: {why}. End the "
                    "prompt with a token that stays, such as the group 'last'"
                )

    def enter_layer(
        self, module: DecoderLayer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The layer's arguments, for the rows that are left."""
        layer = module.self_attn.layer_idx
        segment = self.state.segment(layer)
        if segment == 0:
            return None
        first = layer == self.state.ends[segment - 1] + 1
        if first:
            refuse_other_layer_arguments(module, args, kwargs)  # they would stand at rows that are gone
        if first and len(self.rows) == segment:
            self.entering = partial(self._would_enter, module, args, dict(kwargs))
            self.hidden = _hidden(args, kwargs)
            self._leave(segment - 1)
            self.scored.clear()
            self.hidden = None
            del self.entering  # it holds hidden states
        kwargs = dict(kwargs)
        if first:
            args, kwargs = self._carried(segment, layer, args, kwargs)
        kwargs["attention_mask"] = None  # the problem says who sees whom
        self._gather_positions(segment, self.rows[segment], kwargs)
        return args, kwargs

    def _carried(
        self, segment: int, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a segment's first layer, with the hidden states of the rows that go on."""
        index = self.index[segment]
        if index is None:
            return args, kwargs
        hidden = _hidden(args, kwargs)
        for rest in self.resting:
            if rest.begins == segment:
                rest.save(hidden)
        back = self._back(segment)
        if back:
            hidden = followed_by(hidden, back)
            self.resting = [rest for rest in self.resting if rest not in back]  # they hold hidden states
        hidden = gather_hidden(self.interventions.norms.get(layer), hidden, index)  # [batch, m, D]
        return _with_hidden(hidden, args, kwargs)

    def _would_enter(self, module: DecoderLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scored:
        """The attention of a layer if all rows that are there before it, or come back, entered it."""
        layer, state = module.self_attn.layer_idx, self.state
        segment = state.segment(layer)
        rows, back, place = self.rows[segment - 1], self._back(segment), segment - 1
        if back:
            rows, source = merged(rows, back)
            hidden = gather_hidden(None, followed_by(_hidden(args, kwargs), back), torch.from_numpy(source))
            args, kwargs = _with_hidden(hidden, args, kwargs)
            place = -segment  # no segment has these rows
        self._gather_positions(place, rows, kwargs)
        q, k, scale = queries_and_keys(module, args, kwargs)
        batch, m, heads, d = q.shape
        held = state.columns[segment]
        if held.shape[1]:  # keys of earlier tokens
            before = self.cache.layers[layer].keys[:, :, : held.shape[1]].transpose(1, 2)
            k = torch.cat([before.to(k.device), k], 1)
        cuts, semantics = self.interventions.cuts(layer)
        problem = state.problem_of(np.concatenate([held, rows.astype(np.int32)], 1), m, cuts, self.windows[layer])
        question = self.interventions.model.groups.expand("question")
        return Scored(q.reshape(batch * m, heads, d), k, None, problem, scale, question, self.prompt_end, semantics)

    def _gather_positions(self, place: int, rows: np.ndarray, kwargs: dict[str, Any]) -> None:
        """Positions among a layer's arguments, for the rows int [batch, m]. place: a number of theirs."""
        for name, dim in (("position_embeddings", -2), ("position_ids", -1)):
            value = kwargs.get(name)
            if isinstance(value, tuple):
                parts = enumerate(value)
                kwargs[name] = tuple(self._gather(place, rows, f"{name}{i}", part, dim) for i, part in parts)
            elif value is not None:
                kwargs[name] = self._gather(place, rows, name, value, dim)

    def _gather(self, place: int, rows: np.ndarray, name: str, value: torch.Tensor, dim: int) -> torch.Tensor:
        """What belongs to the first segment's rows [..., n (, d)], for these rows."""
        if rows is self.rows[0]:
            return value
        key = (place, name, id(value))  # kinds of layers may have positions of their own
        if key not in self.gathered:
            index = np.maximum(rows - (len(self.state) - self.new), 0).astype(np.int64)
            self.gathered[key] = (value, take(value, torch.from_numpy(index), value.dim() + dim))  # it keeps its id
        return self.gathered[key][1]

    # --- attention ----------------------------------------------------------------------------------------------------

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        batch, heads, rows, d = q.shape
        layer, state = module.layer_idx, self.state
        self.asked[layer] += 1
        self.segment = segment = state.segment(layer)
        n = state.physical(layer)
        other_keys = k.shape[2] < n or (k.shape[2] > n and not is_static(self.cache))
        if segment >= len(self.rows) or rows != self.rows[segment].shape[1] or other_keys:
            raise InputError(
                f"layer {layer} runs {rows} rows on {k.shape[2]} keys, but {self.new} of {len(state)} tokens are "
                f"labelled, and {n} keys are this layer's: call model.hf (forward or generate), not a part of it; a "
                "decoder whose layers share keys cannot lose tokens between them"
            )
        cuts, semantics = self.interventions.cuts(layer)
        window = self.windows[layer]
        if (segment, cuts, window) not in self.problems:
            self.problems[segment, cuts, window] = state.problem(segment, rows, cuts, window)
        problem = self.problems[segment, cuts, window]
        # A static cache is longer than what it holds: its tail is left out.
        q = q.transpose(1, 2).reshape(batch * rows, heads, d)
        k, v = (t[:, :, :n].transpose(1, 2) for t in (k, v))  # [batch, n, kv_heads, d], not copied
        wanted = any(s.after == layer and scored_in(s.keep) == "this" for s in state.steps)
        result = attention(q, k, v, problem, scale=scale, semantics=semantics, return_lse=wanted)
        if result.lse is not None:
            question = self.interventions.model.groups.expand("question")
            self.scored["this"] = Scored(q, k, result.lse, problem, scale, question, self.prompt_end)
        return result.out.view(batch, rows, heads, d)

    def add_deep(self, run: Add, hidden: torch.Tensor, places: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What the decoder adds behind the layer that ran last, for the rows that went through it.

        run: the decoder's own method. places: bool [batch, new]. features: [p, D].
        """
        rows = self.rows[self.segment]
        if rows is not self.rows[0]:
            at = np.where(rows >= 0, rows - (len(self.state) - self.new), -1).astype(np.int64)
            places, (features,) = of_rows(places, [features], slice(None), torch.from_numpy(at))
        return run(hidden, places, features)

    def finish(self, cache: Any, rope_deltas: list[Any]) -> None:
        """After the last layer: the cache holds the new tokens."""
        self.state.rope_deltas = rope_deltas
        for segment in self.blank:
            self.state.columns[segment] = self.state.columns[segment][:, :-1]
        for number, layer in enumerate(cache.layers):
            if self.state.segment(number) in self.blank:
                take_back(layer)
        if self.interventions.decode == "drop" and self.ends_prompt:
            drop(cache, self.state)
        elif BEFORE in self.state.ends:
            count_missing(cache, self.state)
        remember(cache, self.state)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Among a layer's arguments: [batch, m, D]."""
    return args[0] if args else kwargs["hidden_states"]


def _with_hidden(
    hidden: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
