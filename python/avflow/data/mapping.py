"""From a row of a data set to a Sample: which column holds what, in a few lines."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checks
from ..documents import parse_yaml, read_text
from ..errors import InputError
from ..prompts.answer import LETTERS, check_order
from ..prompts.media_path import media_path
from ..prompts.sample import Sample
from .embedded import stored
from .option_lists import as_options

_HOLE = re.compile(r"\{([^{}]+)\}")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


class LeftOut(Exception):
    """A row that this mapping does not take. The message says why."""


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
        nested: for JSON of the form {key: {..., "task0": {...}, "task1": {...}}}: what the inner keys start with. Each
            inner object is a row, with the outer object's values, and `index`, its number.
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

    def __post_init__(self) -> None:
        self._check_types()
        if bool(self.images) != bool(self.audios):
            raise InputError("a mapping has both images and audios, or neither: they are candidates and reference")
        if self.images and (self.candidates or self.reference):
            raise InputError("a mapping has images and audios, or candidates and reference: leave one pair out")
        if not (self.images or self.candidates or self.video or self.audio or self.image):
            raise InputError("a mapping names no media: give video, audio, image, candidates, or images and audios")

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None and (field.default is None or name in _SEVERAL):
                continue
            if name == "use_audio_in_video":
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
                found |= _names(text)
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
        get = _Row(row)
        values: dict[str, Any] = {"id": _name(get.text(self.id), "id"), "question": get.text(self.question)}
        values["task"] = _name(get.text(self.task), "task") if self.task else ""
        values["use_audio_in_video"] = self.use_audio_in_video
        options = as_options(get.several(self.options)) if self.options else None
        answer = get.text(self.answer)
        for name in ("video", "audio", "image", "reference"):
            if template := getattr(self, name):
                values[name] = _path(name, get.text(template), media)
        for name in ("start", "end"):
            if template := getattr(self, name):
                values[name] = _seconds(get.text(template), name)
        known = answers or not _is_missing(answer)
        if self.images and not known:
            values |= _interleaved(get, self, media)
            return Sample.open(**values)
        if self.images:
            values |= _interleaved(get, self, media)
            number = _ordinal(options, answer, len(values["candidates"]))
            return Sample(**values, answer=LETTERS[number])
        if self.candidates:
            files = _files(get.several(self.candidates))
            values["candidates"] = [_path("a candidate", c, media) for c in files] or None
        if not known:
            return Sample.open(**values, options=options)
        if self.first_answer is not None:
            answer = _numbered(answer, self.first_answer, len(options or values.get("candidates") or ()))
        return Sample(**values, options=options, answer=answer)


_SEVERAL = ("options", "candidates", "images", "audios")
_COLUMN_FIELDS = [
    f.name
    for f in dataclasses.fields(DataMapping)
    if f.name not in ("first_answer", "nested", "key", "use_audio_in_video")
]


class _Row:
    """A row's values by column name or template."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row = row

    def text(self, template: str) -> Any:
        """The column's value, of whatever type; or the template filled in: None where an optional hole has no value."""
        if "{" not in template:
            return self._column(template)
        values = {hole: self._column(hole) for hole in _HOLE.findall(template)}
        empty = [hole for hole, value in values.items() if _is_missing(value)]
        if wanted := [hole for hole in empty if not hole.endswith("?")]:
            raise InputError(f"the column {wanted[0]!r} holds nothing, but {template!r} needs it")
        return None if empty else _HOLE.sub(lambda hole: str(values[hole[1]]), template)

    def several(self, template: str | Sequence[str]) -> Any:
        return self.text(template) if isinstance(template, str) else [self.text(t) for t in template]

    def _column(self, name: str) -> Any:
        wanted = name.removesuffix("?")
        if wanted not in self.row and wanted == name:
            raise InputError(f"no column {name!r}: there are {[n for n in sorted(self.row) if n[:1] != '_']}")
        return self.row.get(wanted)


