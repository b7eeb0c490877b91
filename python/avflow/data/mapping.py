"""From a row of a data set to a Sample: which column holds what, in a few lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checks
from ..documents import parse_yaml, read_text
from ..errors import InputError
from ..prompts.sample import Sample
from .in_turns import candidates_of, media_at_tags
from .option_lists import as_options, filled
from .values import Row, as_files, as_letter, as_name, as_path, as_seconds, column_names, is_missing


@dataclass(frozen=True)
class DataMapping:
    """Where a data set keeps what a Sample needs.

    A value is a column's name; or a template such as "videos/{video}.mp4" of columns; with "?" at its end a column that
    rows may lack. Two columns are added to every row: `_file`, the file's name without its ending, and `_row`, the
    row's number in it, from 0.

    Args:
        id, question, answer, task: text.
        options: a column with a list (or a list in a text, or lines), or several columns.
        first_answer: where answers are numbers, that of the first option (0 or 1). None: letters or texts.
        video, audio, image, reference: paths relative to the folder of the media, or files within the column itself.
        candidates: a column with a list of paths, or several columns. start, end: seconds.
        images, audios: columns of an interleaved item whose roles differ from row to row: the kind with several files
            are the candidates, the other one is the reference. The correct option tells a candidate ("the third
            image"). Rows of another shape are left out.
        at_tags: images and audios stand at their tags in the question ("[img1]", "[audio2]"), and options keep their
            texts; rows whose question has no tag, or one of a video, are left out.
        fill: a column with a list (or a list in a text) whose values take the place of "<Object>" and the like in the
            question, in order. A row that does not fill all of them is an error.
        nested: for JSON of the form {key: {..., "task0": {...}, "task1": {...}}}: what the inner keys start with; or
            for rows (JSON, JSONL, Parquet, of the hub) with a list of objects under this name. Each inner object is a
            row, with the outer object's values, and `index`, its number.
        key: the column that takes the outer key of such a file.
        use_audio_in_video: for every sample; see Sample.
    """

    id: str = "id"
    question: str = "question"
    options: str | Sequence[str] | None = None
    answer: str = "answer"
    first_answer: int | None = None
    video: str | None = None
    audio: str | None = None
    image: str | None = None
    candidates: str | Sequence[str] | None = None
    reference: str | None = None
    images: Sequence[str] = ()
    audios: Sequence[str] = ()
    start: str | None = None
    end: str | None = None
    task: str | None = None
    nested: str | None = None
    key: str = "key"
    use_audio_in_video: bool | None = None
    at_tags: bool | None = None
    fill: str | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if bool(self.images) != bool(self.audios):
            raise InputError("a mapping has both images and audios, or neither: they are candidates and reference")
        if self.images and (self.candidates or self.reference):
            raise InputError("a mapping has images and audios, or candidates and reference: leave one pair out")
        if self.at_tags and not self.images:
            raise InputError("at_tags is about images and audios: name their columns")
        if not (self.images or self.candidates or self.video or self.audio or self.image):
            raise InputError("a mapping names no media: give video, audio, image, candidates, or images and audios")

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None and (field.default is None or name in _SEVERAL):
                continue
            if name in ("use_audio_in_video", "at_tags"):
                checks.flag(name, value)
            elif name == "first_answer":
                number = checks.integer(name, value, mend="give the number of the first option, 0 or 1")
                object.__setattr__(self, name, number)
            elif isinstance(value, (list, tuple)) and not value and name in ("options", "candidates"):
                raise InputError(f"{name} is an empty list: name the columns, or leave {name} out")
            elif isinstance(value, (list, tuple)) and name not in _SEVERAL:
                raise InputError(f"{name} is a list: write one column's name or a template")
            elif isinstance(value, (list, tuple)) and all(isinstance(v, str) and v for v in value):
                object.__setattr__(self, name, tuple(value))
            elif not isinstance(value, str) or not value or name in ("images", "audios"):
                raise InputError(f"{name} is {checks.shown(value)}: write a column's name or a template")

    @classmethod
    def load(cls, path: str | Path) -> DataMapping:
        """A mapping from a YAML or JSON file: the arguments above, as keys.

        Raises:
            InputError: a file that cannot be read, or that holds no mapping.
        """
        path = checks.path("the mapping", path)
        text = read_text(path, "the mapping")
        try:
            values = parse_yaml(text)  # JSON is YAML
        except InputError as error:
            raise InputError(f"the mapping {path} is neither YAML nor JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"the mapping {path} holds no keys: write lines such as 'options: choices'")
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the mapping") -> DataMapping:
        """A mapping from its arguments as keys. Raises InputError that begins with `where`."""
        known = [f.name for f in dataclasses.fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise InputError(f"{where} has the unknown keys {checks.shown(unknown)}; there are {known}")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The values that are set, as config.yaml and a mapping file hold them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {k: v for k, v in values.items() if v not in (None, [])}

    def columns(self) -> set[str]:
        """Names of all columns that it reads."""
        found: set[str] = set()
        for name in _COLUMN_FIELDS:
            value = getattr(self, name)
            for text in [value] if isinstance(value, str) else value or ():
                found |= column_names(text)
        return found

    def without_answers(self) -> DataMapping:
        """The same, whether or not there is a column of answers."""
        holes = "{" in self.answer
        optional = self.answer if holes or self.answer.endswith("?") else f"{self.answer}?"
        return dataclasses.replace(self, answer=optional)

    def sample(self, row: Mapping[str, Any], media: Path, answers: bool = True) -> Sample:
        """The row as a Sample; its paths stand in the folder `media`.

        answers: False: a row without an answer is `Sample.open`.

        Raises:
            InputError: a column is missing, or what it holds makes no sample. LeftOut: a row of another kind.
        """
        get = Row(row)
        question = get.text(self.question)
        if self.fill is not None:
            question = filled(question, get.text(self.fill))
        values: dict[str, Any] = {"id": as_name(get.text(self.id), "id"), "question": question}
        values["task"] = as_name(get.text(self.task), "task") if self.task else ""
        values["use_audio_in_video"] = self.use_audio_in_video
        options = as_options(get.several(self.options)) if self.options else None
        answer = get.text(self.answer)
        for name in ("video", "audio", "image", "reference"):
            if template := getattr(self, name):
                values[name] = as_path(name, get.text(template), media)
        for name in ("start", "end"):
            if template := getattr(self, name):
                values[name] = as_seconds(get.text(template), name)
        known = answers or not is_missing(answer)
        if self.at_tags:
            values |= media_at_tags(get, self.images, self.audios, str(question), options, media)
        elif self.images:
            values |= candidates_of(get, self.images, self.audios, options, answer if known else None, media)
            return Sample(**values) if known else Sample.open(**values)
        if self.candidates:
            files = as_files(get.several(self.candidates))
            values["candidates"] = [as_path("a candidate", c, media) for c in files] or None
        if not known:
            return Sample.open(**values, options=options)
        if self.first_answer is not None:
            answer = as_letter(answer, self.first_answer, len(options or values.get("candidates") or ()))
        return Sample(**values, options=options, answer=answer)


_SEVERAL = ("options", "candidates", "images", "audios")
_COLUMN_FIELDS = [
    f.name
    for f in dataclasses.fields(DataMapping)
    if f.name not in ("first_answer", "nested", "key", "use_audio_in_video", "at_tags")
]
