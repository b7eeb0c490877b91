"""What the machine code of the hot loops costs: facts that hold without a device, and that an edit can lose unseen.

Times were never derived from them; docs/performance.md says what is expected of each form.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from device_code import CSRC, compile_device_code, find_nvdisasm, serialised
from machine_code import Kernel, kernels, parse

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from cuda_toolkit import find_toolkit  # noqa: E402

LOCAL = r"\b(STL|LDL)\b"
PRODUCT, EXP, TO_SHARED = r"\bHGMMA\b", r"MUFU\.EX2", r"\bUTMALDG\b"


class Built(NamedTuple):
    report: str
    kernels: dict[str, Kernel]

    def of(self, name: str) -> dict[int, Kernel]:
        """{head_dim: kernel}, those for bfloat16."""
        return {d: next(k for n, k in self.kernels.items() if f"{name}ILb1ELi{d}E" in n) for d in (64, 128)}


def build(folder, source: str, arch: str, *flags: str) -> Built:
    toolkit = find_toolkit()
    if toolkit is None or (nvdisasm := find_nvdisasm(toolkit.nvcc)) is None:
        pytest.skip("no nvcc, or no nvdisasm: pip install nvidia-cuda-nvdisasm")
    report = compile_device_code(toolkit.nvcc, CSRC / "cuda" / f"{source}.cu", arch, folder / "code", flags=flags)
    return Built(report, kernels(nvdisasm, folder / "code"))


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    """Both forms: attend_wide with its branch-free body, and attend_pairs."""
    return build(tmp_path_factory.mktemp("hopper"), "hopper", "90a", "-DAVFLOW_FORM=2")


@pytest.mark.slow
def test_products_run_side_by_side(hopper):
    assert "warning" not in hopper.report and not serialised(hopper.report)


@pytest.mark.slow
# Of 64 keys: scores [64, 64], outputs [64, d]; of 128 keys twice that. The rest is what was counted, and a little more.
@pytest.mark.parametrize(
    "name, d, products, exponentials, most, most_taken",
    [
        ("attend_wide", 128, 8 + 4, 32 + 2, 335, 4),
        ("attend_wide", 64, 4 + 4, 32 + 2, 280, 4),
        ("attend_pairs", 128, 8 + 8, 64 + 2, 480, 1),
        ("attend_pairs", 64, 4 + 8, 64 + 2, 434, 1),
    ],
)
def test_a_turn_without_a_mask(hopper, name, d, products, exponentials, most, most_taken):
    kernel = hopper.of(name)[d]
    turn = min(
        (turn for turn in kernel.turns(PRODUCT) if turn.count(EXP) == exponentials),
        key=lambda turn: len(turn.instructions),
    )
    assert turn.count(PRODUCT) == products
    assert turn.count(r"\bFMUL\b") <= d // 2 + 2  # outputs are scaled once a turn
    assert not turn.count(LOCAL)
    assert len(turn.instructions) <= most and turn.taken <= most_taken


@pytest.mark.slow
@pytest.mark.parametrize("d", [64, 128])
def test_pairs_spill_in_masks_alone(hopper, d):
    """40 registers do not hold what works out words; neither products nor copies may wait for that."""
    loops = hopper.of("attend_pairs")[d].loops()
    hot = [loop for loop in loops if any(re.search(f"{PRODUCT}|{TO_SHARED}", text) for text in loop)]
    assert len(hot) == 3, "the loop without masks, the one with, and that of the copies"
    assert not [text for loop in hot for text in loop if re.search(LOCAL, text)]


@pytest.mark.slow
def test_registers_move_between_warpgroups(hopper):
    for name, (fewer, more) in {"attend_wide": (88, 208), "attend_pairs": (40, 232)}.items():
        for kernel in hopper.of(name).values():
            code = [text for block in kernel.blocks for text in block if "USETMAXREG" in text]
            assert sorted(int(found, 0) for text in code for found in re.findall(r"\b(0x[0-9a-f]+|\d+)$", text)) == [
                fewer,
                more,
            ]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """The kernels of attention.cu: attend, attend_few and the merge."""
    return build(tmp_path_factory.mktemp("narrow"), "attention", "90")


@pytest.mark.slow
# Of a warp's 16 keys. The instructions are what was counted, with the copies of the next keys, and a little more.
@pytest.mark.parametrize("d, products, copies, most", [(128, 32, 16, 470), (64, 16, 8, 350)])
def test_a_turn_of_few_rows(narrow, d, products, copies, most):
    """Reading 64 keys takes an H200's multiprocessor some 1,500 clocks at head_dim 128: a warp may issue a third of
    that, since three blocks are there, and may wait for no other warp."""
    kernel = narrow.of("attend_few")[d]
    turn = min(
        (turn for turn in kernel.turns(r"\bLDGSTS\b") if turn.count(r"\bHMMA\b")),
        key=lambda turn: len(turn.instructions),
    )
    assert turn.count(r"\bHMMA\b") == products and turn.count(EXP) == 8 + 2
    assert turn.count(r"\bLDGSTS\b") == copies == turn.count(r"\bLDGSTS\S*\.128\b")
    assert turn.count(r"\bLDSM\b") == 24 * d // 128 and turn.count(r"\bSHFL\b") == 4
    assert len(turn.instructions) <= most
    (loop,) = [code for code in kernel.loops() if any("HMMA" in text for text in code)]
    assert not [text for text in loop if re.search(rf"{LOCAL}|\bBAR\b", text)]


@pytest.mark.slow
def test_the_merge_waits_for_16_parts_at_a_time(narrow):
    merges = [kernel for name, kernel in narrow.kernels.items() if "5merge" in name]
    assert len(merges) == 6  # 2 dtypes x tiles of 16, 64 and 128 packed rows
    for kernel in merges:
        found = 0  # loops over 16 parts: of the values, of the mass; the compiler may write one more than once
        for i, block in enumerate(kernel.blocks):
            loads = [at for at, text in enumerate(block) if "LDG" in text]
            sums = [at for at, text in enumerate(block) if re.search(r"\bFFMA\b", text)]
            if len(loads) == len(sums) == 16 and i in kernel.after[i]:
                assert loads[-1] < sums[0]
                found += 1
        assert found >= 2


# ---------------------------------------------------------------- the reader itself

TEXT = """
.text._Zkernel:
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR8], R4 ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R88, R120, gdesc[UR16], R88 ;
        /*0040*/               @P1 BRA `(.L_x_2) ;
        /*0050*/                   LDL R3, [R1] ;
        /*0060*/                   BRA `(.L_x_2) ;
.L_x_2:
        /*0070*/                   FMUL R1, R1, R2 ;
        /*0080*/               @P2 BRA `(.L_x_1) ;
        /*0090*/                   STL [R1], R3 ;
        /*00a0*/                   EXIT ;
.L_x_3:
        /*00b0*/                   BRA `(.L_x_3) ;
"""


def test_turns_and_loops():
    kernel = parse(TEXT)["_Zkernel"]
    (turn,) = kernel.turns(PRODUCT)
    assert turn.count("HGMMA") == turn.count("FMUL") == 1 and not turn.count(LOCAL)
    assert len(turn.instructions) == 6 and turn.taken == 2  # over the load, and back
    main, end = kernel.loops()
    assert sum(re.search(LOCAL, text) is not None for text in main) == 1  # the one behind the loop is not in it
    assert end == ["BRA `(.L_x_3)"]
