"""Builds avflow_ext._C and the libraries beside it with CMake and ninja; everything else stands in pyproject.toml."""

import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# The one place that says the version: read, since an import would need what avflow needs.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "python/avflow/__init__.py").read_text("utf-8"), re.M)[1]
BESIDE = ("include", "lib", "share")  # of avflow_ext/, made by CMakeLists.txt
sys.path.insert(0, str(ROOT / "tools"))
from build_backend import TORCH, find_torch  # noqa: E402
from cuda_toolkit import COMPRESSES_FROM, find_toolkit  # noqa: E402
from pypi_page import page, urls  # noqa: E402


def program(name: str, module: str, folder: str) -> str:
    """The PyPI package's program if this Python has it (a venv need not be activated), else the one on PATH."""
    try:
        return str(Path(getattr(__import__(module), folder)) / name)
    except (ImportError, AttributeError):
        if found := shutil.which(name):
            return found
        raise SystemExit(f"{name} is needed to build avflow: pip install {name}") from None


def replace(source: Path, target: Path) -> None:
    """In one step, and only where they differ: a process may have the library loaded."""
    if target.exists() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(target.name + ".new")
    shutil.copy2(source, new)
    new.replace(target)


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if not (torch := find_torch()):
            raise SystemExit(f"{TORCH} is needed to build avflow without build isolation: install it first")
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        cmake, ninja = program("cmake", "cmake", "CMAKE_BIN_DIR"), program("ninja", "ninja", "BIN_DIR")
        folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        settings = {
            "CMAKE_MAKE_PROGRAM": ninja,
            "Python_EXECUTABLE": sys.executable,
            "AVFLOW_TORCH_DIR": torch,
            "AVFLOW_OUTPUT_DIR": target.parent,
            "AVFLOW_PYTHON_VERSION": VERSION,
            "AVFLOW_PYTHON": "ON",
            "AVFLOW_TORCH": "ON",
            "AVFLOW_PACKAGE": "ON",
            "AVFLOW_WERROR": "OFF",  # stated, or the cache would keep the last choice of AVFLOW_CMAKE_ARGS
        }
        toolkit = find_toolkit()
        settings["AVFLOW_CUDA"] = "ON" if toolkit else "OFF"
        if toolkit:
            settings["AVFLOW_NVCC"] = toolkit.nvcc
            settings["AVFLOW_CUDA_ARCHS"] = ";".join(toolkit.archs)
            settings["AVFLOW_CUDA_COMPRESS"] = "ON" if toolkit.version >= COMPRESSES_FROM else "OFF"
        # An isolated build has its tools in a new temporary folder each time; a cache naming the last one is stale.
        cache = folder / "CMakeCache.txt"
        named = [ninja, f"AVFLOW_NVCC:FILEPATH={toolkit.nvcc}"] if toolkit else [ninja]
        fresh = ["--fresh"] if cache.exists() and any(name not in cache.read_text() for name in named) else []
        configure = [cmake, *fresh, "--log-level=NOTICE", "-S", ROOT, "-B", folder, "-G", "Ninja"]
        configure += [f"-D{key}={value}" for key, value in settings.items()]
        configure += shlex.split(os.environ.get("AVFLOW_CMAKE_ARGS", ""))
        install = [cmake, "--install", folder, "--prefix", target.parent]
        for step in (configure, [cmake, "--build", folder], install):
            if subprocess.run(step, stdout=subprocess.DEVNULL if step is install else None).returncode:
                raise SystemExit(f"building avflow_ext._C failed, see above: {shlex.join(map(str, step))}")

    def copy_extensions_to_source(self) -> None:
        """What is built in place or as an editable install: also the folders beside the module."""
        super().copy_extensions_to_source()
        for folder in BESIDE:
            for path in (Path(self.build_lib) / "avflow_ext" / folder).rglob("*"):
                if path.is_file():
                    replace(path, ROOT / path.relative_to(self.build_lib))


class FreshBuildPy(build_py):
    """Starts from an empty folder: setuptools keeps build/lib, and would ship modules that were renamed since."""

    def run(self) -> None:
        for package in ("avflow", "avflow_vllm", "avflow_ext"):
            shutil.rmtree(Path(self.build_lib) / package, ignore_errors=True)
        super().run()


setup(
    version=VERSION,
    long_description=page((ROOT / "README.md").read_text(encoding="utf-8"), os.environ.get("AVFLOW_SOURCE_URL", "")),
    long_description_content_type="text/markdown",
    project_urls=urls(os.environ.get("AVFLOW_SOURCE_URL", "")),
    packages=find_packages("python") + find_packages(".", include=["avflow_ext", "avflow_ext.*"]),
    package_dir={"avflow": "python/avflow", "avflow_vllm": "python/avflow_vllm", "avflow_ext": "avflow_ext"},
    include_package_data=False,  # else folders of data are taken for packages that are not listed, with a warning each
    package_data={
        "avflow": ["py.typed"],
        "avflow_vllm": ["py.typed"],
        "avflow.report": ["js/*.js", "served/*.js", "vendor/*", "templates/*.j2", "*.css"],
        "avflow_ext": ["py.typed", "*.pyi"],
    },
    ext_modules=[Extension("avflow_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "build_py": FreshBuildPy},
)
