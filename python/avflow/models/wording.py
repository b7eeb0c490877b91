"""The text around media and question: system, instruction, how options are written, what the answer begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from .. import checks
from ..errors import InputError
from ..prompts.sample import LETTERS, Sample

INSTRUCTION = "Answer with the option's letter from the given choices directly."
Listing = Literal["lines", "list", "dict"]
Piece = tuple[str, str, int]  # text, group, item


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
        question: around the question, with "{question}": "Question: {question}".
        options: around all options, with "{options}": "Options:\\n{options}\\n" (an empty line after them).
        listing: "lines", the options by `option`, with `joiner` between them; or as Python writes them: "list", of
            what `option` makes, "['A. red', 'B. green']"; "dict", of letters and texts, "{'A': 'red', 'B': 'green'}".
        joiner: what stands between two "lines"; the others have a comma and a space.

    The words of `question` and `options` around what they hold, and a list's brackets, have the instruction's group;
    an option's quotation marks are the option's, and what joins it to the next one is too. A token has the group of
    its first character.

    Raises:
        InputError: a form without what it is to hold, a value of another type or none of its choices.
    """

    option: str = "{letter}. {text}"
    instruction_first: bool = False
    separate_instruction: bool = False
    answer_prefix: str = ""
    instruction: str | None = None
    closing: str | None = None
    question: str = "{question}"
    options: str = "{options}"
    listing: Listing = "lines"
    joiner: str = "\n"

    def __post_init__(self) -> None:
        for name in ("option", "answer_prefix", "question", "options", "joiner"):
            checks.text(f"PromptStyle.{name}", getattr(self, name))
        checks.choice("PromptStyle.listing", self.listing, get_args(Listing))
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
        unused = {"option": self.listing == "dict", "joiner": self.listing != "lines"}
        for name, is_unused in unused.items():
            if is_unused and getattr(self, name) != getattr(PromptStyle, name):
                shown = checks.shown(getattr(self, name))
                raise InputError(f"PromptStyle.{name} = {shown}: a {self.listing} is written without it, leave it out")
        for name in ("question", "options"):
            if getattr(self, name).count(f"{{{name}}}") != 1:
                shown = checks.shown(getattr(self, name))
                raise InputError(f'PromptStyle.{name} = {shown}: write {{{name}}} once, "Here:\\n{{{name}}}"')

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

    @property
    def texts(self) -> tuple[str, ...]:
        """Its own words: all that a prompt gets from it, but for the instruction."""
        return (self.option, self.answer_prefix, self.closing or "", self.question, self.options, self.joiner)

    @property
    def words_options(self) -> bool:
        """Does it say how question, options and instruction stand to each other, other than by default?"""
        own = ("option", "instruction_first", "closing", "question", "options", "listing", "joiner")
        return any(getattr(self, name) != getattr(PromptStyle, name) for name in own)

    def line(self, number: int, text: str) -> str:
        """An option in itself."""
        before, _, after = self.option.partition("{text}")
        return before.replace("{letter}", LETTERS[number]) + text + after.replace("{letter}", LETTERS[number])

    def listed(self, texts: Sequence[str]) -> tuple[str, list[str], str]:
        """What stands before all options, each of them with what joins it to the next one, and what stands after."""
        lines = [self.line(number, text) for number, text in enumerate(texts)]
        before, joiner, after = "", self.joiner, ""
        if self.listing == "list":
            (before, after), joiner = "[]", ", "
            lines = [repr(line) for line in lines]
        elif self.listing == "dict":
            (before, after), joiner = "{}", ", "
            lines = [f"{LETTERS[number]!r}: {text!r}" for number, text in enumerate(texts)]
        return before, [line + joiner for line in lines[:-1]] + lines[-1:], after


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
    "omnibench": PromptStyle(
        separate_instruction=True,
        instruction="Answer with the option's letter from the given choices directly.",
        question="Question:\n{question}\n",
        options="Options:\n{options}\n",
    ),
    "tomato": PromptStyle(
        instruction_first=True,
        separate_instruction=True,
        instruction="You will be provided with frames uniformly sampled from a video, the frames are provided in "
        "chronological order of the video. Analyze these frames and provide the answer to the question about the video "
        "content. Answer the multiple-choice question about the video content.\n\nYou must use these frames to answer "
        "the multiple-choice question; do not rely on any externel knowledge or commonsense. \n",
        question="<question> \n{question} \n</question>\n",
        options="<options> \n{options} \n</options>\n",
        listing="dict",
        closing="Even if the information in these separate frames is not enough to answer the question, PLEASE TRY "
        "YOUR BEST TO GUESS AN ANSWER WHICH YOU THINK WOULD BE THE MOST POSSIBLE ONE BASED ON THE QUESTION. \n\n"
        "DO NOT GENERATE ANSWER SUCH AS 'NOT POSSIBLE TO DETERMINE.' \n",
    ),
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

    def user_lines(self, sample: Sample) -> list[Piece]:
        """(text, group, item) of question, options, instruction; a line's end belongs to what stands before it."""
        style, own = self.style, self.instruction_group
        blocks = [_within(style.question, "{question}", [(sample.question, "question_text", -1)], own)]
        if sample.options:
            before, listed, after = style.listed(sample.options)
            pieces = [(text, option_group(sample, number), number) for number, text in enumerate(listed)]
            blocks.append(_within(style.options, "{options}", [(before, own, -1), *pieces, (after, own, -1)], own))
            if self.instruction:
                blocks.insert(0 if style.instruction_first else 2, [(self.instruction, own, -1)])
            if style.closing is not None:
                blocks.append([(style.closing, own, -1)])
        out: list[Piece] = []
        for number, block in enumerate(blocks):
            there = [piece for piece in block if piece[0]] or block[:1]
            text, group, item = there[-1]
            out += [*there[:-1], (text + "\n" * (number + 1 < len(blocks)), group, item)]
        return [piece for piece in out if piece[0]]


def _within(form: str, hole: str, pieces: Sequence[Piece], group: str) -> list[Piece]:
    """The pieces, and the words of `form` before and after its hole."""
    before, _, after = form.partition(hole)
    return [(before, group, -1), *pieces, (after, group, -1)]


def option_group(sample: Sample, number: int) -> str:
    return "option_correct" if number == sample.answer_index else "option_incorrect"
