"""Files of many makes, written once for all tests that read them."""

from __future__ import annotations

import anchor_files
import pytest


@pytest.fixture(scope="session")
def makes(tmp_path_factory):
    """{"film/NAME", "sound/NAME" or "picture/NAME": path}; without those that this FFmpeg has no encoder for."""
    return anchor_files.write_all(tmp_path_factory.mktemp("makes"))
