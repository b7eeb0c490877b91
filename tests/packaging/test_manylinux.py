"""An installed manylinux_2_28 wheel, as `make release` and the workflow make it: what it asks of a machine."""

import importlib.metadata
import re

import pytest
from binaries import products, run

# Of auditwheel's policy for manylinux_2_28: what RHEL 8, Debian 10 and Ubuntu 20.04 have.
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}

wheel = pytest.mark.skipif(
    "manylinux_2_28" not in (importlib.metadata.distribution("avflow").read_text("WHEEL") or ""),
    reason="avflow is not installed from a manylinux_2_28 wheel: `make release` tries one",
)


@wheel
@pytest.mark.parametrize("name", products())
def test_no_symbol_is_newer_than_the_platform(name):
    found = re.findall(r"Name: (GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)", run("readelf", "-V", products()[name]))
    assert found
    newer = [f"{kind}_{v}" for kind, v in found if tuple(map(int, v.split("."))) > NEWEST[kind]]
    assert newer == []


def test_no_symbol_of_the_c_or_cpp_library_is_without_a_version():
    """Such a one would come from whichever library has it, if any: a linker that was misled does not complain."""
    for name, path in products().items():
        undefined = [
            line.split()[-1] for line in run("nm", "-D", "--undefined-only", path).splitlines() if " U " in line
        ]
        bare = [symbol for symbol in undefined if "@" not in symbol]
        others = r"_?Py\w+|aoti_\w+|torch_\w+" if name != "libavflow" else "nothing"
        assert [symbol for symbol in bare if not re.fullmatch(others, symbol)] == []
