"""Which model, and which samples: what every job is over."""

from __future__ import annotations

import hashlib
import re
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import checks, models
from ..data import choose, is_hub, mapping_of, read
from ..data.prepare import groups_of
from ..errors import InputError
from ..models.base import Model
from ..models.fingerprint import checkpoint_fingerprint
from ..models.prepare_options import check_prepare_options
from ..prompts.groups import BASE_GROUPS, GroupTable
from ..prompts.label_hook import Labels
from ..prompts.prompt import Prompt
from ..prompts.sample import Sample


@dataclass
class Source:
    """A model and a file of samples.

    `samples`, `data`, `media_root`: as avflow.data.read takes them. `tasks`, `limit`, `shuffle_seed`: which samples, as
    avflow.data.choose takes them. `shard`: of these the i-th of n parts, "i/n" from 1: every n-th sample.
    `skip_bad`: rows that make no sample are told in `bad`, and the others are read; else the first one is an error.
    `media`: options for model.prepare, such as fps and max_pixels. `labels`: a function that labels tokens anew,
    avflow.Labels or "file.py:function"; of the latter the file's content is part of the configuration.
    """

    model: str
    samples: str | Path
    _: KW_ONLY
    dtype: str = "float32"
    media: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    device: str = "cpu"
    media_root: str | Path | None = None
    tasks: list[str] = field(default_factory=list)
    limit: int | None = None
    shuffle_seed: int | None = None
    shard: str | None = None
    skip_bad: bool = True
    labels: Any = None
    left_out: dict[str, int] = field(default_factory=dict, init=False)  # rows that `data` does not take: why, how many
    bad: dict[str, str] = field(default_factory=dict, init=False)  # rows that make no sample: why
    own_groups: list[str] = field(default_factory=list, init=False)  # of the samples that were read, and of labels

    @property
    def needs_answers(self) -> bool:
        """Whether a sample without an answer is an error."""
        return True

    def source_config(self) -> dict[str, Any]:
        """The first values of config.yaml. Local paths are made absolute: the folder may be resumed from elsewhere."""
        data = {} if self.data is None else {"data": mapping_of(self.data).to_dict()}
        samples = str(self.samples) if is_hub(self.samples) else str(Path(self.samples).absolute())
        found = self.fingerprint()
        model = {"model": absolute_model(self.model), **({"fingerprint": found} if found else {})}
        labels = {} if self.labels is None else {"labels": self.labels.config()}
        return {**model, "samples": samples, **data, **labels}

    def fingerprint(self) -> dict[str, str]:
        """What tells the model's files from others of the same name: {file: size and hash}."""
        return checkpoint_fingerprint(self.model)

    def read_samples(self) -> list[Sample]:
        """The samples asked for. Raises InputError where one is wrong, or two have one id."""
        source = self.samples if is_hub(self.samples) else Path(self.samples).absolute()
        found = read(source, self.data, self.media_root, answers=self.needs_answers, skip_bad=self.skip_bad)
        self.left_out, self.bad = found.left_out, found.bad
        chosen = self._shard(choose(found.samples, self.tasks, self.limit, self.shuffle_seed))
        names = groups_of(chosen) if self.labels is None else [*groups_of(chosen), *self.labels.groups]
        self.own_groups = sorted(set(names) - set(BASE_GROUPS))
        if type(self).load is Source.load:  # another way to load a model may add groups to it
            self.check_groups()
        return chosen

    def _shard(self, chosen: list[Sample]) -> list[Sample]:
        if self.shard is None:
            return chosen
        part, parts = parse_shard(self.shard)
        if len(chosen) < parts:
            raise InputError(f"shard {self.shard} of {len(chosen)} samples: make no more shards than there are samples")
        return chosen[part - 1 :: parts]

    @property
    def named_groups(self) -> list[str]:
        """What the experiment names: groups, aliases, sums."""
        return []

    def check_groups(self) -> None:
        """Raises InputError where the experiment names a group that neither avflow nor a label has, before a model is
        loaded."""
        table = GroupTable()
        self.declare(table)
        for name in self.named_groups:
            table.members(name)

    def declare(self, table: GroupTable) -> None:
        """Adds the groups of labels to a model's."""
        for name in self.own_groups:
            table.add(name)

    def prompt_of(self, model: Model, sample: Sample) -> Prompt:
        """The sample as the model reads it, with the labels asked for."""
        labels = {} if self.labels is None else {"labels": self.labels}
        return model.prepare(sample, **self.media, **labels)

    def load(self) -> Model:
        """The model, on its device."""
        return models.load(self.model, device=self.device, dtype=self.dtype)

    def check_source(self) -> None:
        """The door: "~" in paths is expanded here, once. Raises InputError for a value that no sample could go with."""
        self.model = checks.expanded("model", self.model)
        if not is_hub(self.samples):
            self.samples = checks.path("samples", self.samples)
        if self.data is not None:
            mapping_of(self.data)
        if self.media_root is not None:
            self.media_root = checks.path("media", self.media_root)
        self.labels = Labels.of(self.labels)
        self.tasks = checks.texts("task", self.tasks)
        check_prepare_options(self.media)
        self.skip_bad = checks.flag("skip_bad", self.skip_bad)
        if self.shard is not None:
            parse_shard(self.shard)
        if self.limit is not None:
            self.limit = checks.integer("limit", self.limit, low=1, mend="give a number of samples, 1 or more")
        if self.shuffle_seed is not None:
            self.shuffle_seed = checks.integer("shuffle_seed", self.shuffle_seed, low=-(2**63))


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n". Raises InputError."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", checks.text("shard", text))
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"shard {checks.shown(text)}: write i/n, such as 1/4, the first of four parts")
    return int(found[1]), int(found[2])


def digest(sample: Sample) -> str:
    """Changes when the sample's text or paths do. Only of what is set: a field that Sample gains changes nothing."""
    there = sorted((k, v) for k, v in asdict(sample).items() if v is not None)
    return hashlib.sha256(repr(there).encode()).hexdigest()[:16]


def absolute_model(model: str) -> str:
    """A checkpoint folder's absolute path; a name as it is."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model