def _names(template: str) -> set[str]:
    """The columns that a column's name or a template reads, "?" and all."""
    return set(_HOLE.findall(template)) if "{" in template else {template}


def _is_missing(value: Any) -> bool:
    """Nothing, as a table says it: null, an empty cell, NaN."""
    return value is None or (isinstance(value, str) and value == "") or (isinstance(value, float) and math.isnan(value))


def _name(value: Any, what: str) -> str:
    """An id or a task as text; numbers are taken as they are written."""
    if _is_missing(value):
        return ""
    if not isinstance(value, (str, int, float)):
        raise InputError(f"{what} must be a text or a number, got {checks.shown(value)}")
    return str(value)


def _path(name: str, value: Any, media: Path) -> str | None:
    """A path, as text; a file that stands in the row itself is written out first."""
    if isinstance(value, dict) and not value.get("bytes"):
        value = value.get("path")
    if isinstance(value, dict) and not isinstance(value["bytes"], bytes):
        raise InputError(f"{name} holds no bytes, but {checks.shown(value['bytes'])}")
    if isinstance(value, (dict, bytes)):
        return str(stored(value))
    if value is not None and not isinstance(value, str):
        raise InputError(f"a path must be text or a file's bytes, got {checks.shown(value)}")
    return media_path(name, value, media)


def _seconds(value: Any, name: str) -> float | None:
    try:
        if isinstance(value, bool):
            raise TypeError
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} must be seconds, got {checks.shown(value)}") from None


def _numbered(answer: Any, first: int, options: int) -> str:
    whole = isinstance(answer, float) and answer.is_integer()  # as tables with gaps keep integers
    try:
        if isinstance(answer, (bool, float)) and not whole:
            raise TypeError
        number = int(answer) - first
    except (TypeError, ValueError):
        shown = checks.shown(answer)
        raise InputError(f"answer {shown} is no number, but the mapping has first_answer: {first}") from None
    if not 0 <= number < options:
        raise InputError(f"answer {checks.shown(answer)} is none of {first} to {first + options - 1}")
    return LETTERS[number]


def _interleaved(get: _Row, mapping: DataMapping, media: Path) -> dict[str, Any]:
    images, audios = (
        [file for column in columns for file in _files(get.text(column))]
        for columns in (mapping.images, mapping.audios)
    )
    if min(len(images), len(audios)) != 1 or max(len(images), len(audios)) < 2:
        raise LeftOut(f"{len(images)} images and {len(audios)} sounds")
    several, one = (images, audios) if len(images) > 1 else (audios, images)
    return {
        "candidates": [_path("a candidate", file, media) for file in several],
        "reference": _path("the reference", one[0], media),
    }


def _files(value: Any) -> list[Any]:
    return [v for v in (value if isinstance(value, (list, tuple)) else [value]) if not _is_missing(v)]


def _ordinal(options: list[str] | None, answer: Any, candidates: int) -> int:
    """Which candidate the correct option names: "the third image" is 2.

    Where the options name no candidates the row is left out.
    """
    texts = [re.sub(r"^\s*\(?[A-Za-z]\s*[.):]\s*", "", option).lower() for option in options or ()]
    named = []
    for text in texts:
        found = [n for n, word in enumerate(_ORDINALS) if re.search(rf"\b{word}\b", text)]
        found += [int(n) - 1 for n in re.findall(r"\b(?:image|img|audio|sound|picture)\s*(\d)\b", text)]
        named.append(found[0] if len(found) == 1 else -1)
    if sorted(named) != list(range(candidates)):
        raise LeftOut("options that do not name the candidates one by one")
    check_order(options or ())
    letter = str(answer).strip("(). :").upper()
    if len(letter) != 1 or letter not in LETTERS[:candidates]:
        raise InputError(f"answer {answer!r} is no letter A to {LETTERS[candidates - 1]}")
    return named[LETTERS.index(letter)]
