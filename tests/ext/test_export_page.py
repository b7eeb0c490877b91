"""docs/export.md: its blocks run in their order; the schemas on the ops' page are those that are registered."""

import re
import shutil
from pathlib import Path

import pytest
import torch

import avflow_ext  # noqa: F401

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCKS = re.findall(r"^```python\n(.*?)^```", (DOCS / "export.md").read_text(), re.S | re.M)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_the_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there: dict = {}
    assert len(BLOCKS) == 4
    quick = 'dynamic=True, backend="aot_eager")'  # one compilation by inductor, that of the package, is enough here
    assert "fullgraph=True, dynamic=True)" in BLOCKS[1]
    for block in BLOCKS:
        with torch.no_grad():
            exec(compile(block.replace("dynamic=True)", quick), "export.md", "exec"), there)
    assert (tmp_path / "layer-aoti.pt2").stat().st_size > 1000
    # Another length, and a cut that is there: without it the rows of the question would see the video.
    q, k, v, tokens = given = there["inputs"](50)
    uncut = torch.ops.avflow.attention(
        q, k, v, torch.ops.avflow.pack(tokens, *avflow_ext.cut_columns([]), 8, 2), 64**-0.5, 50, 0, False
    )[0]
    out = there["loaded"](*given)
    assert torch.equal(out[:25], uncut[:25]) and not torch.allclose(out[25:], uncut[25:])


def test_the_schemas_on_the_page_are_those_that_are_registered():
    page = re.sub(r"\s+", " ", (DOCS / "the-op.md").read_text())
    for name in ("attention", "pack", "gather_rms_norm", "compact"):
        assert str(getattr(torch.ops.avflow, name).default._schema).replace("avflow::", "") in page, name
