"""Builds avflow_ext._C with CMake and ninja; everything else stands in pyproject.toml."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
from build_backend import TORCH, find_torch  # noqa: E402
from cuda_toolkit import COMPRESSES_FROM, find_toolkit  # noqa: E402


def program(name: str, module: str, folder: str) -> str:
    """The PyPI package's program if this Python has it (a venv need not be activated), else the one on PATH."""
    try:
        return str(Path(getattr(__import__(module), folder)) / name)
    except (ImportError, AttributeError):
        if found := shutil.which(name):
            return found
        raise SystemExit(f"{name} is needed to build avflow: pip install {name}") from None


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
        for step in (configure, [cmake, "--build", folder]):
            if subprocess.run(step).returncode:
                raise SystemExit(f"building avflow_ext._C failed, see above: {shlex.join(map(str, step))}")


class FreshBuildPy(build_py):
    """Starts from an empty folder: setuptools keeps build/lib, and would ship modules that were renamed since."""

    def run(self) -> None:
        for package in ("avflow", "avflow_vllm", "avflow_ext"):
            shutil.rmtree(Path(self.build_lib) / package, ignore_errors=True)
        super().run()


setup(
    packages=find_packages("python") + find_packages(".", include=["avflow_ext", "avflow_ext.*"]),
    package_dir={"avflow": "python/avflow", "avflow_vllm": "python/avflow_vllm", "avflow_ext": "avflow_ext"},
    include_package_data=False,  # else folders of data are taken for packages that are not listed, with a warning each
    package_data={
        "avflow": ["py.typed"],
        "avflow_vllm": ["py.typed"],
        "avflow.report": ["js/*.js", "templates/*.j2", "*.css"],
        "avflow.weights": ["*/*"],
        "avflow_ext": ["py.typed", "*.pyi"],
    },
    ext_modules=[Extension("avflow_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "build_py": FreshBuildPy},
)
