"""The text around media and question: system, instruction, how options are written, what the answer begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .. import checks
from ..errors import InputError
from ..prompts.sample import LETTERS, Sample

INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class PromptStyle:
    """How a study or a data set's own evaluation words its prompts.

    Args:
        option: of every option, with "{letter}" and "{text}": "{letter}. {text}", "({letter}) {text}".
        instruction_first: the instruction stands before the question, on its own line, instead of after the options.
        separate_instruction: the instruction's tokens are the group `instruction`; else they are `question_text`, are
            cut with the question, and leave with it. The studies leave it out of the question.
        answer_prefix: what the assistant's turn begins with, such as "Best option:(": its tokens are `template`, its
            last one is `last`, and the answer's first token follows it.
        instruction: the instruction's text, where the caller gives none; None: the model's own.
        closing: a last line after the options, such as "The best answer is:", with the instruction's group; "" for an
            empty one; None for none.

    Raises:
        InputError: an option form without a letter or a text, a value of another type.
    """

    option: str = "{letter}. {text}"
    instruction_first: bool = False
    separate_instruction: bool = False
    answer_prefix: str = ""
    instruction: str | None = None
    closing: str | None = None

    def __post_init__(self) -> None:
        checks.text("PromptStyle.option", self.option)
        checks.text("PromptStyle.answer_prefix", self.answer_prefix)
        checks.flag("PromptStyle.instruction_first", self.instruction_first)
        checks.flag("PromptStyle.separate_instruction", self.separate_instruction)
        for name in ("instruction", "closing"):
            if getattr(self, name) is not None:
                checks.text(f"PromptStyle.{name}", getattr(self, name))
        if self.option.count("{letter}") != 1 or self.option.count("{text}") != 1:
            shown = checks.shown(self.option)
            raise InputError(
                f'PromptStyle.option = {shown}: write {{letter}} and {{text}} once, "({{letter}}) {{text}}"'
            )

    @classmethod
    def of(cls, given: PromptStyle | Mapping[str, Any] | str | None) -> PromptStyle:
        """A style, its fields, its name in STYLES, or None for the default. Raises InputError for anything else."""
        if given is None:
            return cls()
        if isinstance(given, PromptStyle):
            return given
        if isinstance(given, str) and given in STYLES:
            return STYLES[given]
        if not isinstance(given, Mapping):
            raise InputError(
                f"prompt_style = {checks.shown(given)}: pass one of {', '.join(STYLES)}, or an avflow.PromptStyle"
            )
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"prompt_style has no {checks.shown(unknown[0])}: it has {', '.join(known)}")
        return cls(**given)

    def line(self, number: int, text: str) -> str:
        """An option's line, without its end."""
        before, _, after = self.option.partition("{text}")
        return before.replace("{letter}", LETTERS[number]) + text + after.replace("{letter}", LETTERS[number])


_LETTER_ONLY = "Respond with only the letter (A, B, C, or D) of the correct option."
STYLES = {
    "avflow": PromptStyle(),
    # The published code of Map the Flow (its TVBench prompts): options in brackets, the answer begun for the model.
    "map_the_flow": PromptStyle("({letter}) {text}", separate_instruction=True, answer_prefix="Best option:("),
    # Data sets' own evaluations, as lmms-eval has them; the instruction is no part of the question.
    "av-speakerbench": PromptStyle(
        instruction_first=True,
        separate_instruction=True,
        instruction="Select the best answer to the following multiple-choice question based on the audiovisual clip. "
        + _LETTER_ONLY,
        closing="The best answer is:",
    ),
    "worldsense": PromptStyle(
        instruction_first=True,
        separate_instruction=True,
        instruction="Carefully watch this video and pay attention to every detail. Based on your observations, select "
        "the best option that accurately addresses the question.\nThese are the frames of a video and the "
        "corresponding audio. Select the best answer to the following multiple-choice question based on the video. "
        + _LETTER_ONLY,
        closing="",
    ),
    "tvbench": PromptStyle(separate_instruction=True, instruction="Answer with the option letter only."),
}


@dataclass(frozen=True)
class Wording:
    """The text of one prompt. `question_first`: the question stands before the media."""

    system: str | None  # None: no system turn
    instruction: str = INSTRUCTION
    question_first: bool = False
    style: PromptStyle = PromptStyle()

    @property
    def instruction_group(self) -> str:
        return "instruction" if self.style.separate_instruction else "question_text"

    def user_lines(self, sample: Sample) -> list[tuple[str, str, int]]:
        """(text, group, item) of question, options, instruction; a line's end belongs to the line."""
        lines = [(sample.question, "question_text", -1)]
        for number, option in enumerate(sample.options or ()):
            lines.append((self.style.line(number, option), option_group(sample, number), number))
        if sample.options and self.instruction:
            line = (self.instruction, self.instruction_group, -1)
            lines.insert(0 if self.style.instruction_first else len(lines), line)
        if sample.options and self.style.closing is not None:
            lines.append((self.style.closing, self.instruction_group, -1))
        whole = [(text + "\n" * (n + 1 < len(lines)), group, item) for n, (text, group, item) in enumerate(lines)]
        return [line for line in whole if line[0]]


def option_group(sample: Sample, number: int) -> str:
    return "option_correct" if number == sample.answer_index else "option_incorrect"
