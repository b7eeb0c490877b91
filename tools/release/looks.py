"""What can be seen of the files without running them."""

from __future__ import annotations

import re
from pathlib import Path

from packages import DIST, ROOT
from repair import PLATFORM
from steps import Failed, run

# Several packages in one wheel: avflow, avflow_ext, avflow_vllm (W009). Two checkpoints with files that are alike: each
# is whole by itself (W002).
MEANT = "W002,W009"


def platform_of(wheel: Path) -> str:
    """The oldest platform that has all symbols which the wheel asks for, by auditwheel."""
    said = run("auditwheel", "show", "--json", wheel)
    # Its "overall_tag" is linux_x86_64: torch's libraries are not in the wheel, which is meant.
    tag = re.search(r'"sym_tag": "(manylinux_2_(\d+)_\w+)"', said)
    if not tag or int(tag[2]) > 28 or PLATFORM not in wheel.name:
        raise Failed(f"{wheel.name}: {said}")
    return f"{wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB; its symbols are {tag[1]}'s"


def pages() -> str:
    """What PyPI would refuse or not show."""
    files = sorted(DIST.iterdir())
    run("twine", "check", "--strict", *files)
    return f"{len(files)} files"


def contents() -> str:
    """Files in a wheel that belong elsewhere."""
    wheels = sorted(DIST.glob("*.whl"))
    run("check-wheel-contents", "--ignore", MEANT, *wheels)
    return f"{len(wheels)} wheels"


def workflow() -> str:
    """The workflow that publishes, against the schema of such files."""
    path = ROOT / ".github/workflows/release.yml"
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)
    return path.name


def recipes() -> str:
    """The conda recipes, as rattler-build reads and renders them; no channel is asked."""
    from rattler_build import Stage0Recipe, VariantConfig

    variants = VariantConfig.from_yaml(
        'python: ["3.12.* *_cpython"]\nc_stdlib: [sysroot]\nc_stdlib_version: ["2.28"]\n'
    )
    found = []
    for path in sorted((ROOT / "conda").glob("*/recipe.yaml")):
        for made in Stage0Recipe.from_file(path).render(variants):
            package = made.recipe.to_dict()["package"]
            found.append(f"{package['name']} {package['version']}")
    return ", ".join(found)


def all_platforms() -> str:
    return "\n".join(platform_of(wheel) for wheel in sorted(DIST.glob("avflow-*.whl")))


if __name__ == "__main__":
    print(workflow(), all_platforms(), pages(), contents(), sep="\n")
