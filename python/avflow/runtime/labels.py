"""Group and item of every token of a batch: from its ids, by the model family, or as the user gave them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..checks import shown
from ..errors import InputError
from ..eviction.schedule import Step
from ..models.base import Model
from ..models.batch import Batch
from ..prompts.prompt import Prompt

if TYPE_CHECKING:
    from ..knockouts.knockout import Knockout

Labels = Sequence[Any] | Prompt | Batch | None  # what blocks take as groups=; a str only "ids"


def labels_from_ids(
    model: Model, ids: torch.Tensor, mask: Any, grids: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of whole sequences by the family, from ids [batch, N]; padding gets group 0, no row sees it.

    grids: int [videos, 3] of all rows in turn. Where their number is another one (an earlier turn had videos too),
    the family does without, and tells no frame from the next.
    """
    ids = ids.cpu()
    group, item = np.zeros(ids.shape, np.int32), np.full(ids.shape, -1, np.int32)
    real = torch.ones_like(ids, dtype=torch.bool)
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        real[:, : mask.shape[1]] = mask[:, : ids.shape[1]].bool().cpu()
    family = model.family
    videos = [family.count_videos(model, row[mine]) for row, mine in zip(ids, real, strict=True)]
    if grids is not None and sum(videos) != len(grids):
        grids = None
    known: dict[Any, tuple[np.ndarray, np.ndarray]] = {}  # beams repeat rows
    for b, row in enumerate(ids):
        own = None if grids is None else grids[sum(videos[:b]) : sum(videos[: b + 1])].cpu()
        key = (*row[real[b]].tolist(), None if own is None else tuple(own.reshape(-1).tolist()))
        if key not in known:
            names, numbers = family.label(model, row[real[b]], own)
            known[key] = model.groups.ids(names), np.array(numbers, np.int32)
        group[b, real[b].numpy()], item[b, real[b].numpy()] = known[key]
    return group, item


def given_labels(model: Model, groups: Labels, items: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The user's labels: group ids and items, [1 or batch, N]; None where they are to be read off the ids."""
    if groups is None or (isinstance(groups, str) and groups == "ids"):
        if items is not None:
            raise InputError("items= without groups=: pass both, or the prompt or batch that has them as groups=")
        return None
    if isinstance(groups, (Prompt, Batch)):
        if items is not None:
            raise InputError(f"items= beside a {type(groups).__name__} as groups=, which has its own: leave items out")
        return given_labels(model, groups.groups, groups.items)
    if not isinstance(groups, (list, tuple)) or not all(isinstance(g, (str, list, tuple)) for g in groups):
        raise InputError(
            f"groups = {shown(groups)}: pass one name per token, one such list per batch row, a Prompt or a Batch, or "
            '"ids"'
        )
    rows = [list(groups)] if len(groups) and isinstance(groups[0], str) else [list(g) for g in groups]
    if not rows or len({len(r) for r in rows}) != 1 or not rows[0]:
        raise InputError("groups: pass one name per token, or one such list, padding included, per batch row")
    if strangers := [name for row in rows for name in row if not isinstance(name, str)]:
        raise InputError(f"groups holds {shown(strangers[0])}: pass names, one per token")
    group = np.stack([model.groups.ids(r) for r in rows])
    item = np.full(group.shape, -1, np.int32) if items is None else _item_rows(items)
    if item.shape != group.shape:
        raise InputError(f"items has shape {item.shape}, groups {group.shape}: pass one item per token")
    return group, item


def given_times(groups: Labels) -> np.ndarray | None:
    """float64 [1 or batch, N], seconds, NaN where a token has none: where a Prompt or a Batch tells them."""
    if not isinstance(groups, (Prompt, Batch)) or groups.times is None:
        return None
    return np.atleast_2d(np.array(groups.times, np.float64))  # None becomes NaN


def given_ids(groups: Labels) -> torch.Tensor | None:
    """int64 [1 or batch, N], on the CPU: the tokens that the labels are of, where a Prompt or a Batch tells them."""
    if isinstance(groups, Batch):
        return groups.model_inputs["input_ids"].cpu()
    if isinstance(groups, Prompt) and groups.input_ids is not None:
        return groups.input_ids[None].cpu()
    return None


def check_ids(labelled: torch.Tensor, ids: torch.Tensor, past: int) -> None:
    """Raises InputError for ids [batch, new], read after `past` tokens, that are others than the labels are of."""
    if len(ids) % len(labelled):
        return  # told with the labels
    of = labelled.repeat_interleave(len(ids) // len(labelled), 0)[:, past : past + ids.shape[1]]
    wrong = (ids[:, : of.shape[1]].cpu() != of).nonzero()
    if len(wrong):
        row, at = wrong[0].tolist()
        raise InputError(
            f"groups= is a prompt or batch of other tokens than the model is given (sequence {row}, token {past + at}):"
            " pass the one that is run, or its .groups and .items where other ids are meant"
        )


def _item_rows(items: Sequence[Any]) -> np.ndarray:
    try:
        found = np.array(items)
        if found.dtype.kind not in "iu":
            raise TypeError
        return np.atleast_2d(found.astype(np.int32))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"items = {shown(items)}: pass an integer per token, -1 for none") from None


def check_items(model: Model, knockouts: Iterable[Knockout], group: np.ndarray, item: np.ndarray) -> None:
    """A cut between items would cut nothing, silently, where items have no numbers."""
    for knockout in knockouts:
        word = 0
        for side in sum(knockout.edges, ()):
            word |= model.groups.expand(side)
        members = model.groups.table(word)[group]
        if knockout.scope == "other_items" and members.any() and (item[members] < 0).all():
            raise InputError(
                f"knockout {knockout.name!r} cuts between items, but the tokens of {knockout.source!r} have none: "
                "pass video_grid_thw to the model, or groups= and items= of model.prepare(sample)"
            )


def check_present(model: Model, steps: Iterable[Step], group: np.ndarray) -> None:
    """A schedule for groups that the prompt lacks is most likely a mistake."""
    for step in steps:
        if not model.groups.table(model.groups.expand(step.group))[group].any():
            raise InputError(
                f"the schedule drops {step.group!r} {step.when}, but the prompt has no such token: "
                'leave the step out, look at the labels (groups=), or pass missing="ignore" to avflow.evict'
            )
