"""Images from files: what a viewer shows, on white, in 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clips import Clip, draw, write_png
from PIL import Image

from avflow.errors import MediaError
from avflow.media.stills import read_image

CLIP = Clip(color="blue", pitch="high")
RED = (200, 30, 30)


def test_images(tmp_path):
    path = write_png(CLIP, tmp_path / "a.png", t=1.0)
    image = read_image(path)
    assert image.dtype == torch.uint8 and np.array_equal(image.permute(1, 2, 0).numpy(), draw(CLIP, 1.0))
    grey = Image.new("L", (20, 10), 99)
    exif = grey.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    grey.save(tmp_path / "g.jpg", exif=exif)
    assert read_image(tmp_path / "g.jpg").shape == (3, 20, 10)
    (tmp_path / "broken.png").write_bytes(path.read_bytes()[:100])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("broken.png", "text.jpg", "missing.png"):
        with pytest.raises(MediaError, match=name):
            read_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "webp", "RGB"])
def test_what_is_transparent_is_white(tmp_path, mode):
    shown = np.zeros((8, 8, 4), np.uint8)
    shown[2:6, 2:6] = (*RED, 255)
    image, path, options = Image.fromarray(shown), tmp_path / "a.png", {}
    if mode == "P":  # one colour of the palette is transparent
        image, options = image.convert("RGB").quantize(4), {"transparency": None}
        options["transparency"] = image.getpixel((0, 0))
    elif mode == "RGB":
        image, options = image.convert("RGB"), {"transparency": (0, 0, 0)}
    elif mode == "webp":
        path = tmp_path / "a.webp"
        options["lossless"] = True
    else:
        image = image.convert(mode)
    image.save(path, **options)
    pixels = read_image(path)
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    grey = Image.new("RGB", (1, 1), RED).convert("L").getpixel((0, 0))
    assert pixels[:, 4, 4].tolist() == ([grey] * 3 if mode == "LA" else list(RED))


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [127]


def test_an_animation_shows_its_first_picture(tmp_path):
    pictures = [Image.new("RGBA", (8, 8), colour) for colour in ((*RED, 255), (0, 0, 255, 255))]
    for name in ("a.webp", "a.gif", "a.png"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100, **lossless)
        assert read_image(tmp_path / name)[:, 3, 3].tolist() == list(RED)


@pytest.mark.parametrize(
    "most, dtype, name", [(65535, "uint16", "a.png"), (1, "float32", "a.tif"), (255, "float32", "a.tif")]
)
def test_grey_values_of_more_than_8_bits_are_scaled_by_their_range(tmp_path, most, dtype, name):
    ramp = (np.arange(256) / 255 * most).astype(dtype).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / name)
    assert read_image(tmp_path / name)[0].flatten().tolist() == list(range(256))


@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.0, 300.0), (0.0, np.nan)])
def test_values_of_another_range_are_refused(tmp_path, values):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match=r"a\.tif has values from .* expected .* scale it to 8 bits"):
        read_image(tmp_path / "a.tif")


def test_an_heic_image_says_what_reads_it(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(MediaError, match="HEIC image: make a jpg or png of it, or pip install pillow-heif"):
        read_image(tmp_path / "a.heic")


def test_only_the_documented_formats_are_opened(tmp_path):
    """By what the file holds: Pillow's other decoders are not reached under another name either."""
    image = Image.new("RGB", (8, 8), RED)
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        image.save(tmp_path / "a.bin", format)
        assert read_image(tmp_path / "a.bin").shape == (3, 8, 8)
    for format in ("PPM", "TGA", "ICO", "PCX", "EPS", "SGI"):
        image.save(tmp_path / "a.png", format)
        with pytest.raises(MediaError, match=r"a\.png.* none of PNG, JPEG, WEBP, GIF, BMP, TIFF; make a png of it"):
            read_image(tmp_path / "a.png")
