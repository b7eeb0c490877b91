"""What every token of a prompt is, read off the real input ids.

The chat text is tokenized twice: by us, with its media as single placeholders and with character offsets, and by the
processor, with every placeholder expanded. `expand` lines the two up, id by id, so that each text token gets its label
from its characters and each media token from its place in its run. Nothing is derived from a formula about lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Span:
    """Characters start..stop-1 of the chat text belong to `group`, and to `item` of it."""

    start: int
    stop: int
    group: str
    item: int = -1


@dataclass(frozen=True)
class MediaIds:
    """Token ids of a model's media: the placeholders, and the marks around sound that is interleaved with video.

    None: the model has no such token.
    """

    video: int
    image: int
    audio: int | None = None
    audio_start: int | None = None
    audio_end: int | None = None


def label_text(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> tuple[list[str], list[int]]:
    """Group and item of every token of the chat text; "template" outside all spans.

    A token belongs to the span that holds its first character. Tokenizers may trim a token's white space off its
    offsets, so a token begins where the one before ended, unless it shares that one's character (bytes of an emoji).
    """
    spans = sorted(spans, key=lambda s: s.start)
    groups, items = [], []
    at, before = 0, 0
    for start, stop in offsets:
        begin = min(start, before)
        while at < len(spans) and spans[at].stop <= begin:
            at += 1
        inside = at < len(spans) and spans[at].start <= begin
        groups.append(spans[at].group if inside else "template")
        items.append(spans[at].item if inside else -1)
        before = stop
    return groups, items


def expand(plain: Sequence[int], real: Sequence[int], media: MediaIds) -> list[int]:
    """For every real token, the number of the plain token that it is, or whose placeholder it came from.

    Args:
        plain: ids of the chat text, one per placeholder. real: the processor's ids.

    Raises:
        InputError: they do not line up, which means that the processor's chat text was another one.
    """
    runs: dict[int | None, set[int | None]] = {
        media.video: {media.video, media.audio, media.audio_start, media.audio_end},
        media.audio: {media.audio},
        media.image: {media.image},
    }

    def after(token: int, at: int) -> int | None:
        if token not in runs:
            return None
        while at < len(real) and real[at] in runs[token]:
            at += 1
        return at

    return expand_by(plain, real, after)


def expand_by(plain: Sequence[int], real: Sequence[int], after: Callable[[int, int], int | None]) -> list[int]:
    """As `expand`. after: (a plain token, where it begins in `real`) -> where it is over; None: no placeholder."""
    source: list[int] = []
    at = 0
    for number, token in enumerate(plain):
        begin, over = at, after(token, at)
        if over is not None:
            at = over
        elif at < len(real) and real[at] == token:
            at += 1
        if at == begin:
            found: int | str = real[at] if at < len(real) else "the end"
            raise InputError(f"token {number} of the chat text is {token}, the processor has {found} there (at {at})")
        source += [number] * (at - begin)
    if at != len(real):
        raise InputError(f"the processor has {len(real) - at} tokens more than the chat text: first {real[at]}")
    return source


def patch_tokens(grid: torch.Tensor | None, merge: int) -> list[int] | None:
    """Tokens of a temporal patch, per video: grid int [videos, 3] in patches that are merged `merge` x `merge`."""
    return None if grid is None else [int(h) * int(w) // merge**2 for _, h, w in grid.tolist()]


def label_media(
    ids: Sequence[int],
    media: MediaIds,
    patch_tokens: Sequence[int] | None,
    segment_tokens: int,
    audio_by_step: bool = False,
) -> dict[int, tuple[str, int]]:
    """Group and item of every media token: {position: (group, item)}.

    Video: the item is the temporal patch (two frames). Audio: the segment, `segment_tokens` long (2 s: the chunk by
    which sound and video are interleaved). Image: its number. Items count on from one medium to the next of its kind.

    Args:
        patch_tokens: per video, how many tokens a temporal patch has. None: not known, and video items are -1.
        audio_by_step: sound within a video has the item of the temporal patch after which it stands, so that equal
            items are equal times; sound alone keeps its segments.
    """
    names = {media.video: "video", media.audio: "audio", media.image: "image"}
    labels: dict[int, tuple[str, int]] = {}
    free = dict.fromkeys(names.values(), 0)  # the first item that no medium of this kind has taken
    videos = 0
    for block in _runs(ids, names):
        seen = dict.fromkeys(names.values(), 0)  # tokens so far, in this block
        base = dict(free)
        by_step = audio_by_step and any(ids[position] == media.video for position in block)
        if by_step:
            base["video"] = base["audio"] = max(free["video"], free["audio"])
        for position in block:
            name = names[ids[position]]
            if name == "video" or (name == "audio" and by_step):
                # a step's sound follows its last video token, so the tokens before it fill whole steps
                at = seen["video"] - (name == "audio")
                item = -1 if patch_tokens is None else base[name] + max(at, 0) // patch_tokens[videos]
            else:
                item = base[name] + (seen[name] // segment_tokens if name == "audio" else 0)
            labels[position] = (name, item)
            free[name] = max(free[name], item + 1)
            seen[name] += 1
        videos += seen["video"] > 0
    return labels


def time_media(
    ids: Sequence[int],
    media: MediaIds,
    patch_tokens: Sequence[int] | None,
    step_seconds: Sequence[float] | None,
    sound_seconds: float,
) -> dict[int, float]:
    """Seconds from the begin of its medium, of every video and sound token: {position: seconds}.

    Args:
        patch_tokens: as of `label_media`. step_seconds: per video, of a temporal patch. With one of them None video
            tokens have no time. sound_seconds: of a token.
    """
    times: dict[int, float] = {}
    videos = 0
    for block in _runs(ids, {media.video, media.audio}):
        at_video = at_sound = 0
        for position in block:
            if ids[position] == media.audio:
                times[position] = at_sound * sound_seconds
                at_sound += 1
            else:
                if patch_tokens is not None and step_seconds is not None:
                    times[position] = at_video // patch_tokens[videos] * step_seconds[videos]
                at_video += 1
        videos += at_video > 0
    return times


def count_videos(ids: Sequence[int], media: MediaIds) -> int:
    """How many videos the ids hold."""
    blocks = _runs(ids, {media.video, media.audio, media.image})
    return sum(any(ids[position] == media.video for position in block) for block in blocks)


def _runs(ids: Sequence[int], wanted: Container[int | None]) -> list[range]:
    """Maximal runs of neighbouring positions whose ids are in `wanted`. A mark between two media parts them."""
    runs: list[range] = []
    for position, token in enumerate(ids):
        if token not in wanted:
            continue
        if runs and runs[-1].stop == position:
            runs[-1] = range(runs[-1].start, position + 1)
        else:
            runs.append(range(position, position + 1))
    return runs


def label_turns(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], int | None]:
    """Groups of a chat's tokens from its turns: <|im_start|> role newline content <|im_end|> newline.

    Content of the system turn is "system", of all others "question_text", what follows the last assistant header
    "answer". Ids without any turn are all "question_text".

    Returns:
        the groups, and the position of the assistant header's final token, or None if the last turn is another's.
    """

    def text(part: Sequence[int]) -> str:
        return str(tokenizer.decode(list(part)))

    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    special = set(tokenizer.added_tokens_decoder)
    groups = ["question_text"] * len(ids)
    header = None
    at, role = 0, ""
    while at < len(ids):
        if ids[at] == start:
            stop = at + 1
            while stop < len(ids) and ids[stop] not in special and "\n" not in text(ids[stop - 1 : stop]):
                stop += 1
            role = text(ids[at + 1 : stop]).strip()
            groups[at:stop] = ["template"] * (stop - at)
            header = stop - 1 if role == "assistant" else None
            at = stop
            continue
        # a line's end after a turn's end or after a medium belongs to the layout
        if ids[at] in special or (at and ids[at - 1] in special and not text(ids[at : at + 1]).strip()):
            groups[at] = "template"
        elif header is not None:
            groups[at] = "answer"
        elif role == "system":
            groups[at] = "system"
        at += 1
    for i in range(len(ids) if header is None else header):  # what was answered in earlier turns is context now
        groups[i] = "question_text" if groups[i] == "answer" else groups[i]
    return groups, header
