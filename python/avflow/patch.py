"""`avflow.knockout`: cuts edges in the model's own forward and generate, for as long as a `with` block lasts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from avflow_ext import AttentionProblem, Streams, Tokens

from .attention import attention, register
from .compat import attention_name, attributes, check_layers
from .errors import InputError
from .models.base import Model
from .rules import SEMANTICS, Knockout, as_knockouts
from .windows import layer_list

STATE = "_avflow_tokens"  # attribute of a cache object: the labels of the tokens whose keys it holds


class _Labels:
    """Group, item and id of every token of a batch, padding included: columns of the key cache."""

    def __init__(self, batch: int) -> None:
        self.group = np.zeros((batch, 0), np.int32)
        self.item = np.zeros((batch, 0), np.int32)
        self.ids: torch.Tensor | None = torch.zeros((batch, 0), dtype=torch.long)  # None once a token came without one

    def __len__(self) -> int:
        return self.group.shape[1]

    def crop(self, length: int) -> None:
        self.group, self.item = self.group[:, :length], self.item[:, :length]
        self.ids = None if self.ids is None else self.ids[:, :length]

    def append(self, group: np.ndarray, item: np.ndarray, ids: torch.Tensor | None) -> None:
        self.group, self.item = np.concatenate([self.group, group], 1), np.concatenate([self.item, item], 1)
        self.ids = None if ids is None or self.ids is None else torch.cat([self.ids, ids], 1)


def _padding(mask: Any) -> torch.Tensor | None:
    """The 2-D padding mask as bool [batch, keys], or None where there is no padding.

    Raises:
        InputError: a mask with two sequence dimensions, which the op has no use for.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    if mask.dim() != 2:
        raise InputError(
            f"attention_mask has shape {tuple(mask.shape)}: avflow.knockout takes a 2-D padding mask [batch, tokens]"
        )
    return mask.bool().cpu()


class _Forward:
    """The attention of one forward: the last `new` columns of the labels are the rows, all columns the keys."""

    def __init__(self, owner: _Patch, labels: _Labels, new: int) -> None:
        self.owner, self.labels, self.new = owner, labels, new
        self.problems: dict[bool, AttentionProblem] = {}

    def _problem(self, cut: bool, mask: Any) -> AttentionProblem:
        if cut not in self.problems:
            batch, n = self.labels.group.shape
            stream = np.repeat(np.arange(batch, dtype=np.int32)[:, None], n, 1)  # [batch, n]
            padding = _padding(mask)
            if padding is not None:
                seen = padding[:, :n].numpy()
                stream[:, : seen.shape[1]][~seen] = -1
            order = np.repeat(np.arange(n, dtype=np.int32)[None], batch, 0)  # [batch, n]
            columns = (order, self.labels.group, self.labels.item, stream)
            keys = Tokens(*(torch.from_numpy(c.reshape(-1)) for c in columns))
            rows = Tokens(*(torch.from_numpy(c[:, n - self.new :].reshape(-1)) for c in columns))
            cuts = self.owner.cuts if cut else ()
            self.problems[cut] = AttentionProblem(rows=rows, keys=keys, streams=Streams.roots(batch), cuts=cuts)
        return self.problems[cut]

    def __call__(self, module, q, k, v, mask, scale):
        batch, heads, rows, d = q.shape
        n = len(self.labels)
        if rows != self.new or k.shape[2] < n:
            raise InputError(
                f"the decoder runs {rows} rows on {k.shape[2]} keys, but {self.new} of {n} tokens are labelled: call "
                "model.hf (forward or generate), not a part of it"
            )
        problem = self._problem(module.layer_idx in self.owner.layers, mask)
        # A static cache is longer than what it holds: its tail is left out.
        q = q.transpose(1, 2).reshape(batch * rows, heads, d)
        k, v = (t[:, :, :n].transpose(1, 2).reshape(batch * n, t.shape[1], d) for t in (k, v))
        out = attention(q, k, v, problem, scale=scale, semantics=self.owner.semantics).out  # [batch * rows, heads, d]
        return out.view(batch, rows, heads, d)


