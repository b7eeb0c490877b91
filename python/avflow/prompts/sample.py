"""One question about one piece of media, and the JSONL files that hold many."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from .. import checks
from ..documents import parse_json, read_text
from ..errors import InputError
from .answer import LETTERS, letter_index, option_index, without_letters
from .label import Label
from .media_path import media_path
from .tags import Tagged, check_names, check_tags

MEDIA = ("video", "audio", "image")
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_LABELS = 100_000  # of a sample; more is a slip
WORDING = ("system", "instruction", "question_first", "prompt_style")  # what a sample may say of its prompt's text
SOUND_FILES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma")


class Interleaved(NamedTuple):
    """What an interleaved item has in place of a video, a sound file or an image: paths, and the candidates' kind."""

    candidates: list[str]
    reference: str
    kind: Literal["image", "audio"]  # of the candidates; the reference is of the other


@dataclass
class Sample:
    """A question, its answer, and the media that it is about.

    Args:
        id: a name, unique within a file.
        question: the question's text.
        options: 2 to 26 answers to choose from, or None for an open-ended question. A list that already carries its
            letters ("A. red", "B. green") loses them: the prompt puts its own.
        answer: with options a letter ("B") or an option's text, kept as the letter; otherwise the answer's text.
        video, audio, image: paths; at least one. Video and audio together are two items, one after the other.
        task: a name to group results by.
        use_audio_in_video: True or None: a video's own sound is read with it, interleaved by time, unless `audio` is
            given. False: frames only.
        dub: a sound file that takes the place of the video's own: interleaved with its frames by time, the file's begin
            at the first of them. For mismatched sound (arXiv 2604.02605); `audio` with a video is an item of its own.
        candidates: an interleaved item instead of the media above: 2 to 26 images, or as many sounds, to choose from.
            Each has a letter, and the letters are the options: leave `options` out, and give `answer` as a letter.
        reference: of an interleaved item, what the candidates are compared with: a sound if they are images, an image
            if they are sounds.
        start, end: seconds of the video that the question is about; None: from its start, to its end.
        tagged: instead of the media above, images and sounds that stand within the question, each at its tag:
            {"[img1]": path, ...}; every tag stands in the question once.
        names: of such a question whose options name media one by one, the tag that each option names. These media are
            the candidates then, the others references; without names they are images and sounds.
        labels: labels of your own, dicts with the fields of `prompts.label.Label`: tokens by their position, item, time
            (seconds of the file), box or words go to a group of yours. A later one goes before an earlier one.
        wording: how this question's prompt is worded, where the caller of `Model.prepare` does not say: a dict with
            some of WORDING, as `prepare` takes them; a style by its name or as a dict.

    Raises:
        InputError: anything missing, of the wrong type, or an answer that is none of the options.
    """

    id: str
    question: str
    options: list[str] | None = None
    answer: str = ""
    video: str | None = None
    audio: str | None = None
    image: str | None = None
    task: str = ""
    use_audio_in_video: bool | None = None
    candidates: list[str] | None = None
    reference: str | None = None
    start: float | None = None
    end: float | None = None
    tagged: dict[str, str] | None = None
    names: list[str] | None = None
    labels: list[dict[str, Any]] | None = None
    dub: str | None = None
    wording: dict[str, Any] | None = None
    answered: ClassVar[bool] = True  # False on an instance that `open` made

    def __post_init__(self) -> None:
        self.id = sample_id(self.id)
        self.question = self._text("question")
        self.task = self._text("task", empty=True)
        for name in MEDIA:
            setattr(self, name, self._path(name))
        self.reference, self.dub = self._path("reference"), self._path("dub")
        if self.use_audio_in_video is not None and not isinstance(self.use_audio_in_video, bool):
            shown = checks.shown(self.use_audio_in_video)
            raise self._say(f"use_audio_in_video is {shown}: use true, false or null")
        if self.tagged is not None:
            self._check_tagged()
        elif self.candidates is not None or self.reference:
            self._check_interleaved()
        elif not any(getattr(self, name) for name in MEDIA):
            raise self._say("no video, audio or image: name the file that the question is about")
        if self.use_audio_in_video is not None and not self.video:
            raise self._say("use_audio_in_video is set, but there is no video")
        if self.use_audio_in_video and self.audio:
            raise self._say("use_audio_in_video=True and an audio file: leave one of them out")
        if self.dub and (not self.video or self.audio or self.use_audio_in_video is False):
            raise self._say("dub is the sound of a video: name the video, and leave audio and use_audio_in_video out")
        self._check_span()
        self._check_labels()
        self._check_wording()
        if self.options is not None and self.candidates is None:
            self.options = self._options()
        if self.names is not None:
            self.names = check_names(f"sample {self.id!r}", self.names, self.tagged or {}, self.options)
        self.answer = self._answer()

    @classmethod
    def open(cls, **fields: Any) -> Sample:
        """A question whose answer nobody knows, for what looks at no answer: `avflow.generate`, `avflow bench`, a
        label-free plan. Its first option, or "?", stands in the answer's place, and its prompt has no answer: an
        experiment that asks for one refuses it.

        Args:
            fields: of a Sample, `answer` left out.

        Raises:
            InputError: as of a Sample.
        """
        options = fields.get("options")
        first = LETTERS[0] if options is not None or fields.get("candidates") is not None else "?"
        sample = cls(**{**fields, "answer": first})
        vars(sample)["answered"] = False
        return sample

    @property
    def answer_index(self) -> int | None:
        """Number of the correct option, from 0, or None for an open-ended question."""
        return None if self.options is None else LETTERS.index(self.answer)

    @property
    def candidate_kind(self) -> Literal["image", "audio"] | None:
        """What the candidates are: "image" or "audio"; None where there are none. The reference is the other kind."""
        return None if self.candidates is None else self._kind("candidate 1", self.candidates[0])

    @property
    def interleaved(self) -> Interleaved | None:
        """Candidates and reference; None where the sample is no interleaved item."""
        kind = self.candidate_kind
        if self.candidates is None or self.reference is None or kind is None:
            return None
        return Interleaved(self.candidates, self.reference, kind)

    @property
    def placed(self) -> list[Tagged]:
        """The media that stand within the question, in its order; none where the sample has no tags."""
        named = {tag: number for number, tag in enumerate(self.names or ())}  # tag: option
        found: list[Tagged] = []
        counts: dict[str, int] = {}
        for tag, path in (self.tagged or {}).items():
            kind = self._kind(tag, path)
            group: str = kind
            if tag in named:
                group = "candidate_correct" if named[tag] == self.answer_index else "candidate_incorrect"
            elif named:
                group = "reference"
            item = counts.setdefault(group.partition("_")[0], 0)
            counts[group.partition("_")[0]] += 1
            found.append(Tagged(path, kind, group, item))
        return found

    @property
    def files(self) -> list[str]:
        """The paths of all its media."""
        paths = [*(getattr(self, name) for name in MEDIA), self.dub, self.reference, *(self.candidates or [])]
        paths += (self.tagged or {}).values()
        return [path for path in paths if path]

    @classmethod
    def read_jsonl(cls, path: str | Path, answers: bool = True, bad: dict[str, str] | None = None) -> list[Sample]:
        """Samples of a JSONL file, in its order. Relative media paths are relative to the file's folder.

        answers: False: where there is none, the sample is `Sample.open`.
        bad: lines that make no sample are put in here, {line: reason}, instead of raised; the others are read.

        Keys that a Sample has no field for are ignored, so that data sets can carry more than is read here.

        Raises:
            InputError: no such file, no sample in it, or a bad line, with its number.
        """
        path, answers = checks.path("the samples file", path), checks.flag("answers", answers)
        text = read_text(path, "the samples file")
        samples: list[Sample] = []
        seen: dict[str, int] = {}
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                values = _record(line, number, path.parent)
                sample = cls(**values) if answers or values.get("answer") else cls.open(**values)
                if sample.id in seen:
                    raise InputError(f"id {sample.id!r} is that of line {seen[sample.id]} too: ids must differ")
            except InputError as error:
                if bad is None:
                    raise InputError(f"{path}, line {number}: {error}") from error
                bad[f"{path}, line {number}"] = str(error)
                continue
            seen[sample.id] = number
            samples.append(sample)
        if not samples and not bad:
            raise InputError(f"{path} holds no sample: write one JSON object per line")
        return samples

    def to_json(self) -> str:
        """One JSONL line, without the fields that are not set; of a sample that `open` made, without the answer."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if self.answered or f.name != "answer"}
        return json.dumps({k: v for k, v in values.items() if v not in (None, "")}, ensure_ascii=False)

    def _say(self, text: str) -> InputError:
        return InputError(f"sample {self.id!r}: {text}")

    def _text(self, name: str, empty: bool = False) -> str:
        value = checks.text(f"sample {self.id!r}: {name}", getattr(self, name))
        if not empty and not value.strip():
            raise self._say(f"{name} is empty")
        return value.strip()

    def _path(self, name: str) -> str | None:
        return media_path(f"sample {self.id!r}: {name}", getattr(self, name))

    def _check_tagged(self) -> None:
        given = [name for name in (*MEDIA, "candidates", "reference") if getattr(self, name)]
        if given:
            raise self._say(f"tagged and {given[0]}: an item has either")
        self.tagged = check_tags(f"sample {self.id!r}", self.tagged, self.question)
        for tag, path in self.tagged.items():
            self._kind(tag, path)

    def _check_interleaved(self) -> None:
        """Candidates and a reference, of the two kinds; the options become the candidates' letters."""
        if self.candidates is None or not self.reference:
            raise self._say("candidates and reference come together: give both, or a video, audio or image")
        if given := [name for name in MEDIA if getattr(self, name)]:
            raise self._say(f"candidates and {given[0]}: an item has either")
        if not isinstance(self.candidates, (list, tuple)):
            raise self._say(f"candidates must be a list of paths, got {checks.shown(self.candidates)}")
        if not 2 <= len(self.candidates) <= len(LETTERS):
            raise self._say(f"{len(self.candidates)} candidates: give 2 to {len(LETTERS)}")
        where = f"sample {self.id!r}: candidate"
        paths = [media_path(f"{where} {n}", c) for n, c in enumerate(self.candidates, start=1)]
        self.candidates = [path for path in paths if path is not None and path.strip()]
        if len(self.candidates) < len(paths):
            raise self._say(f"candidates must be a list of paths, got {checks.shown(paths)}, one of them empty")
        kinds = [self._kind(f"candidate {n}", c) for n, c in enumerate(self.candidates, start=1)]
        if len(set(kinds)) > 1:
            raise self._say(f"the candidates are of two kinds ({', '.join(kinds)}): give images only, or sounds only")
        if self._kind("the reference", self.reference) == kinds[0]:
            other = "a sound" if kinds[0] == "image" else "an image"
            raise self._say(f"the candidates and the reference are both of kind {kinds[0]}: give {other} as reference")
        letters = list(LETTERS[: len(self.candidates)])
        if self.options is not None and (not isinstance(self.options, (list, tuple)) or list(self.options) != letters):
            shown = checks.shown(self.options)
            raise self._say(f"candidates and the options {shown}: leave options out, the letters are they")
        self.options = letters

    def _kind(self, what: str, path: str) -> Literal["image", "audio"]:
        suffix = Path(path).suffix.lower()
        if suffix in IMAGE_FILES or suffix in SOUND_FILES:
            return "image" if suffix in IMAGE_FILES else "audio"
        raise self._say(f"{what} is {path!r}: name an image or a sound ({', '.join(IMAGE_FILES + SOUND_FILES)})")

    def _check_span(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is None:
                continue
            value = checks.number(f"sample {self.id!r}: {name}", value, mend="give seconds, 0 or more")
            if not self.video:
                raise self._say(f"{name} is set, but there is no video")
            setattr(self, name, value)
        if self.end is not None and self.end <= (self.start or 0.0):
            raise self._say(f"end {self.end} s is not after start {self.start or 0.0} s")

    def _check_wording(self) -> None:
        """The names alone: what they hold is checked where a prompt is made of it."""
        if self.wording is None:
            return
        if not isinstance(self.wording, dict):
            raise self._say(f"wording is {checks.shown(self.wording)}: give an object with {', '.join(WORDING)}")
        if unknown := [name for name in self.wording if name not in WORDING]:
            raise self._say(f"wording has no {checks.shown(unknown[0])}: it has {', '.join(WORDING)}")
        try:
            json.dumps(self.wording)
        except (TypeError, ValueError):
            raise self._say(f"wording is {checks.shown(self.wording)}: give texts, and a style as a dict") from None

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        given = checks.members(self.labels, MOST_LABELS)
        if given is None or len(given) > MOST_LABELS or isinstance(self.labels, dict):
            raise self._say(f"labels is {checks.shown(self.labels)}: give a list of labels, at most {MOST_LABELS}")
        try:
            self.labels = [Label.of_value(one).to_dict() for one in given] or None
        except InputError as error:
            raise self._say(str(error)) from None

    def _options(self) -> list[str]:
        options = self.options
        if not isinstance(options, (list, tuple)) or not all(isinstance(o, str) for o in options):
            shown = checks.shown(options)
            raise self._say(f'options must be a list of texts such as ["red", "green"], got {shown}')
        if not 2 <= len(options) <= len(LETTERS):
            raise self._say(f"{len(options)} options: give 2 to {len(LETTERS)}, or leave options out")
        where = f"sample {self.id!r}: option"
        try:
            options = without_letters([checks.text(f"{where} {LETTERS[n]}", o).strip() for n, o in enumerate(options)])
        except InputError as error:
            raise self._say(str(error)) from None
        if options == list(LETTERS[: len(options)]):
            raise self._say(f"the options are the letters {options} without a text: write what each stands for")
        if not all(options):
            raise self._say(f"option {LETTERS[options.index('')]} is empty")
        twice = sorted({o for o in options if options.count(o) > 1})
        if twice and not self._asks_for_another(options, twice):
            raise self._say(f"the option {twice[0]!r} stands twice, so the answer is not one of them alone")
        return options

    def _asks_for_another(self, options: list[str], twice: list[str]) -> bool:
        """Whether the answer is the letter of an option that stands once: which of the equal ones is meant is no
        question then."""
        if not isinstance(self.answer, str) or (place := letter_index(self.answer, len(options))) is None:
            return False
        return options[place] not in twice

    def _answer(self) -> str:
        if self.answer is None or (isinstance(self.answer, str) and self.answer == ""):
            what = "an option list without the answer" if self.options else "no answer"
            raise self._say(f"{what}: give answer as a letter or a text")
        text = self._text("answer")
        if self.options is None:
            return text
        try:
            return LETTERS[option_index(text, self.options)]
        except InputError as error:
            raise self._say(str(error)) from None


def sample_id(value: Any) -> str:
    """An id as text, from a text or an integer. Raises InputError: another type, or an empty one."""
    if isinstance(value, bool) or not (isinstance(value, str) or hasattr(value, "__index__")):
        raise InputError(f"id must be a text or an integer, got {checks.shown(value)}")
    name = value if isinstance(value, str) else str(checks.integer("a sample's id", value, low=-(2**63)))
    if not name.strip():
        raise InputError("a sample's id is empty: give each sample a name of its own")
    return checks.text("a sample's id", name)


def _record(line: str, number: int, folder: Path) -> dict[str, Any]:
    record = parse_json(line, number)
    if not isinstance(record, dict):
        raise InputError(
            f"holds {type(record).__name__}, not an object with id, question, answer and a medium: one object per line"
        )
    missing = [name for name in ("id", "question") if record.get(name) is None]
    if missing:
        raise InputError(f"has no {missing[0]!r}: its keys are {sorted(record)}")
    name = sample_id(record["id"])
    known = {f.name for f in fields(Sample)}
    values = {k: v for k, v in record.items() if k in known and v is not None}
    for medium in (*MEDIA, "dub", "reference"):
        if medium in values:
            values[medium] = media_path(f"sample {name!r}: {medium}", values[medium], folder)
    if isinstance(values.get("candidates"), list):
        where = f"sample {name!r}: candidate"
        candidates = enumerate(values["candidates"], start=1)
        values["candidates"] = [media_path(f"{where} {n}", c, folder) for n, c in candidates]
    if isinstance(values.get("tagged"), dict):
        tagged = values["tagged"].items()
        values["tagged"] = {tag: media_path(f"sample {name!r}: tagged {tag!r}", path, folder) for tag, path in tagged}
    if not any(values.get(medium) for medium in (*MEDIA, "candidates", "reference", "tagged")):
        raise InputError(f"sample {name!r}: no video, audio or image among its keys {sorted(record)}")
    return values
