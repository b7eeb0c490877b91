"""A program of libtorch without Python runs a compiled decoder layer: tokens go in, rows leave, any number of them."""

import re
import subprocess

import pytest
import torch
from consumers import examples

import avflow_ext
from avflow_ext import Cut, Tokens, cut_columns, mask_of

# Half the time of a compilation, which is most of the test's.
QUICK = {"aot_inductor.precompile_headers": False, "aot_inductor.compile_wrapper_opt_level": "O0"}
HEADS, KV_HEADS, DEPTH, WIDTH = 8, 2, 64, 128


class Layer(torch.nn.Module):
    """Attention in which group 1 is cut from group 2, then rows leave before the feed-forward part."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(WIDTH, (HEADS + 2 * KV_HEADS) * DEPTH, bias=False)
        self.out = torch.nn.Linear(HEADS * DEPTH, WIDTH, bias=False)
        self.norm = torch.nn.Parameter(torch.ones(WIDTH))
        self.up, self.down = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(2 * WIDTH, WIDTH)
        for name, value in zip(("cuts", "cut_streams"), cut_columns([Cut(mask_of([1]), mask_of([2]))]), strict=True):
            self.register_buffer(name, value)

    def forward(self, x, tokens, keep):  # [n, width], [n, 4], [m]
        h = self.qkv(x).unflatten(1, (HEADS + 2 * KV_HEADS, DEPTH))
        q, k, v = h.split((HEADS, KV_HEADS, KV_HEADS), 1)
        problem = torch.ops.avflow.pack(tokens, self.cuts, self.cut_streams, HEADS, KV_HEADS)
        seen = torch.ops.avflow.attention(q, k, v, problem, DEPTH**-0.5, x.shape[0], 0, False)[0]
        x = x + self.out(seen.flatten(1))
        kept, normed = torch.ops.avflow.gather_rms_norm(x, self.norm, 1e-6, keep)
        return kept + self.down(torch.nn.functional.silu(self.up(normed)))


def inputs(n: int):
    tokens = Tokens(range(n), [1 if i < n * 3 // 4 else 2 for i in range(n)])
    keep = torch.tensor([i for i in range(n) if i % 3 == 0 or i > n * 3 // 4], dtype=torch.int32)
    x = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n))
    return x, torch.from_numpy(tokens.matrix), keep


def save(path, model, tensors) -> int:
    """As examples/cpp/run_package.cpp reads them; how many rows the answer has."""
    held = torch.nn.Module()
    for i, tensor in enumerate(tensors):
        held.register_buffer(f"x{i}", tensor)
    held.register_buffer("want", model(*tensors))
    torch.jit.script(held).save(str(path))
    return len(held.want)


@pytest.mark.slow
@pytest.mark.timeout(900)  # some 30 s of an idle core, in two compilers
@pytest.mark.filterwarnings("ignore")  # of torch's own, about torch.jit
def test_a_compiled_layer_with_an_eviction_runs_without_python(tmp_path, torch_folder, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(0)
    model = Layer().eval()
    n, kept = torch.export.Dim("n", min=2, max=4096), torch.export.Dim("kept", min=2, max=4096)
    package = str(tmp_path / "layer.pt2")
    with torch.no_grad():
        exported = torch.export.export(model, inputs(256), dynamic_shapes=({0: n}, {0: n}, {0: kept}))
        torch._inductor.aoti_compile_and_package(exported, package_path=package, inductor_configs=QUICK)
        rows = {length: save(tmp_path / f"{length}.pt", model, inputs(length)) for length in (256, 100, 61)}
    settings = (f"-DAVFLOW_EXAMPLE_TORCH={torch_folder}", "-DCMAKE_CXX_FLAGS=")
    program = examples(tmp_path / "build", avflow_ext.get_cmake_dir(), *settings) / "run_package"
    for length, count in rows.items():
        command = [str(program), avflow_ext.get_operators(), package, str(tmp_path / f"{length}.pt")]
        done = subprocess.run(command, capture_output=True, text=True, env={})
        assert done.returncode == 0, done.stderr
        pattern = r"(\d+) rows: largest difference (\S+), largest value (\S+)\n"
        found, difference, largest = re.fullmatch(pattern, done.stdout).groups()
        # Measured for 60 lengths: two units in the last place of the largest value, 2.3e-7 of it at most.
        assert int(found) == count and float(difference) <= 5e-7 * float(largest) < 2e-6
