"""Options that the end-to-end benchmarks on a device share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.lib.decoders import SHAPES


def device_parser(description: str | None, lengths: Sequence[int]) -> argparse.ArgumentParser:
    """--device, --shape, --tokens, --seconds and --json; lengths: the prompts' tokens where --tokens is left out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["3b", "7b"])
    parser.add_argument("--tokens", type=int, nargs="+", default=list(lengths), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all steps")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    return parser
