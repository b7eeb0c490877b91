"""Answer lens: what the last token would answer, read off its hidden state after every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..data.prepare import PromptSource, as_prompts
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..prompts.prompt import Prompt
from ..results.results import Results
from ..results.schemas import ANSWER_LENS as SCHEMA
from .observe import observe
from .under import Cutting, Knockouts, Layers

__all__ = ["SCHEMA", "answer_lens"]


@torch.no_grad()
def answer_lens(
    model: Model,
    prompts: PromptSource,
    layers: int | Sequence[int] | None = None,
    check: str | int | None = None,
    knockouts: Knockouts = None,
    cut_layers: Layers = None,
) -> Results:
    """Probability of the answer's first token and of the other options after every layer (logit lens).

    The hidden state of the last token goes through the model's own final norm and output matrix ("interpreting GPT:
    the logit lens", nostalgebraist 2020; Map the Flow, ICLR 2026, plots it for options). After the last layer it is
    the model's prediction. Code of that work multiplies by the input embeddings and leaves the norm out between
    layers: its figures differ from these.

    Args:
        prompts: as of `avflow.sweep`.
        layers: 0-based; None for all.
        check: as of `avflow.sweep`.
        knockouts, cut_layers: what is cut meanwhile, and in which layers (None for all); default: nothing.

    Returns:
        Results with the columns prompt, task, layer, token, token_id, kind ("answer" where the prompt has no options,
        else "true option" and "false option"), p, logp (natural), top (the most probable token).

    Raises:
        InputError: layers that the model does not have, no prompts, two of one id.
        NumericError: NaN or infinity in the run.
    """
    check_model(model)
    chosen = layer_list(layers, model.n_layers)
    cutting = Cutting(model, knockouts, cut_layers)
    rows: list[tuple] = []
    with checking(model, check):
        for prompt in as_prompts(model, prompts):
            answer = prompt.answer_ids[0]
            tokens = [answer] if prompt.option_ids is None else list(dict.fromkeys(prompt.option_ids))

            def see(
                layer: int,
                hidden: torch.Tensor,
                prompt: Prompt = prompt,
                answer: int = answer,
                tokens: list[int] = tokens,
            ) -> None:
                state = hidden[len(prompt) - 1][None, None]  # [1, 1, D]
                logp = torch.log_softmax(model.logits(state)[0, 0].float(), -1)  # [vocab]
                top = model.text([int(logp.argmax())])
                for token, value in zip(tokens, logp[tokens].tolist(), strict=True):
                    kind = "answer" if prompt.option_ids is None else f"{str(token == answer).lower()} option"
                    named = (prompt.id, prompt.task, layer, model.text([token]), token, kind)
                    rows.append((*named, math.exp(value), value, top))

            observe(model, prompt, on_hidden=see, layers=chosen, cuts=cutting)
    return Results.from_tuples("answer_lens", rows, layers=chosen, **cutting.meta(), check=figures(model))
