"""A sweep against one clean forward, and against one dense-mask forward per knockout.

    python benchmarks/sweep.py [--json FILE] [--shape 12x512x2048 ...] [--repeats 5]
    python benchmarks/sweep.py --media           knockouts whose targets lie in the media instead of after it
    python benchmarks/sweep.py --memory          peak memory at 8k, 16k and 32k tokens
    python benchmarks/sweep.py --device cuda --shape 3b 7b --tokens 10240 32768 --seconds 120 --json FILE
                                                 decoders of Qwen2.5's sizes in bf16: sweep_cuda.py

Random weights, random embeddings, fp32, in one process; repeats are interleaved and the best of each is taken. Peers:
(a) transformers' own decoder with sdpa, and lm_head on the last row only;
(b) the same decoder with sdpa and a dense N x N mask, one forward per knockout: a few are timed, and multiplied by the
    number of knockouts x windows. Other tools do this (and encode the media anew each time, left out here).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from timing import machine, write_json

import avflow
from avflow.knockouts.presets import as_knockouts
from avflow.models.attention import kernel_name
from avflow.models.compat import declare_torchvision

AFTER_MEDIA = [k for k in as_knockouts("av_video") if "cross" not in k.name and "<->" not in k.name]
IN_MEDIA = [k for k in as_knockouts("av_video") if k not in AFTER_MEDIA]
GOAL = 1.25  # sweep / clean forward, over the ratio of packed rows to clean rows
DENSE_TIMED = 2
SHAPES = ("12x512x2048", "28x256x4096")
QUESTION = 48  # tokens of question and options


def make_model(layers: int, hidden: int) -> avflow.Model:
    """A Qwen2 decoder with the proportions of Qwen2.5: head_dim 64, 4 query heads per key head, MLP 5.4 x hidden."""
    declare_torchvision()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    heads = hidden // 64
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=hidden,
        intermediate_size=-(-hidden * 43 // 8 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        max_position_embeddings=65536,
        attn_implementation="sdpa",
    )
    return avflow.wrap(Qwen2ForCausalLM(config).eval())


def make_prompt(model: avflow.Model, tokens: int, question: int = QUESTION) -> avflow.Prompt:
    """System text, interleaved video and audio, `question` tokens of question and four options, last."""
    media = tokens - question - 13
    groups, items = ["system"] * 12, [-1] * 12
    for i in range(media):
        chunk, at = divmod(i, 100)
        groups.append("video" if at < 75 else "audio")
        items.append(4 * chunk + (at // 19 if at < 75 else 0))
    groups += ["question_text"] * (question - 16)
    items += [-1] * (question - 16)
    for option in range(4):
        groups += ["option_correct" if option == 1 else "option_incorrect"] * 4
        items += [option] * 4
    groups, items = [*groups, "last"], [*items, -1]
    embeds = torch.randn(len(groups), model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    return avflow.Prompt(inputs_embeds=embeds, groups=groups, items=items, answer_ids=[7], id="bench")


@torch.no_grad()
def clean_forward(model: avflow.Model, prompt: avflow.Prompt, mask=None) -> torch.Tensor:
    """Logits [vocab] of the last row, by the transformers decoder."""
    out = model.text_model(inputs_embeds=prompt.inputs_embeds[None], attention_mask=mask, use_cache=False)
    return model.lm_head(out.last_hidden_state[:, -1:])[0, 0]


def dense_mask(model: avflow.Model, prompt: avflow.Prompt) -> torch.Tensor:
    """bool [1, 1, N, N] for video->question; a peer that masks by window would build a second one for other layers."""
    n = len(prompt)
    open_ = torch.ones(n, n, dtype=torch.bool).tril()
    rows = torch.tensor([g.startswith(("question", "option")) for g in prompt.groups])
    keys = torch.tensor([g == "video" for g in prompt.groups])
    return (open_ & ~(rows[:, None] & keys[None, :]))[None, None]


def timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(shape: str, repeats: int, knockouts: list) -> dict:
    layers, hidden, tokens = (int(part) for part in shape.split("x"))
    model = make_model(layers, hidden)
    prompt = make_prompt(model, tokens)
    request = avflow.SweepRequest(knockouts, select="all")
    plan = avflow.estimate(model, prompt, request)
    # The sweep's clean row is the forward's: the two sides of the comparison compute one thing.
    ours = avflow.sweep_prompt(model, prompt, request).rows[0]["logp_clean"]
    theirs = float(torch.log_softmax(clean_forward(model, prompt), -1)[prompt.answer_ids[0]])
    assert abs(ours - theirs) < 1e-3, (ours, theirs)
    clean, sweep, dense = [], [], []
    mask = dense_mask(model, prompt)
    for repeat in range(repeats):
        clean.append(timed(lambda: clean_forward(model, prompt)))
        sweep.append(timed(lambda: avflow.sweep_prompt(model, prompt, request)))
        if repeat < DENSE_TIMED:
            dense.append(timed(lambda: clean_forward(model, prompt, {"full_attention": mask})))
    runs = len(request.knockouts) * layers
    ratio = min(sweep) / min(clean)
    return {
        "shape": {
            "layers": layers,
            "hidden": hidden,
            "heads": f"{model.n_heads}/{model.n_kv_heads}",
            "tokens": tokens,
            "question": QUESTION,
        },
        "knockouts": len(request.knockouts),
        "knocked_out_runs": runs,
        "clean_seconds": min(clean),
        "sweep_seconds": min(sweep),
        "dense_mask_seconds_each": min(dense),
        "dense_mask_runs_timed": len(dense),
        "packed_row_ratio": plan["ratio"],
        "flop_ratio": plan["flops"] / plan["clean_flops"],
        "sweep_over_clean": ratio,
        "over_packed_rows": ratio / plan["ratio"],
        "dense_mask_over_sweep": min(dense) * runs / min(sweep),
    }


def table(results: list[dict]) -> str:
    lines = [
        f"{'layers x hidden, tokens':<26}{'runs':>6}{'packed rows':>13}{'sweep/clean':>13}{'quotient':>10}"
        f"{'dense masks / sweep':>21}"
    ]
    for r in results:
        shape = f"{r['shape']['layers']} x {r['shape']['hidden']}, {r['shape']['tokens']}"
        lines.append(
            f"{shape:<26}{r['knocked_out_runs']:>6}{r['packed_row_ratio']:>12.2f}x{r['sweep_over_clean']:>12.2f}x"
            f"{r['over_packed_rows']:>10.2f}{r['dense_mask_over_sweep']:>20.0f}x"
        )
    lines.append(
        f"quotient: (sweep / clean forward) / (packed rows / clean rows); goal at most {GOAL}. dense masks: "
        f"{DENSE_TIMED} forwards timed, multiplied by the number of runs."
    )
    return "\n".join(lines)


def peak_memory(tokens: int) -> None:
    """One sweep at `tokens` tokens; prints the peak resident set in this process, before and with the sweep."""
    model = make_model(3, 256)
    prompt = make_prompt(model, tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    knockouts = ["cross:video", "video->question", "question->last"]  # the first re-runs nearly all rows
    began = time.perf_counter()
    rows = avflow.sweep_prompt(model, prompt, avflow.SweepRequest(knockouts, window=1, layers=1, select="all"))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"tokens": tokens, "before_mib": before, "peak_mib": peak, "walks": rows.info["walks"], "seconds": seconds}
    print(json.dumps(result))


def memory_mode() -> list[dict]:
    """A fresh process per size, since a peak never falls."""
    out = []
    for tokens in (8192, 16384, 32768):
        command = [sys.executable, __file__, "--peak-of", str(tokens)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        out.append(json.loads(text.strip().splitlines()[-1]))
        r = out[-1]
        used = r["peak_mib"] - r["before_mib"]
        print(
            f"{tokens:>6} tokens: peak {r['peak_mib']:.0f} MiB, {used:.0f} MiB of it the sweep "
            f"({1024 * used / tokens:.1f} KiB a token); an N x N fp32 matrix would take {tokens**2 / 2**18:.0f} MiB"
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    parser.add_argument("--shape", nargs="+", default=SHAPES, metavar="LAYERSxHIDDENxTOKENS")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, nargs="+", help="of the shapes 3b and 7b")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all steps of the shapes 3b and 7b")
    parser.add_argument("--media", action="store_true", help="targets in the media: every run re-runs the media rows")
    parser.add_argument("--memory", action="store_true", help="peak memory at 8k, 16k and 32k tokens instead")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" or not all(shape[0].isdigit() and "x" in shape for shape in args.shape):
        import sweep_cuda

        shapes = ("3b", "7b") if args.shape is SHAPES else args.shape
        sys.exit(sweep_cuda.main(args.device, shapes, args.tokens, args.json, args.seconds))
    if args.peak_of:
        return peak_memory(args.peak_of)
    if args.memory:
        results = memory_mode()
    else:
        print(f"{machine()}, fp32, kernel {kernel_name(torch.device('cpu'))}")
        knockouts = IN_MEDIA if args.media else AFTER_MEDIA
        results = [measure(shape, args.repeats, knockouts) for shape in args.shape]
        print(table(results))
    write_json(args.json, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
