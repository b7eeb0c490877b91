"""What a model is made of, and whether avflow's runs of it are its own: `avflow doctor MODEL`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ..errors import AvflowError

if TYPE_CHECKING:
    import torch

    from ..models.base import Model
    from ..prompts.prompt import Prompt

# A made prompt: some of its words play a video of four frames. Every group is there that a decoder treats alike.
GROUPS = ("system", "video", "question_text", "template", "last")
COUNTS = (4, 24, 16, 3, 1)
WORDS = "Which of the colors is seen first, the red one or the blue, and what is heard while it moves to the right? "


def examine_model(
    name: str, device: str = "cpu", dtype: str = "float32", weights: bool | None = None
) -> dict[str, Any]:
    """Sections as of `doctor.examine`: `model`, `structure`, `runs`, and `problems`, empty where the model is served.

    Args:
        name: a checkpoint folder, a small model's name, a hub name.
        weights: True: load them, of a hub name too; False: config.json alone; None: load those of a folder, where they
            fit the memory.
    """
    from ..models.loading import read_config
    from ..models.unloaded import family_or_none, inventory, local, unloaded

    problems: list[str] = []
    facts: dict[str, Any] = {"problems": problems}
    try:
        empty = unloaded(name)
        if family_or_none(read_config(local(name), {})) is None:
            kind = getattr(empty.hf.config, "model_type", None)
            problems.append(
                f"no family serves model type {kind!r}, so avflow.load refuses it: write one (docs/models.md, adding a "
                "family); what follows is of its decoder"
            )
        facts["model"] = inventory(empty)
        facts["structure"] = {"verdict": _structure(empty, name)}
        facts["runs"] = _runs(name, empty, device, dtype, weights, problems)
    except AvflowError as error:
        problems.append(f"{name}: {error}")
        facts.setdefault("model", {"verdict": "refused"})
    return facts


def _structure(model: Model, name: str) -> str:
    """Raises AvflowError where the decoder is none that avflow serves, as far as its layers and masks tell."""
    import torch

    from ..models.unloaded import check_structure
    from ..walk.layers import layer_input

    check_structure(model, name)
    layer_input(model, torch.zeros(1, sum(COUNTS), model.config.hidden_size, device="meta", dtype=model.dtype), None)
    return f"full causal attention, rotary tables, nothing else between its layers, on {sum(COUNTS)} tokens"


def _runs(
    name: str, empty: Model, device: str, dtype: str, weights: bool | None, problems: list[str]
) -> dict[str, str]:
    from ..models.proof import described, figures

    if weights is None and (why := _left_out(name, empty, device, dtype)):
        return {"verdict": f"not run: {why}"}
    if weights is False:
        return {"verdict": "not run: --no-weights"}
    model = _loaded(name, empty, device, dtype)
    prompt = made_prompt(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        difference, bound = compare(model, prompt)
    check = figures(model)
    assert check is not None
    found = {
        "clean runs beside its own forward": described(check),
        "a group cut in all layers beside evicted": f"{difference:.1e} in a logit at most (bound {bound:.1e})",
    }
    if not difference <= bound:
        problems.append(
            f"{name}: a group that is cut from all others in all layers, and the same group evicted before layer 0, "
            f"differ by {difference:.3g} in a logit, where {bound:.3g} is the bound: something other than attention "
            "moves information between tokens"
        )
    return {"verdict": "exact" if difference <= bound else "not exact", **found}


def _left_out(name: str, empty: Model, device: str, dtype: str) -> str:
    """Why the weights are not loaded; "" where they are."""
    import torch

    from ..models.unloaded import local, weight_bytes
    from ..walk.memory import available_bytes

    size = weight_bytes(local(name))
    if size is None:
        return "its weights are not here; --weights loads them from the hub"
    wide = {"float32": 4, "auto": 0}.get(dtype, 2) * sum(p.numel() for p in empty.hf.parameters())
    needed, spare = wide or size, available_bytes(torch.device(device))
    if needed > spare:
        return (
            f"{needed / 2**30:.1f} GiB of weights, and {spare / 2**30:.1f} GiB to spare: pass a smaller --dtype, "
            "another --device, or --weights"
        )
    return ""


def _loaded(name: str, empty: Model, device: str, dtype: str) -> Model:
    """By avflow.load; a model that no family serves by its own class."""
    from ..models import load
    from ..models.base import Family, Model
    from ..models.complete_load import load_complete
    from ..models.unloaded import local

    if type(empty.family) is not Family:
        return load(name, device=device, dtype=dtype)
    hf = load_complete(type(empty.hf), local(name), dtype, device, {})
    return Model(hf.eval(), Family())


def made_prompt(model: Model) -> Prompt:
    """A prompt of 48 tokens that any decoder reads: words, or ids from the middle of the vocabulary."""
    import torch

    from ..prompts.prompt import Prompt

    count = sum(COUNTS)
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    ids: list[int] = [] if tokenizer is None else tokenizer(WORDS * count, add_special_tokens=False)["input_ids"]
    if len(ids) < count:
        ids = (model.vocab // 3 + torch.arange(count) * 7 % max(model.vocab // 3, 1)).tolist()
    groups = [name for name, n in zip(GROUPS, COUNTS, strict=True) for _ in range(n)]
    first = groups.index("video")
    items = [(at - first) // 6 if group == "video" else -1 for at, group in enumerate(groups)]
    return Prompt(input_ids=torch.tensor(ids[:count]), groups=groups, items=items, answer_ids=[ids[0]], id="made")


def compare(model: Model, prompt: Prompt) -> tuple[float, float]:
    """Runs every way to run a prompt, each of which proves itself on its clean run; then a group cut for good in three.

    Returns:
        the largest difference of the last token's logits between: the group evicted before layer 0; cut from all others
        in all layers, in the model's own forward; and of the answer's log-probability, the same in a walk. The bound.

    Raises:
        AvflowError: a decoder that is refused; a clean run that is not the model's own.
    """
    import torch

    from ..experiments.attention_share import attention_share
    from ..experiments.sweep import sweep
    from ..models.inputs import forward_inputs
    from ..models.proof import figures
    from ..runtime.evict import evict
    from ..runtime.knockout import knockout

    cut = f"video->{'+'.join(name for name in GROUPS if name != 'video')}"
    answer = prompt.answer_ids[0]

    def logits(block: Any) -> torch.Tensor:
        with torch.no_grad(), block:
            found: torch.Tensor = model.hf(**forward_inputs(model, prompt)).logits[0, -1].float()
            return found

    rows = sweep(model, prompt, cut, window=1, style="top_down", layers=[0], select="all", check="error")
    attention_share(model, prompt, layers=[0], check="error")
    gone = logits(evict(model, {"video": -1}, groups=prompt, check="error"))
    hidden = logits(knockout(model, cut, groups=prompt, check="error"))
    check = figures(model)
    assert check is not None  # four runs were compared
    walked = rows.table["logp_knockout"][0].as_py()
    apart = [float((gone - hidden).abs().max()), abs(walked - float(hidden.log_softmax(-1)[answer]))]
    return max(apart), check["bound"]
