"""python tools/release: makes what goes to PyPI, in dist/, and tries it. `make release`; docs/release.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import aarch64
import image
import installed
import looks
import packages
from steps import Failed, Report

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


class Release:
    """The wheels so far, and what they were built with."""

    def __init__(self, report: Report, torch: str) -> None:
        self.report, self.torch = report, torch
        self.torch_folder: Path | None = None
        self.plans: dict[str, str] = {}  # version -> what its module packs

    def make(self, version: str, with_torch: bool) -> Path | None:
        """The wheel of one Python."""
        made: list[Path] = []

        def work() -> str:
            python = packages.environment(version)
            if with_torch or self.torch_folder is None:
                self.torch_folder = packages.torch_of(python, self.torch)
            made.append(packages.wheel(python, self.torch_folder))
            return looks.platform_of(made[0])

        return made[0] if self.report.step(f"{version}: a wheel, from the source archive", work) else None

    def pack(self, version: str, wheel: Path) -> str:
        """Whether the module loads and packs what the others pack."""
        self.plans[version] = installed.module(packages.WORK / f"python{version}/bin/python", wheel)
        if len(set(self.plans.values())) > 1:
            raise Failed(f"plans differ: {self.plans}")
        return self.plans[version]

    def python(self, version: str, with_torch: bool) -> None:
        """The wheel of one Python, and all that is tried with it."""
        if not (wheel := self.make(version, with_torch)):
            return
        self.report.step(f"{version}: its module without torch", lambda: self.pack(version, wheel))
        if not with_torch:
            self.report.skip(
                f"{version}: doctor, a sweep, tests", f"name it in --try to install {self.torch} for it too"
            )
            return
        python = packages.WORK / f"python{version}/bin/python"
        if self.report.step(f"{version}: installed, doctor", lambda: installed.install(python, wheel)):
            self.report.step(f"{version}: a sweep", lambda: installed.sweep(python))
            self.report.step(f"{version}: tests of what is compiled", lambda: installed.test(python))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default="torch>=2.11", help="what wheels are built and tried with")
    parser.add_argument("--python", nargs="*", default=PYTHONS, help="versions; those that are not here are named")
    parser.add_argument(
        "--try", nargs="*", default=[HERE], dest="tried", help="of these, with torch and all that needs it"
    )
    a = parser.parse_args()
    report = Report()
    release = Release(report, a.torch)
    report.step("the workflow that publishes", looks.workflow)
    if report.step("source archives, avflow-models", packages.sources_and_models):
        for version in sorted(a.python, key=lambda version: version not in a.tried):  # the first one brings torch
            release.python(version, version in a.tried)
        report.step("what PyPI shows", looks.pages)
        report.step("what is in the wheels", looks.contents)
    report.step("the Dockerfile", image.lint)
    report.step("the Dockerfile's steps, without docker", image.trial)
    report.step("the conda recipes", looks.recipes)
    report.step("aarch64", aarch64.programs)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
