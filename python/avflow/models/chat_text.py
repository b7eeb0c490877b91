"""What a chat is made of, and its text by the checkpoint's template: which characters are whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..prompts.labels import Span
from ..prompts.sample import LETTERS
from ..prompts.tags import split_at
from .wording import Wording, option_group

if TYPE_CHECKING:
    from ..prompts.sample import Interleaved, Sample


@dataclass(frozen=True)
class Text:
    """A stretch of the user's text, and what its tokens are."""

    text: str
    group: str
    item: int = -1


Part = Text | str  # a text, or a medium's kind: "image", "video", "audio"


def item_parts(sample: Sample, item: Interleaved, wording: Wording) -> tuple[list[Part], list[tuple[str, int]]]:
    """What an interleaved item's user turn is made of, and what each of its media is."""
    kind, instruction = item.kind, wording.instruction
    if wording.style.words_options:
        raise InputError(
            f"sample {sample.id!r}: an interleaved item ends in its letters and the instruction: its style has neither "
            "instruction_first nor closing nor a form of question, option or options"
        )
    parts: list[Part] = []
    roles: list[tuple[str, int]] = []
    for number in range(len(item.candidates)):
        parts += [Text(f"{chr(10) * bool(number)}Candidate {LETTERS[number]}: ", "template"), kind]
        roles.append((option_group(sample, number).replace("option", "candidate"), number))
    parts += [Text("\n", "template"), Text(f"{sample.question}\n", "question_text")]
    parts.append("image" if kind == "audio" else "audio")
    roles.append(("reference", 0))
    parts.append(Text("\n", "template"))
    last = len(item.candidates) - 1
    for number, letter in enumerate(LETTERS[: len(item.candidates)]):
        parts.append(Text(letter + "\n" * (number < last or bool(instruction)), option_group(sample, number), number))
    if instruction:
        parts.append(Text(instruction, wording.instruction_group))
    return parts, roles


def tagged_parts(sample: Sample, wording: Wording) -> tuple[list[Part], list[tuple[str, int]]]:
    """The user turn of a question with tags, and what each of its media is. Options follow, as in any question."""
    placed = iter(sample.placed)
    parts: list[Part] = []
    roles: list[tuple[str, int]] = []
    for text, group, item in wording.user_lines(sample):
        for is_tag, piece in split_at(text, sample.tagged or ()):
            if not is_tag:
                parts.append(Text(piece, group, item))
                continue
            medium = next(placed)
            parts.append(medium.kind)
            roles.append((medium.group, medium.item))
    return parts, roles


def render_chat(processor: Any, system: str | None, parts: list[Part]) -> tuple[str, list[Span]]:
    """The chat text by the checkpoint's own template, and the spans of system and user text in it.

    Neighbouring texts are one for the template: while it runs, a mark stands for each stretch of text, so that its
    place is known. system: None for no system turn.
    """
    stretches: list[list[Text]] = [] if system is None else [[Text(system, "system")]]
    content: list[dict[str, str]] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": part})
        elif content and content[-1]["type"] == "text":
            stretches[-1].append(part)
        else:
            content.append({"type": "text", "text": _mark(len(stretches))})
            stretches.append([part])
    chat = [{"role": "user", "content": content}]
    if system is not None:
        chat.insert(0, {"role": "system", "content": [{"type": "text", "text": _mark(0)}]})
    rest = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    out, spans = "", []
    for number, texts in enumerate(stretches):
        if rest.count(_mark(number)) != 1:
            raise InputError(
                "the chat template does not show the system text and every text of the user once each: pass "
                "system=None if it knows no system turn, or take the checkpoint's own chat template"
            )
        before, rest = rest.split(_mark(number))
        out += before
        for text in texts:
            if text.group != "template":
                spans.append(Span(len(out), len(out) + len(text.text), text.group, text.item))
            out += text.text
    return out + rest, spans


def _mark(number: int) -> str:
    return f"\ue000{number}\ue001"
