"""Labels of a prompt that transformers' processor wrote: what it put in place of the medium is read off its ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InputError, UnsupportedModelError
from ..prompts.labels import Span, label_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEGMENT = 50  # sound tokens of an item, 25 a second: 2 s, as in the families that hear and see


def label_expanded(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[Span], ids: Sequence[int], mark: str
) -> tuple[list[str], list[int]]:
    """Group and item of every token but the medium's; all that the processor wrote for the medium is "template".

    Args:
        text: the chat with one `mark` for the medium, and what its characters are. ids: the processor's.

    Raises:
        InputError: the ids are not those of this chat with something in place of the mark.
    """
    whole = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    again = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=False)
    if again["input_ids"] != list(ids):
        raise _of_another_chat(mark)
    return label_around(whole, again["offset_mapping"], text, spans, mark)


def label_around(
    whole: str, offsets: Sequence[tuple[int, int]], text: str, spans: Sequence[Span], mark: str
) -> tuple[list[str], list[int]]:
    """As `label_expanded`, from what the ids spell: `whole`, and the characters of it that each token stands for.

    Raises:
        InputError: it is not the chat with something in place of the mark.
    """
    before, found, after = text.partition(mark)
    fits = whole.startswith(before) and whole.endswith(after) and len(before) + len(after) < len(whole)
    if not found or not fits:
        raise _of_another_chat(mark)
    more = len(whole) - len(text)
    moved = [
        replace(span, start=span.start + more, stop=span.stop + more) if span.start >= len(before) else span
        for span in spans
    ]
    return label_text(offsets, moved)


def byte_offsets(spelled: Sequence[bytes]) -> list[tuple[int, int]]:
    """Characters start..stop-1 that each token stands for, whole or in part, from the bytes of UTF-8 that it spells."""
    offsets, count = [], 0
    for piece in spelled:
        begun = sum(byte & 0xC0 != 0x80 for byte in piece)  # other bytes go on with a character
        inside = bool(piece) and piece[0] & 0xC0 == 0x80
        offsets.append((count - inside, count + begun))
        count += begun
    return offsets


def _of_another_chat(mark: str) -> InputError:
    return InputError(
        f"the processor's ids do not read as the chat with something in place of {mark!r}: chat template, "
        "tokenizer and processor of the checkpoint do not belong together"
    )


def media_items(
    ids: Sequence[int], token: int, kind: str, frames: int, segment: int = SEGMENT
) -> dict[int, tuple[str, int]]:
    """Group and item of the medium's tokens: {position: (kind, item)}.

    A video's item is its frame: a stretch of tokens each, or, where they are one stretch, equal shares of it, of which
    the last has what is left over. frames: how many there are.

    Raises:
        UnsupportedModelError: the tokens do not tell the frames apart.
    """
    at = [position for position, found in enumerate(ids) if found == token]
    if kind == "image":
        return {position: (kind, 0) for position in at}
    if kind == "audio":
        return {position: (kind, number // segment) for number, position in enumerate(at)}
    stretch, stretches = -1, []
    for number, position in enumerate(at):
        stretch += number == 0 or at[number - 1] != position - 1
        stretches.append(stretch)
    if stretch + 1 == frames:
        return {position: (kind, number) for position, number in zip(at, stretches, strict=True)}
    if stretch != 0 or len(at) < frames:
        raise UnsupportedModelError(
            f"the processor made {stretch + 1} stretches of {len(at)} tokens from a video of {frames} frames: which "
            "frame a token is of cannot be told"
        )
    each = len(at) // frames
    return {position: (kind, min(number // each, frames - 1)) for number, position in enumerate(at)}
