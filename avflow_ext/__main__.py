"""`python -m avflow_ext --cmakedir`: where builds of C and C++ find libavflow."""

from __future__ import annotations

import argparse

from .paths import get_cmake_dir, get_include, get_library_dir, get_operators


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m avflow_ext", description=__doc__)
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--includedir", action="store_const", dest="path", const=get_include, help="of avflow/avflow.h")
    kinds.add_argument("--libdir", action="store_const", dest="path", const=get_library_dir, help="of libavflow")
    kinds.add_argument(
        "--cmakedir", action="store_const", dest="path", const=get_cmake_dir, help="for cmake -Davflow_DIR=..."
    )
    kinds.add_argument(
        "--operators", action="store_const", dest="path", const=get_operators, help="what programs of libtorch load"
    )
    print(parser.parse_args().path())


if __name__ == "__main__":
    main()
