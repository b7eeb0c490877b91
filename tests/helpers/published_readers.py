"""A program: reads files with qwen-omni-utils on torchcodec, decord or both, as published, and writes what they gave.

    python published_readers.py CALLS.json OUT

CALLS: a list of {"name", "reader", "path", ...options}; OUT gets number.npz for each, with `error` where one failed.
It runs in a process of its own: decord's and torchcodec's FFmpeg are others than PyAV's.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

warnings.filterwarnings("ignore")


def frames(path: str, **options: Any) -> dict[str, Any]:
    """qwen_omni_utils on torchcodec: frames at their final size, uint8 levels, and the rate that is passed on."""
    from qwen_omni_utils.v2_5 import vision_process as published

    call = {"video": path, **options}
    (pixels, facts), fps = published.fetch_video(call, return_video_sample_fps=True, return_video_metadata=True)
    assert facts["video_backend"] == "torchcodec"
    return {"frames": pixels.numpy(), "numbers": np.asarray(facts["frames_indices"]), "fps": fps, "rate": facts["fps"]}


def whole(path: str) -> dict[str, Any]:
    """torchcodec: when every frame of the file is shown, and the first, the middle and the last one as they are."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path)
    batch = decoder.get_frames_in_range(0, decoder.metadata.num_frames)
    some = [0, len(batch) // 2, len(batch) - 1]
    return {"times": batch.pts_seconds.numpy(), "frames": batch.data[some].numpy()}


def counted(path: str, fps: float) -> dict[str, Any]:
    """decord with the published rule: frames [T, H, W, 3] and their numbers."""
    import decord

    reader = decord.VideoReader(path)
    count = int(min(max(len(reader) / reader.get_avg_fps() * fps, 4), 768, len(reader)) // 2 * 2)
    numbers = np.linspace(0, len(reader) - 1, count).round().astype(int)
    return {"numbers": numbers, "frames": reader.get_batch(numbers).asnumpy()}


def sound(path: str, kind: str, **options: Any) -> dict[str, Any]:
    """qwen_omni_utils, by librosa."""
    from qwen_omni_utils.v2_5 import audio_process as published

    chat = [{"role": "user", "content": [{"type": kind, kind: path, **options}]}]
    return {"sound": published.process_audio_info(chat, use_audio_in_video=kind == "video")[0]}


def downmix(path: str) -> dict[str, Any]:
    """torchcodec, as the data code of video-SALMONN 2+ asks it."""
    from torchcodec.decoders import AudioDecoder

    samples = AudioDecoder(path, sample_rate=16000, num_channels=1).get_all_samples()
    return {"sound": samples.data[0].numpy()}


def picture(path: str, **options: Any) -> dict[str, Any]:
    from qwen_omni_utils.v2_5 import vision_process as published

    return {"picture": np.asarray(published.fetch_image({"image": path, **options}))}


READERS = {one.__name__: one for one in (frames, whole, counted, sound, downmix, picture)}


def main(calls: Path, out: Path) -> None:
    os.environ["TORCHCODEC_NUM_THREADS"] = "1"
    sys.path.append(str(Path(sys.prefix) / "foreign"))  # where the tests' torchvision is
    from avflow.models import compat

    compat.declare_torchvision()  # one that was built for another torch serves too
    import torchcodec.decoders  # noqa: F401  # without FFmpeg's libraries nothing runs: qwen_omni_utils would take others

    for number, call in enumerate(json.loads(calls.read_text())):
        try:
            found = READERS[call.pop("reader")](**call)
        except Exception as error:  # what it fails at is told where that file is compared
            found = {"error": f"{type(error).__name__}: {error}"[:400]}
        np.savez(out / f"{number}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
