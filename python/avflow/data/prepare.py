"""Whatever an experiment is given (samples, prompts, a file of samples), as prompts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..checks import choice, flag, integer, path, shown
from ..errors import AvflowError, InputError
from ..prompts.groups import GroupTable
from ..prompts.label_hook import Labels
from ..prompts.prompt import Prompt
from ..prompts.sample import Sample
from .ahead import MOST_THREADS, ahead
from .dataset import Dataset, read
from .rows import is_hub

# What every experiment takes for its prompts.
PromptSource: TypeAlias = "Prompt | Sample | Dataset | Iterable[Prompt | Sample] | str | Path"
ON_ERROR = ("raise", "record")
_MEND = "pass avflow.Prompt or avflow.Sample, one or several, or the path of a samples file"


class Preparing(Protocol):
    """A model, as far as prompts are concerned."""

    groups: GroupTable

    def prepare(self, sample: Sample, labels: Any = None) -> Prompt: ...

    def text(self, ids: list[int]) -> str: ...


class Prompts:
    """Prompts to go through. A sample is prepared when its turn comes, and anew in every pass.

    Attributes:
        count: how many there are; None where only the last pass will tell (a generator).
        threads: so many samples are prepared ahead of their turn; 0: none.
        failed: of the last pass, {id: reason} of samples that could not be prepared, where `record` asks for it.
    """

    def __init__(
        self,
        model: Preparing,
        given: Iterable[Any],
        threads: int = 0,
        record: bool = False,
        answers: bool = True,
        labels: Labels | None = None,
    ) -> None:
        self.model, self.given, self.threads, self.record, self.answers = model, given, threads, record, answers
        self.labels = labels
        self.count = _length(given)
        self.failed: dict[str, str] = {}

    def unprepared(self) -> Iterator[Prompt | Sample]:
        """What was given, after a check.

        Raises:
            InputError: none at all, something that is no prompt and no sample, two of one id, or one without the
                answer that is asked for.
        """
        seen: set[str] = set()
        for one in self.given:
            _check(one, seen)
            if self.answers and isinstance(one, Prompt):
                one.check_answered()
            yield one
        if not seen:
            raise InputError(f"no prompts are given ({shown(self.given)} is empty): {_MEND}")

    def only(self, ids: Collection[str]) -> Prompts:
        """Those of these ids; the others are not prepared."""
        those = [one for one in self.given if one.id in ids]
        return Prompts(self.model, those, self.threads, self.record, self.answers, self.labels)

    def __iter__(self) -> Iterator[Prompt]:
        self.failed = {}
        given = self.unprepared()
        for id, prompt in ahead(self._prepared, given, self.threads) if self.threads else map(self._prepared, given):
            if isinstance(prompt, Exception):
                self.failed[id] = reason(prompt)
            else:
                yield prompt

    def _prepared(self, one: Prompt | Sample) -> tuple[str, Prompt | Exception]:
        """The prompt, or with `record` why there is none."""
        if isinstance(one, Prompt) and self.labels is None:
            return one.id, one
        try:
            return one.id, _labelled(self.model, one, self.labels)
        except Exception as error:
            if not self.record:
                raise
            return one.id, error


def _labelled(model: Preparing, one: Prompt | Sample, labels: Labels | None) -> Prompt:
    """What was given as a prompt, as `labels` say."""
    if isinstance(one, Sample):
        return model.prepare(one) if labels is None else model.prepare(one, labels=labels)
    return one if labels is None else labels.apply(one, model.groups, model.text)


def reason(error: Exception) -> str:
    """An error on one line, with its type where it is not one of avflow's."""
    name = "" if isinstance(error, AvflowError) else f"{type(error).__name__}: "
    return " ".join(f"{name}{error}".split())


def as_prompts(
    model: Preparing,
    given: Any,
    again: bool = False,
    threads: int = 0,
    on_error: str = "raise",
    answers: bool = True,
    labels: Any = None,
) -> Prompts:
    """Prompts from a Prompt or a Sample, from several of them (any iterable), or from a samples file.

    Args:
        given: a str or Path goes through avflow.data.read, with columns called as a Sample's fields. What an iterator
            gives is taken one by one, and none is kept.
        again: several passes will be made: what an iterator gives is kept (samples are light, media are read later).
        threads: so many samples are prepared ahead of their turn; 0: none.
        answers: False: prompts, and the samples of a file, need none.
        on_error: "raise", or "record": a sample that cannot be prepared is left out, its reason is in `failed`.
        labels: a labelling function, as of `Model.prepare`; of prompts too. Its groups, and those that samples' labels
            name, are added to the model's here; of an iterator's samples, as their turn comes.

    Raises:
        InputError: None, nothing at all, something else, two of one id, no such file. Of an iterator the same is
            raised where its turn comes.
    """
    integer("decode_threads", threads, high=MOST_THREADS)
    record = choice("on_error", on_error, ON_ERROR) == "record"
    answers = flag("answers", answers)
    hook = Labels.of(labels)
    if hook is not None:
        hook.declare(model.groups)
    prompts = Prompts(model, _several(given, answers), threads, record, answers, hook)
    if again and not isinstance(prompts.given, Sequence):
        prompts = Prompts(model, list(prompts.given), threads, record, answers, hook)
    if isinstance(prompts.given, Sequence):
        for one in prompts.unprepared():
            for name in groups_of([one] if isinstance(one, Sample) else ()):
                model.groups.add(name)
    return prompts


def groups_of(samples: Iterable[Sample]) -> list[str]:
    """The groups that samples' own labels name, sorted."""
    return sorted({label["group"] for sample in samples for label in sample.labels or ()})


def as_prompt(model: Preparing, given: Any, answers: bool = True, labels: Any = None) -> Prompt:
    """The one prompt that is given: as `as_prompts`, but for several of them an InputError too."""
    prompts = as_prompts(model, given, answers=answers, labels=labels)
    found: list[Prompt | Sample] = []
    for one in prompts.unprepared():
        found.append(one)
        if len(found) > 1:
            many = "several" if prompts.count is None else prompts.count
            raise InputError(f"one prompt is looked at, {many} are given: pass one of them")
    return _labelled(model, found[0], prompts.labels)


def _several(given: Any, answers: bool = True) -> Iterable[Any]:
    if isinstance(given, (Prompt, Sample)):
        return [given]
    if isinstance(given, (str, Path)):
        if not is_hub(given) and not path("prompts", given).exists():
            raise InputError(f"no samples at {str(given)!r}: no such file or folder; {_MEND}")
        return read(given, answers=answers).samples
    if isinstance(given, Dataset):
        return given.samples
    if given is None or isinstance(given, (Mapping, bytes)) or not _goes_through(given):
        raise InputError(f"prompts = {shown(given)} ({type(given).__name__}): {_MEND}")
    return given


def _length(given: Iterable[Any]) -> int | None:
    try:
        return len(given) if isinstance(given, Sized) else None
    except TypeError:  # a progress bar around a generator
        return None


def _goes_through(given: Any) -> bool:
    try:
        iter(given)
    except TypeError:
        return False
    return True


def _check(one: Any, seen: set[str]) -> None:
    if not isinstance(one, (Prompt, Sample)):
        raise InputError(f"prompt number {len(seen)} is {shown(one)} ({type(one).__name__}): {_MEND}")
    if one.id in seen:
        raise InputError(f"two prompts have the id {one.id!r}: give each its own, the rows go by it")
    seen.add(one.id)
