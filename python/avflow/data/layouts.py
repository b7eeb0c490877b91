"""Mappings by name: the layouts of published data sets, and those that users add."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .. import checks
from ..errors import InputError
from .mapping import DataMapping

_FOUR = range(1, 5)
_ODYSSEY = DataMapping(
    id="question_id",
    options="options",
    images=[f"image_{n}" for n in _FOUR],
    audios=[f"audio_{n}" for n in _FOUR],
    task="subfield",
    at_tags=True,
)

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
    # av_odyssey_part*.parquet: media within the rows, each at its tag in the question
    "av-odyssey": _ODYSSEY,
    # lmms-eval's copy of it: lists of paths
    "av-odyssey-lmms": dataclasses.replace(_ODYSSEY, images=["image_path"], audios=["audio_path"]),
    # the interleaved items alone: candidates, question, reference, letters, as arXiv 2606.10147 lays them out
    "av-odyssey-candidates": dataclasses.replace(_ODYSSEY, at_tags=None),
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
    # qa.json: Choice is a list, "A. ..." each
    "daily-omni": DataMapping(
        id="{video_id}-{_row}",
        question="Question",
        options="Choice",
        answer="Answer",
        video="Videos/{video_id}/{video_id}_video.mp4",
        task="Type",
    ),
    # data.json: a list of videos, each with a list of questions; the key is a letter beside the answer's text
    "omnivideobench": DataMapping(
        id="{video}-{index}",
        options="options",
        answer="correct_option",
        video="{video}.mp4",
        task="question_type",
        nested="questions",
    ),
    # batch-5_1142_20240817.jsonl: an image and a sound; the answer is an option's text
    "omnibench": DataMapping(
        id="index",
        options="options",
        audio="mm_data/audio/{audio_path}",
        image="mm_data/image/{image_path}",
        task="task type",
    ),
    # the same from the hub, media within the rows
    "omnibench-hub": DataMapping(id="index", options="options", audio="audio", image="image", task="task type"),
    # videomme/test-*.parquet
    "video-mme": DataMapping(id="question_id", options="options", video="data/{videoID}.mp4", task="task_type"),
    # avqa-test.json: open-ended, with blanks in the question ("Is the <Object> ...")
    "music-avqa": DataMapping(
        id="question_id",
        question="question_content",
        fill="templ_values",
        answer="anser",
        video="{video_id}.mp4",
        task="type",
    ),
    # val_qa.json: the answer is an option's number
    "avqa": DataMapping(
        id="id",
        question="question_text",
        options="multi_choice",
        first_answer=0,
        video="{video_name}.mp4",
        task="question_type",
    ),
    # data/<reasoning type>.json, {id: {...}}, beside videos/; the answer is an option's number
    "tomato": DataMapping(
        id="{_file}-{id}",
        options="options",
        first_answer=0,
        video="../videos/{demonstration_type}/{key}.mp4",
        task="{_file}",
        key="id",
        use_audio_in_video=False,
    ),
}


def register(name: str, mapping: DataMapping) -> None:
    """Make `mapping` known as `name` in this process. The command line takes a YAML or JSON file instead.

    Raises:
        InputError: no mapping, or a name that is taken.
    """
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
