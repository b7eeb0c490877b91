"""A user's function that says which tokens of a prompt belong to groups of their own; from Python, or from a file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import checks
from ..documents import read_text
from ..errors import AvflowError, InputError
from ..fingerprints import of_file
from .groups import MAX_GROUPS, GroupTable, check_group_name
from .label import Label
from .prompt import Prompt
from .relabel import Decode, relabel, rename

_FORM = "file.py:function"


@dataclass(frozen=True)
class Labels:
    """A labelling function and the groups that it gives.

    Args:
        function: (prompt, sample) -> None for no change; a name or None for every token; {group: positions}; or a list
            of labels as a line of samples has them (dicts, see `Sample.labels`). sample: None where a Prompt was made
            without one.
        groups: the names that it gives, without those of avflow. Named before anything runs, so that knockouts of
            unknown groups are refused before a model is loaded.
        source: "file.py:function" where it was read from there.

    Raises:
        InputError: no function, names that no group can have.
    """

    function: Callable[[Prompt, Any], Any]
    groups: tuple[str, ...] = ()
    source: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(f'labels = {checks.shown(self.function)}: pass a function, or "{_FORM}"')
        names = tuple(checks.texts("the groups of labels", self.groups))
        for name in names:
            check_group_name(name)
        if len(names) > MAX_GROUPS:
            raise InputError(f"labels name {len(names)} groups: {MAX_GROUPS} are the most")
        object.__setattr__(self, "groups", names)

    @classmethod
    def of(cls, value: Any) -> Labels | None:
        """From Labels, a function (its attribute `groups` names what it gives), or "file.py:function"; None of None.

        Raises:
            InputError: another form; a file that cannot be read or run, or has no such function.
        """
        if value is None or isinstance(value, Labels):
            return value
        if isinstance(value, (str, Path)):
            return cls.read(str(value))
        if not callable(value):
            raise InputError(f'labels = {checks.shown(value)}: pass a function, avflow.Labels, or "{_FORM}"')
        return cls(value, _groups_of(value, None, getattr(value, "__name__", "the function")))

    @classmethod
    def read(cls, source: str) -> Labels:
        """The function of "file.py:function"; its groups are the file's list GROUPS, or the function's attribute.

        Raises:
            InputError: a file that cannot be read or run, or has no such function.
        """
        file, colon, name = checks.text("labels", source).rpartition(":")
        if not colon or not name.isidentifier() or not file.endswith(".py"):
            raise InputError(f'labels = {checks.shown(source)}: write "{_FORM}", such as "marks.py:objects"')
        path = checks.path("labels", file).absolute()
        module = _run(path)
        function = getattr(module, name, None)
        if not callable(function):
            raise InputError(f"{path} has no function {name!r}: name one that takes (prompt, sample)")
        return cls(function, _groups_of(function, module, f"{path.name}:{name}"), f"{path}:{name}")

    def __reduce__(self) -> tuple[Any, ...]:
        """A function of a file is read again where it is unpickled: a worker has not run the file."""
        return (Labels.read, (self.source,)) if self.source else (Labels, (self.function, self.groups))

    def config(self) -> dict[str, Any]:
        """What stands in a run's config.yaml: another content of the file is another run."""
        name = getattr(self.function, "__qualname__", repr(self.function))
        file = None
        if self.source:
            file = Path(self.source.rpartition(":")[0])
        else:
            code = getattr(self.function, "__code__", None)
            file = Path(code.co_filename) if code is not None and Path(code.co_filename).is_file() else None
        return {
            "function": name,
            "groups": list(self.groups),
            **({} if file is None else {"file": file.name, "fingerprint": of_file(file)}),
        }

    def declare(self, table: GroupTable) -> None:
        """Adds its groups to a model's."""
        for name in self.groups:
            table.add(name)

    def apply(self, prompt: Prompt, table: GroupTable, decode: Decode) -> Prompt:
        """The prompt as the function labels it.

        Raises:
            InputError: the function fails, changes the prompt, or gives what is no labels of this prompt, or a group
                that it does not name.
        """
        self.declare(table)
        where = f"prompt {prompt.id!r}: its labels"
        own = list(prompt.groups), list(prompt.items)
        try:
            given = self.function(prompt, prompt.sample)
        except AvflowError:
            raise
        except Exception as error:
            raise InputError(f"{where}: the function failed with {type(error).__name__}: {error}") from error
        if (list(prompt.groups), list(prompt.items)) != own:
            prompt.groups, prompt.items = own
            raise InputError(
                f"{where}: the function changed the prompt's own groups or items: leave them, and return what they are "
                "to be, a name or None for every token"
            )
        if given is None:
            return prompt
        if isinstance(given, Mapping):
            given = [Label(group, tokens=at) for group, at in given.items() if not _empty(at)]
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
            raise InputError(
                f"{where} are {checks.shown(given)}: give a name or None for every token, {{group: positions}}, or a "
                "list of labels"
            )
        if given and all(name is None or isinstance(name, str) for name in given):
            self._check({name for name in given if name is not None}, table, where)
            return rename(prompt, given, table)
        labels = [Label.of_value(one) for one in given]
        self._check({label.group for label in labels}, table, where)
        return relabel(prompt, labels, table, decode)

    def _check(self, names: set[str], table: GroupTable, where: str) -> None:
        if unknown := sorted(name for name in names if name not in table):
            raise InputError(
                f"{where} name the group {unknown[0]!r}, which is not among its groups {list(self.groups)}: add it "
                'there (GROUPS = ["..."] in the file)'
            )


def apply_labels(prompt: Prompt, hook: Labels | None, table: GroupTable, decode: Decode) -> Prompt:
    """A sample's prompt with the labels that its sample holds, and then those of `hook`. Raises InputError."""
    sample = prompt.sample
    if sample is not None and sample.labels:
        prompt = relabel(prompt, [Label.of_value(one) for one in sample.labels], table, decode)
    return prompt if hook is None else hook.apply(prompt, table, decode)


def _empty(positions: Any) -> bool:
    found = checks.members(positions, 1)
    return found is not None and not found


def _groups_of(function: Any, module: Any, name: str) -> tuple[str, ...]:
    groups = getattr(function, "groups", None)
    groups = getattr(module, "GROUPS", None) if groups is None else groups
    if groups is None:
        mend = 'pass avflow.Labels(function, ["object"])' if module is None else 'write GROUPS = ["object"] in the file'
        raise InputError(f"labels: {name} does not say which groups it gives: {mend}")
    return tuple(checks.texts(f"the groups of {name}", groups))


def _run(path: Path) -> Any:
    """The file as a module of its own."""
    read_text(path, "the file of labels")  # its errors are ours
    spec = importlib.util.spec_from_file_location(f"avflow_labels_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"cannot read the file of labels {path}: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"the file of labels {path} fails with {type(error).__name__}: {error}") from error
    return module
