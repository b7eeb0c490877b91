"""From a row of a data set to a Sample: which column holds what, in a few lines."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..prompts.sample import LETTERS, Sample
from .embedded import stored

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
        for name in ("options", "candidates", "images", "audios"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        if bool(self.images) != bool(self.audios):
            raise InputError("a mapping has both images and audios, or neither: they are candidates and reference")
        if self.images and (self.candidates or self.reference):
            raise InputError("a mapping has images and audios, or candidates and reference: leave one pair out")
        if not (self.images or self.candidates or self.video or self.audio or self.image):
            raise InputError("a mapping names no media: give video, audio, image, candidates, or images and audios")

    @classmethod
    def load(cls, path: str | Path) -> DataMapping:
        """A mapping from a YAML or JSON file: the arguments above, as keys.

        Raises:
            InputError: a file that cannot be read, or that holds no mapping.
        """
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
        except OSError as error:
            raise InputError(f"cannot read the mapping {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"the mapping {path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise InputError(f"the mapping {path} holds no keys: write lines such as 'options: choices'")
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the mapping") -> DataMapping:
        known = [f.name for f in dataclasses.fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise InputError(f"{where} has the unknown keys {unknown}; there are {known}")
        for name, value in values.items():
            texts = value if isinstance(value, (list, tuple)) else [value]
            plain = (int, bool) if name in ("first_answer", "use_audio_in_video") else str
            if value is not None and not all(isinstance(text, plain) for text in texts):
                raise InputError(f"{where}: {name} is {value!r}: write a column's name or a template")
            if isinstance(value, (list, tuple)) and name not in ("options", "candidates", "images", "audios"):
                raise InputError(f"{where}: {name} is a list: write one column's name or a template")
        return cls(**values)

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

    def sample(self, row: Mapping[str, Any], media: Path) -> Sample:
        """The row as a Sample; its paths stand in the folder `media`.

        Raises:
            InputError: a column is missing, or what it holds makes no sample. LeftOut: a row of another kind.
        """
        get = _Row(row)
        name = get.text(self.id)
        values: dict[str, Any] = {"id": "" if name is None else str(name), "question": get.text(self.question)}
        values["task"] = str(get.text(self.task) or "") if self.task else ""
        values["use_audio_in_video"] = self.use_audio_in_video
        options = _list(get.several(self.options)) if self.options else None
        answer = get.text(self.answer)
        for name in ("video", "audio", "image", "reference"):
            if template := getattr(self, name):
                values[name] = _path(get.text(template), media)
        for name in ("start", "end"):
            if template := getattr(self, name):
                values[name] = _seconds(get.text(template), name)
        if self.images:
            values |= _interleaved(get, self, media)
            number = _ordinal(options, answer, len(values["candidates"]))
            return Sample(**values, answer=LETTERS[number])
        if self.candidates:
            values["candidates"] = [_path(c, media) for c in get.several(self.candidates) or () if c] or None
        if self.first_answer is not None:
            answer = _numbered(answer, self.first_answer, len(options or values.get("candidates") or ()))
        return Sample(**values, options=options, answer=answer)


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
        """The column's value, of whatever type; or the template filled in."""
        if "{" not in template:
            return self._column(template)
        return _HOLE.sub(lambda hole: str(self._column(hole[1])), template)

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


def _path(value: Any, media: Path) -> str | None:
    """A path, as text; a file that stands in the row itself is written out first."""
    if value is None or value == "":
        return None
    if isinstance(value, dict) and not value.get("bytes"):
        value = value.get("path")
    if isinstance(value, (dict, bytes)):
        return str(stored(value))
    if not isinstance(value, str):
        raise InputError(f"a path must be text or a file's bytes, got {value!r}")
    return str(media / value)


def _list(value: Any) -> list[str] | None:
    """Options as a list: one already, or a list written as JSON or Python, or a text with one per line."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        text = value.strip()
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(text)
            except (ValueError, SyntaxError):
                continue
            if isinstance(found, (list, tuple)):
                return [str(o) for o in found]
        return [line for line in text.split("\n") if line.strip()]
    if not isinstance(value, (list, tuple)):
        raise InputError(f"options must be a list or a text, got {value!r}")
    return [str(option) for option in value if option is not None]


def _seconds(value: Any, name: str) -> float | None:
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be seconds, got {value!r}") from None


def _numbered(answer: Any, first: int, options: int) -> str:
    try:
        number = int(answer) - first
    except (TypeError, ValueError):
        raise InputError(f"answer {answer!r} is no number, but the mapping has first_answer: {first}") from None
    if not 0 <= number < options:
        raise InputError(f"answer {answer!r} is none of {first} to {first + options - 1}")
    return LETTERS[number]


def _interleaved(get: _Row, mapping: DataMapping, media: Path) -> dict[str, Any]:
    images, audios = (
        [file for column in columns for file in _files(get.text(column))]
        for columns in (mapping.images, mapping.audios)
    )
    if min(len(images), len(audios)) != 1 or max(len(images), len(audios)) < 2:
        raise LeftOut(f"{len(images)} images and {len(audios)} sounds")
    several, one = (images, audios) if len(images) > 1 else (audios, images)
    return {"candidates": [_path(file, media) for file in several], "reference": _path(one[0], media)}


def _files(value: Any) -> list[Any]:
    return [v for v in (value if isinstance(value, (list, tuple)) else [value]) if v not in (None, "")]


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
    letter = str(answer).strip("(). :").upper()
    if len(letter) != 1 or letter not in LETTERS[:candidates]:
        raise InputError(f"answer {answer!r} is no letter A to {LETTERS[candidates - 1]}")
    return named[LETTERS.index(letter)]
