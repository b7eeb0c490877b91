"""How channels become one: the mean for Qwen2.5-Omni (librosa), FFmpeg's downmix for video-SALMONN 2+ (torchcodec)."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import write_channels

from avflow.media.audio import read_audio


def rms(sound):
    return float(np.sqrt((sound[1600:-1600] ** 2).mean()))


def test_stereo(tmp_path):
    t = np.arange(32000) / 16000
    left, right = (0.3 * np.sin(2 * np.pi * hertz * t) for hertz in (300, 500))
    path = write_channels(tmp_path / "a.wav", [left, right])
    mean, mixed = read_audio(path), read_audio(path, mix="downmix")
    assert np.abs(mean - (left + right) / 2).max() < 1e-4
    assert np.abs(mixed - (left + right) * 0.5**0.5).max() < 1e-4
    assert rms(mixed) / rms(mean) == pytest.approx(2**0.5, rel=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_downmix_is_swresamples(tmp_path, channels, rate):
    import av

    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (channels, 2 * rate))
    path = write_channels(tmp_path / "a.wav", list(noise), rate)
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=16000)
    with av.open(str(path)) as file:
        pieces = [p.to_ndarray()[0] for f in [*file.decode(audio=0), None] for p in resampler.resample(f)]
    assert np.array_equal(read_audio(path, mix="downmix"), np.concatenate(pieces))
    if channels == 1:
        assert np.array_equal(read_audio(path), np.concatenate(pieces))
