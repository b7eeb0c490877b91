"""Mappings by name: the layouts of published data sets, and those that users add."""

from __future__ import annotations

from pathlib import Path

from .. import checks
from ..errors import InputError
from .mapping import DataMapping

_FOUR = range(1, 5)

# Column names as the data sets' own files and loaders have them; docs/data.md says where the media have to lie.
MAPPINGS: dict[str, DataMapping] = {
    # rows that carry a Sample's own names
    "avflow": DataMapping(
        options="options?",
        video="video?",
        audio="audio?",
        image="image?",
        candidates="candidates?",
        reference="reference?",
        start="start?",
        end="end?",
        task="task?",
    ),
    # test.csv: choices is a list in a text, "A. ..." each; clips with their sound
    "av-speakerbench": DataMapping(id="question_id", options="choices", video="audio_visual_path", task="task_id"),
    # av_odyssey_part*.parquet: media within the rows; the interleaved items only
    "av-odyssey": DataMapping(
        id="question_id",
        options="options",
        images=[f"image_{n}" for n in _FOUR],
        audios=[f"audio_{n}" for n in _FOUR],
        task="subfield",
    ),
    # worldsense_qa.json, {video: {..., "task0": {...}}}, or the same as rows
    "worldsense": DataMapping(
        id="index",
        options="candidates",
        video="videos/{video}.mp4",
        task="task_type",
        nested="task",
        key="video",
    ),
    # json/<task>.json, beside video/<task>/; answers are an option's text
    "tvbench": DataMapping(
        id="{_file}-{_row}",
        options="candidates",
        video="../video/{_file}/{video}",
        start="start?",
        end="end?",
        task="{_file}",
        use_audio_in_video=False,
    ),
}


def register(name: str, mapping: DataMapping) -> None:
    """Make `mapping` known as `name` in this process. The command line takes a YAML or JSON file instead."""
    if not isinstance(mapping, DataMapping):
        raise InputError(f"mapping {checks.shown(mapping)}: pass an avflow.data.DataMapping")
    if checks.text("a mapping's name", name) in MAPPINGS:
        raise InputError(f"a mapping called {name!r} is there already: choose another name")
    MAPPINGS[name] = mapping


def mapping_of(name: str | Path | DataMapping) -> DataMapping:
    """A mapping by its name, or from a YAML or JSON file.

    Raises:
        InputError: an unknown name, or a file that cannot be read or holds no mapping.
    """
    if isinstance(name, DataMapping):
        return name
    if isinstance(name, str) and name in MAPPINGS:
        return MAPPINGS[name]
    if checks.path("the mapping", name).suffix.lower() in (".yaml", ".yml", ".json"):
        return DataMapping.load(name)
    raise InputError(
        f"no mapping is called {str(name)!r}: there are {', '.join(MAPPINGS)}, or name a YAML or JSON file"
    )
