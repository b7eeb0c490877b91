"""What is patched in: the states of another run of the prompt's length or of another, or values that no run gives."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

from .. import checks
from ..data.dataset import read
from ..data.prepare import PromptSource, as_prompt
from ..errors import InputError
from ..models.base import Model
from ..models.blank import KINDS, blanked
from ..prompts.label_hook import Labels
from ..prompts.prompt import Prompt, with_answer_of
from ..prompts.sample import Sample
from ..walk.capture import Captured, capture
from ..walk.jobs import members

RUNS = ("blank", "noise", "prompts")  # kinds whose states come from a run
MOST = 1_000_000  # prompts


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PatchSource:
    """Where the states come from that `avflow.patch` puts in the place of others: call one of its constructors.

    Attributes:
        kind: "blank", "noise" or "prompts", which are another run; "zero", "mean" or "add", which are none.
        name: what the result table calls it.
    """

    kind: str
    name: str
    blanks: tuple[str, ...] = ()
    prompts: Any = None
    group: str = "media"
    sd: float | None = None
    times: float | None = None
    seed: int = 0
    vector: Any = None
    scale: float = 1.0

    @classmethod
    def silence(cls) -> PatchSource:
        """The same prompt with silence for all its sound."""
        return cls("blank", "silence", blanks=("silence",))

    @classmethod
    def black(cls) -> PatchSource:
        """The same prompt with black frames and images."""
        return cls("blank", "black", blanks=("black",))

    @classmethod
    def blank(cls) -> PatchSource:
        """The same prompt with silence and black pictures."""
        return cls("blank", "silence+black", blanks=KINDS)

    @classmethod
    def noise(
        cls, sd: float | None = None, times: float | None = None, group: str = "media", seed: int = 0
    ) -> PatchSource:
        """The same prompt with gaussian noise on the embeddings of a group (causal tracing, Meng et al. 2022).

        On what enters the first layer alone: features that a decoder adds behind later ones (deepstack) stay as they
        are.

        Args:
            sd: its standard deviation; or times: as so many standard deviations of those embeddings' own values (3 in
                that study). seed: each prompt's noise is drawn from this seed and its id.

        Raises:
            InputError: both or neither; a value out of range.
        """
        if (sd is None) == (times is None):
            raise InputError("noise takes sd=, or times= (of the embeddings' own standard deviation): pass one of them")
        sd = sd if sd is None else checks.number("noise: sd =", sd, above=True)
        times = times if times is None else checks.number("noise: times =", times, above=True)
        seed = checks.integer("noise: seed =", seed, high=2**31 - 1)
        size = f"sd {sd:g}" if sd is not None else f"{times:g} sd"
        group = checks.text("noise: group", group)
        return cls("noise", f"noise of {size} on {group}", sd=sd, times=times, group=group, seed=seed)

    @classmethod
    def of(cls, prompts: PromptSource | Callable[[Prompt], Any], name: str = "other") -> PatchSource:
        """Runs of other prompts: other media, frames of another clip, another question.

        Args:
            prompts: as many Samples or Prompts as are patched, in their order; {id of a prompt: its other}; or a
                function of a prompt. Their answers are not used. name: what the table calls them.
        """
        if isinstance(prompts, (str, Path)):
            prompts = read(prompts, answers=False).samples
        if not callable(prompts) and not isinstance(prompts, Mapping):
            prompts = [prompts] if isinstance(prompts, (Prompt, Sample)) else checks.members(prompts, MOST) or []
        return cls("prompts", checks.text("the source's name", name), prompts=prompts)

    @classmethod
    def zero(cls) -> PatchSource:
        """Zeros: zero ablation."""
        return cls("zero", "zero")

    @classmethod
    def mean(cls, prompts: PromptSource) -> PatchSource:
        """The mean of the site's states over its tokens in these prompts, layer by layer: mean ablation."""
        return cls("mean", "mean", prompts=prompts)

    @classmethod
    def add(cls, vector: Any, scale: float = 1.0, name: str = "steer") -> PatchSource:
        """The states themselves and `scale` times a vector: steering.

        Args:
            vector: [D], or [heads, d] for attention; of one for every layer [layers, ...]; or {layer: vector}.
        """
        if isinstance(vector, Mapping):
            vector = {checks.integer("add: layer", k): _finite(v) for k, v in vector.items()}
        else:
            vector = _finite(vector)
        scale = checks.number("add: scale =", scale, low=-1e30)
        name = checks.text("the source's name", name)
        return cls("add", name if scale == 1 else f"{name} x {scale:g}", vector=vector, scale=scale)

    @classmethod
    def parse(cls, text: str) -> PatchSource:
        """From "silence", "black", "silence+black", "zero", "noise 3" (standard deviations) or "noise sd=0.1".

        Raises:
            InputError: a text of another form.
        """
        text = checks.text("the source", text).strip()
        simple = {"silence": cls.silence, "black": cls.black, "zero": cls.zero}
        if text in simple:
            return simple[text]()
        if set(text.split("+")) == set(KINDS):
            return cls.blank()
        if found := re.fullmatch(r"noise\s+(sd=)?([0-9.eE+-]+)", text):
            try:
                size = float(found[2])
            except ValueError:
                size = -1.0
            return cls.noise(sd=size) if found[1] else cls.noise(times=size)
        raise InputError(
            f'source {text!r}: write "silence", "black", "silence+black", "zero", "noise 3" (standard deviations of '
            'the embeddings) or "noise sd=0.1", or pass an avflow.PatchSource'
        )

    @property
    def is_run(self) -> bool:
        return self.kind in RUNS

    def check(self, model: Model) -> None:
        """Raises InputError for a group that the model does not have."""
        model.groups.expand(self.group)

    def check_count(self, prompts: int | None) -> None:
        """Raises InputError where more other prompts are listed than the `prompts` that are patched."""
        if self.kind != "prompts" or prompts is None or callable(self.prompts) or isinstance(self.prompts, Mapping):
            return
        if len(self.prompts) > prompts:
            raise InputError(
                f"{len(self.prompts)} other prompts are given for {prompts} that are patched: give one for each, in "
                "their order, or {id of a prompt: its other}"
            )

    def run(self, model: Model, captured: Captured, number: int, labels: Labels | None = None) -> Captured:
        """The other run of a prompt, the `number`-th, labelled as it and asked for the prompt's own answer.

        Raises:
            InputError: there is none for this prompt.
        """
        prompt = captured.prompt
        if self.kind == "noise":
            return self._noised(model, captured)
        if self.kind == "blank":
            return capture(model, blanked(model, prompt, self.blanks))
        given = self._other(prompt, number)
        other = as_prompt(model, given, answers=False, labels=labels)
        if other is prompt or (isinstance(given, Sample) and given == prompt.sample):
            raise InputError(f"prompt {prompt.id!r} is given as its own other run: give one that differs")
        return capture(model, with_answer_of(other, prompt))

    def _other(self, prompt: Prompt, number: int) -> Any:
        if callable(self.prompts):
            return self.prompts(prompt)
        if isinstance(self.prompts, Mapping):
            if prompt.id not in self.prompts:
                raise InputError(f"no other run is given for prompt {prompt.id!r}: name one for every prompt")
            return self.prompts[prompt.id]
        if number >= len(self.prompts):
            raise InputError(
                f"{len(self.prompts)} other prompts are given, and prompt {prompt.id!r} is number {number + 1}: give "
                "one for every prompt, in their order"
            )
        return self.prompts[number]

    def _noised(self, model: Model, captured: Captured) -> Captured:
        held = torch.from_numpy(members(model.groups.expand(self.group), captured.columns.group)).nonzero()[:, 0]
        if not len(held):
            raise InputError(
                f"prompt {captured.prompt.id!r} has no token of {self.group!r}: noise goes on a group it has"
            )
        held = held.to(captured.hidden.device)
        own = captured.hidden[0].index_select(0, held).float()  # [n, D]
        sd = self.sd if self.sd is not None else (self.times or 0.0) * float(own.std())
        # By the prompt's id: the same noise whatever else is patched; on the CPU: the same on every device.
        seed = self.seed + crc32(captured.prompt.id.encode())
        drawn = torch.randn(own.shape, generator=torch.Generator().manual_seed(seed))
        noised = (own + sd * drawn.to(own.device)).to(captured.hidden.dtype)
        hidden = captured.hidden.clone()
        hidden[0].index_copy_(0, held, noised)
        return dataclasses.replace(captured, hidden=hidden, altered=True, nth=False)

    def steering(self, layer: int, n_layers: int, shape: Sequence[int]) -> torch.Tensor:
        """What is added in a layer, float32 of the shape [D] or [heads, d].

        Raises:
            InputError: a vector of another shape; a layer without one.
        """
        if isinstance(self.vector, dict):
            if layer not in self.vector:
                raise InputError(f"{self.name}: no vector is given for layer {layer}")
            found = self.vector[layer]
        else:
            each = self.vector.dim() == len(shape) + 1
            if each and len(self.vector) != n_layers:
                raise InputError(f"{self.name}: {len(self.vector)} vectors, the model has {n_layers} layers")
            found = self.vector[layer] if each else self.vector
        if tuple(found.shape) != tuple(shape):
            raise InputError(f"{self.name}: a vector of {tuple(found.shape)} is given, the states are {tuple(shape)}")
        return self.scale * found


def _finite(vector: Any) -> torch.Tensor:
    try:
        found = torch.as_tensor(vector).detach().float()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"vector = {checks.shown(vector)}: pass a tensor") from None
    if not bool(torch.isfinite(found).all()):
        raise InputError("the vector to add holds NaN or infinity: look at how it was made")
    return found


def as_source(value: Any) -> PatchSource:
    """A `PatchSource`, or one from its text form."""
    if isinstance(value, PatchSource):
        return value
    if not isinstance(value, str):
        raise InputError(f"source = {checks.shown(value)}: pass an avflow.PatchSource, or a text such as 'silence'")
    return PatchSource.parse(value)
