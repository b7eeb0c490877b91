"""The models of avflow-models against their own forward, on a made clip: what `avflow doctor` runs."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from .. import weights


def checked_models(problems: list[str]) -> dict[str, str]:
    """A line a model: how near a sweep and the two blocks came to its own forward; `problems` gets what went wrong."""
    from ..prompts.sample import Sample
    from ..synthetic import make_items, write_items

    if weights.installed() is None:
        return {"models": f"not run, the package avflow-models is not installed: {weights.GET}"}
    if (wrong := weights.other_series()) is not None:
        problems.append(wrong)
        return {"models": "not run, see the problems"}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            samples = write_items(make_items("heldout", 1, tasks=("color",)), Path(folder))
            (sample,) = Sample.read_jsonl(samples)
        except Exception as error:  # whatever a codec that does not work raises
            return {"models": f"not run, a clip cannot be made ({type(error).__name__}: {error})"}
        for name in weights.NAMES:
            try:
                found[name] = _checked(name, sample)
            except Exception as error:  # of a broken installation anything may come
                found[name] = "failed"
                problems.append(f"{name} of avflow-models does not run as it should ({type(error).__name__}: {error})")
    return found


def _checked(name: str, sample: Any) -> str:
    import torch

    from ..experiments.sweep import sweep
    from ..models import load
    from ..models.inputs import forward_inputs
    from ..models.proof import described, figures
    from ..runtime.evict import evict
    from ..runtime.knockout import knockout

    model = load(name)
    prompt = model.prepare(sample)
    cut = "video->question"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sweep(model, prompt, cut, layers=[0], select="all")
        for block in (knockout(model, cut, groups=prompt), evict(model, {"video": 0}, groups=prompt)):
            with torch.no_grad(), block:
                model.hf(**forward_inputs(model, prompt))
    check = figures(model)
    assert check is not None  # each of the three was compared
    return described(check)