class _Patch:
    """Follows the model's calls: labels new tokens before each forward, and hands the decoder its attention call."""

    def __init__(
        self, model: Model, knockouts: list[Knockout], layers: set[int], semantics: str, groups, items
    ) -> None:
        self.model, self.knockouts, self.layers, self.semantics = model, knockouts, layers, semantics
        self.cuts = tuple(cut for one in knockouts for cut in one.cuts(model.groups))
        self.given = None if groups is None else self._given(groups, items)
        self.prompt: tuple[torch.Tensor | None, Any, int, Any] | None = None  # in generate: ids, mask, tokens, grids
        self.forward: _Forward | None = None  # labelled, and not yet taken up by the decoder
        self.running: _Forward | None = None

    def _given(self, groups: Sequence[Any], items: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """The user's labels: group ids and items, [1 or batch, N]."""
        rows = [list(groups)] if len(groups) and isinstance(groups[0], str) else [list(g) for g in groups]
        if not rows or len({len(r) for r in rows}) != 1 or not rows[0]:
            raise InputError("groups: pass one name per token, or one such list, padding included, per batch row")
        group = np.stack([self.model.groups.ids(r) for r in rows])
        item = np.full(group.shape, -1, np.int32) if items is None else np.atleast_2d(np.array(items, np.int32))
        if item.shape != group.shape:
            raise InputError(f"items has shape {item.shape}, groups {group.shape}: pass one item per token")
        return group, item

    # --- labels -----------------------------------------------------------------------------------------------------

    def _from_ids(self, ids: torch.Tensor, mask: Any, grids: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        """Labels of whole sequences by the family, from ids [batch, N]; padding gets group 0, nobody sees it.

        grids: int [videos, 3] of all rows in turn. Where their number is another one (an earlier turn had videos too),
        the family does without, and tells no frame from the next.
        """
        padding = _padding(mask)
        ids = ids.cpu()
        group, item = np.zeros(ids.shape, np.int32), np.full(ids.shape, -1, np.int32)
        real = torch.ones_like(ids, dtype=torch.bool)
        if padding is not None:
            real[:, : padding.shape[1]] = padding[:, : ids.shape[1]]
        family = self.model.family
        videos = [family.count_videos(self.model, row[mine]) for row, mine in zip(ids, real, strict=True)]
        if grids is not None and sum(videos) != len(grids):
            grids = None
        known: dict[Any, tuple[np.ndarray, np.ndarray]] = {}  # beams repeat rows
        for b, row in enumerate(ids):
            own = None if grids is None else grids[sum(videos[:b]) : sum(videos[: b + 1])].cpu()
            key = (*row[real[b]].tolist(), None if own is None else tuple(own.reshape(-1).tolist()))
            if key not in known:
                names, numbers = family.label(self.model, row[real[b]], own)
                known[key] = self.model.groups.ids(names), np.array(numbers, np.int32)
            group[b, real[b].numpy()], item[b, real[b].numpy()] = known[key]
        return group, item

    def _whole(
        self, labels: _Labels, ids: torch.Tensor | None, mask: Any, grids: torch.Tensor | None, new: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels of the prompt from its first column on, [1 or batch, N]; columns past N are the answer's."""
        if self.given is not None:
            return self.given
        none = np.zeros((1, 0), np.int32)
        if self.prompt is not None:
            whole, mask, count, grids = self.prompt
            if len(labels) and count == len(labels) + 1:
                return none, none  # a prompt that goes on by one generated token
        elif len(labels) and new == 1:
            return none, none
        elif ids is None or labels.ids is None:
            whole = None
        else:
            whole = torch.cat([labels.ids, ids.cpu()], 1)
        if whole is None:
            raise InputError(
                "avflow.knockout cannot tell what the tokens are from inputs_embeds: pass input_ids, or groups=[...] "
                "with one name per token"
            )
        return self._from_ids(whole, mask, grids)

    def _check_items(self, group: np.ndarray, item: np.ndarray) -> None:
        """A cut between items that nobody numbered would cut nothing, without a word."""
        for knockout in self.knockouts:
            word = 0
            for side in sum(knockout.edges, ()):
                word |= self.model.groups.expand(side)
            members = np.array([bool(word >> bit & 1) for bit in range(64)])[group]
            if knockout.scope == "other_items" and members.any() and (item[members] < 0).all():
                raise InputError(
                    f"knockout {knockout.name!r} cuts between items, but the tokens of {knockout.source!r} have none: "
                    "pass video_grid_thw to the model, or groups= and items= of model.prepare(sample)"
                )

    def _label(
        self, labels: _Labels, ids: torch.Tensor | None, mask: Any, grids: torch.Tensor | None, batch: int, new: int
    ) -> None:
        past = len(labels)
        group, item = self._whole(labels, ids, mask, grids, new)
        self._check_items(group, item)
        if batch % len(group):
            raise InputError(f"labels are given for {len(group)} sequences, the batch has {batch}")
        group, item = (np.repeat(a, batch // len(a), 0)[:, past : past + new] for a in (group, item))
        extra = new - group.shape[1]
        if extra and self.prompt is None and not (new == 1 and past):
            have = 0 if self.given is None else self.given[0].shape[1]
            span = f"{past} .. {past + new - 1}"
            raise InputError(f"groups names {have} tokens, but tokens {span} are read: name them all")
        answer = np.full((batch, extra), self.model.groups["answer"], np.int32)
        group = np.concatenate([group, answer], 1)
        item = np.concatenate([item, np.full((batch, extra), -1, np.int32)], 1)
        labels.append(group, item, None if ids is None else ids.cpu())

    # --- hooks ------------------------------------------------------------------------------------------------------

    def before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        if ids is None and args:
            ids = args[0]
        if ids is None and embeds is None:
            return  # the model will say so itself
        batch, new = (ids if ids is not None else embeds).shape[:2]
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        labels = None if cache is None else cache.__dict__.get(STATE)
        if labels is None:
            labels = _Labels(batch)
        if len(labels) < past:
            raise InputError(
                f"the cache holds {past} tokens, of which {len(labels)} are labelled: run the prompt within "
                "avflow.knockout too (layers outside of the window are untouched by it)"
            )
        labels.crop(past)  # assisted decoding takes back tokens
        if len(labels.group) != batch:
            raise InputError(f"the cache's labels are for {len(labels.group)} sequences, the batch has {batch}")
        self._label(labels, ids, kwargs.get("attention_mask"), kwargs.get("video_grid_thw"), batch, new)
        if cache is not None:
            cache.__dict__[STATE] = labels
        self.forward = _Forward(self, labels, new)

    def before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]):
        if self.forward is None:
            raise InputError("within avflow.knockout call model.hf (forward or generate), not its decoder alone")
        self.running, self.forward = self.forward, None
        return args, {**kwargs, "avflow_call": self.running}

    def after_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None and self.running is not None:
            cache.__dict__[STATE] = self.running.labels
        self.running = None

    def generate(self, run: Any):
        """hf.generate, noting what the prompt is: later tokens are the answer."""

        def wrapped(inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
            ids = kwargs.get("input_ids") if inputs is None else inputs
            embeds = kwargs.get("inputs_embeds")
            if ids is not None and embeds is not None:
                embeds = None
            given = ids if ids is not None else embeds
            count, grids = 0 if given is None else given.shape[1], kwargs.get("video_grid_thw")
            self.prompt = (ids, kwargs.get("attention_mask"), count, grids)
            try:
                return run(inputs, *args, **kwargs) if inputs is not None else run(*args, **kwargs)
            finally:
                self.prompt = None

        return wrapped


@contextmanager
def knockout(
    model: Model,
    knockouts: Any,
    layers: Iterable[int] | int | None = None,
    semantics: str = "renormalize",
    groups: Sequence[Any] | None = None,
    items: Sequence[Any] | None = None,
) -> Iterator[None]:
    """Within the block, `model.hf(...)` and `model.hf.generate(...)` run with the edges cut, without gradients.

    Args:
        knockouts: a text form, a Knockout, or several: all are cut together.
        layers: where; None for all.
        semantics: "renormalize" or "zero".
        groups: N group names for the prompt, or one list per batch row (padding included). Default: the model family
            labels the prompt from its ids. Generated tokens have the group "answer".
        items: N ints, or one list per batch row, to go with `groups`; -1 is none.

    Batches with padding, beams, a second turn on the same cache, and static caches work. A cache remembers the labels
    of its tokens, so a later block can go on with it. Everything in the model is put back at the end of the block.

    Raises:
        InputError: layers, heads or groups that the model does not have; tokens that cannot be labelled.
        UnsupportedModelError: a decoder that is not plain causal attention.
    """
    check_layers(model.text_model)
    chosen = as_knockouts(knockouts)
    for one in chosen:
        one.check_heads(model.n_heads)
    if semantics not in SEMANTICS:
        raise InputError(f"semantics = {semantics!r}: pass one of {', '.join(SEMANTICS)}")
    patch = _Patch(model, chosen, set(layer_list(layers, model.n_layers)), semantics, groups, items)
    handles = []
    try:
        handles.append(model.hf.register_forward_pre_hook(patch.before_model, with_kwargs=True))
        handles.append(model.text_model.register_forward_pre_hook(patch.before_decoder, with_kwargs=True))
        handles.append(model.text_model.register_forward_hook(patch.after_decoder))
        replaced = [(model.hf, "generate", patch.generate(model.hf.generate))] if hasattr(model.hf, "generate") else []
        with attention_name(model.text_model, register()), attributes(replaced), torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
