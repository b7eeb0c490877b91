"""Frames of a long video beside torchcodec and decord: CPU seconds and memory, for few frames and for a part. CPU.

    python benchmarks cpu/decode [--json FILE] [--minutes 10] [--turns 5] [--file VIDEO]

Claim: as cheap as the published pipelines' readers. Two reads: 64 frames of the whole, and the 20 of its last 10 s, all
640 x 360 RGB, as they are. Each read runs in a process of its own, readers take turns, and the least CPU time of each
counts (user and system, of all threads; imports are left out). Memory is how far the peak resident set rises above what
the imports take. torchcodec and decord are those of the extra `anchors`, with one thread, which is their cheapest;
qwen-vl-utils gives torchcodec 8. The three readers' frames are compared: torchcodec's bit for bit.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.report import machine, write_json

RATE = 30
READERS = ("avflow", "torchcodec", "torchcodec, 8 threads", "decord")
SOURCE = "testsrc2=size=640x360:rate={rate}:duration={seconds},noise=alls=6:allf=t"
Read = Callable[[], np.ndarray]  # frames uint8 [T, 3, H, W]


def write_video(path: Path, seconds: int) -> None:
    """A moving test card with noise, H.264 with the key and B frames of x264's defaults, without sound."""
    import av

    with av.open(SOURCE.format(rate=RATE, seconds=seconds), format="lavfi") as card, av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number, frame in enumerate(card.decode(video=0)):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, RATE), 0  # its own asks for key frames
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def chosen(case: str, total: int) -> list[int]:
    """Numbers of the frames."""
    if case == "64 frames":
        return np.linspace(0, total - 1, 64).round().astype(int).tolist()
    return np.linspace(total - 10 * RATE, total - 1, 20).round().astype(int).tolist()


def reading(reader: str, case: str, path: Path) -> Read:
    """The call that is timed; what it needs is imported here."""
    if reader == "avflow":
        import av  # noqa: F401 (read_video imports it when it is called)

        from avflow.media.video import read_video

        return lambda: read_video(path, choose=lambda total, seconds: chosen(case, total)).frames.numpy()
    if reader == "decord":
        import decord

        def by_decord() -> np.ndarray:
            video = decord.VideoReader(str(path), num_threads=1)
            return video.get_batch(chosen(case, len(video))).asnumpy().transpose(0, 3, 1, 2)

        return by_decord
    from torchcodec.decoders import VideoDecoder

    threads = 8 if "8" in reader else 1

    def by_torchcodec() -> np.ndarray:
        video = VideoDecoder(path, num_ffmpeg_threads=threads)
        return video.get_frames_at(chosen(case, video.metadata.num_frames)).data.numpy()

    return by_torchcodec


def peak_mib() -> float:
    """Of this process's resident set, so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def one(reader: str, case: str, path: Path, kept: Path | None) -> None:
    """Reads once in this process, and prints what it took. kept: where the frames go."""
    read = reading(reader, case, path)
    gc.collect()  # else it comes due in the first reader that makes Python objects, over all that torch has imported
    before, cpu, clock = peak_mib(), time.process_time(), time.perf_counter()
    frames = read()
    found = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - clock, "mib": peak_mib() - before}
    if kept is not None:
        np.save(kept, frames)
    print(json.dumps(found))


def measure(case: str, path: Path, turns: int) -> dict[str, Any]:
    """{reader: least cpu and wall seconds, MiB}, readers in turns; the frames are compared in the first."""
    best: dict[str, Any] = {}
    frames: dict[str, np.ndarray] = {}
    for turn in range(turns):
        for reader in READERS:
            with tempfile.TemporaryDirectory() as folder:
                kept = Path(folder) / "frames.npy"
                options = ["--one", reader, "--case", case, "--file", str(path)] + ["--kept", str(kept)] * (turn == 0)
                command = [sys.executable, str(Path(__file__).parents[1]), "cpu/decode", *options]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    best[reader] = {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
                    continue
                found = json.loads(done.stdout.strip().splitlines()[-1])
                if turn == 0:
                    frames[reader] = np.load(kept)
            best[reader] = {name: min(value, best.get(reader, found)[name]) for name, value in found.items()}
    ours = frames["avflow"].astype(np.int16)
    for reader, pixels in frames.items():
        best[reader]["apart"] = float(np.abs(ours - pixels).mean((1, 2, 3)).max())
        best[reader]["cpu_over"] = best["avflow"]["cpu"] / best[reader]["cpu"]
    return best


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--minutes", type=float, default=10, help="of the video that is made")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--file", type=Path, help="a video at 30 frames a second, instead of one that is made")
    for hidden in ("--one", "--case", "--kept"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        return one(args.one, args.case, args.file, args.kept and Path(args.kept))
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder) / "long.mp4"
        if not path.exists():
            write_video(path, round(60 * args.minutes))
        size = path.stat().st_size
        print(f"{machine()}, {args.minutes:g} minutes, {size / 2**20:.0f} MiB")
        results = {case: measure(case, path, args.turns) for case in ("64 frames", "the last 10 s")}
    for case, readers in results.items():
        print(case)
        for reader, r in readers.items():
            if "error" in r:
                print(f"    {reader}: {r['error']}")
                continue
            print(
                f"    {r['cpu']:7.2f} CPU s {r['wall']:7.2f} s {r['mib']:6.0f} MiB  avflow is {r['cpu_over']:.2f} x"
                f"  {reader} (frames {r['apart']:.3f} of 255 apart)"
            )
    file = {"minutes": args.minutes, "bytes": size}
    write_json(args.json, {"machine": machine(), "file": file, "results": results})
