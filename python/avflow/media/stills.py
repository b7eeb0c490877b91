"""Images from files, by Pillow: upright RGB of 8 bits, what is transparent on white."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import MediaError
from .container import check_file

if TYPE_CHECKING:
    from PIL.Image import Image

HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # what an HEIC file says at its begin
WHITE = (255, 255, 255)
# Of the forty that Pillow knows: what pictures come in. Decoders of rare formats are where its security faults are, and
# some run other programs. HEIF is there where pillow-heif is registered.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "HEIF")


def read_image(path: str | Path) -> torch.Tensor:
    """An image file as uint8 [3, H, W], RGB, upright (EXIF); of an animation, its first picture.

    What is transparent is shown on white, as the published pipelines do. Grey values of 16 bits, or of floating point
    from 0 to 1 (or to 255), are scaled to 8 bits.

    Raises:
        MediaError: it is missing, broken, of a format that is not in FORMATS, or its values have another range.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    check_file(path)
    try:
        Image.init()
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            pixels = np.array(_rgb(ImageOps.exif_transpose(image), path))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        hint = ""
        if isinstance(error, UnidentifiedImageError):
            hint = f": it is broken, or none of {', '.join(FORMATS[:-1])}; make a png of it"
            if _is_heic(path):
                hint = (
                    ". It is an HEIC image: make a jpg or png of it, or pip install pillow-heif and call "
                    "pillow_heif.register_heif_opener() before"
                )
        raise MediaError(f"cannot read the image {path}: {error}{hint}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _is_heic(path: str | Path) -> bool:
    with open(path, "rb") as file:
        begin = file.read(12)
    return begin[4:8] == b"ftyp" and begin[8:] in HEIC


def _rgb(image: Image, path: str | Path) -> Image:
    from PIL import Image as images

    if image.mode.startswith("I") or image.mode == "F":
        image = images.fromarray(_eight_bits(np.asarray(image), path))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = images.new("RGB", image.size, WHITE)
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, path: str | Path) -> np.ndarray:
    """Grey values [H, W] of 16 bits or floating point -> uint8 [H, W]."""
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.floating):
        most = 1.0 if high <= 1 else 255.0
    else:
        most = 65535.0
    if not 0 <= low <= high <= most:  # nan, too
        raise MediaError(
            f"the image {path} has values from {low:g} to {high:g}, expected 0..65535 of whole numbers, or 0..1 or "
            "0..255 of floating point: scale it to 8 bits"
        )
    return np.rint(values.astype(np.float64) * (255 / most)).astype(np.uint8)
