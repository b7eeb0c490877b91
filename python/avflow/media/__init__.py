"""Files of video, sound and pictures as tensors. What a model family's file needs is named here."""

from ..moved import old_names
from .audio import SAMPLE_RATE, align_sound, read_audio
from .container import MediaFile, open_media
from .images import resize
from .stills import read_image
from .video import Video, frame_count, read_video

__all__ = [
    "SAMPLE_RATE",
    "MediaFile",
    "Video",
    "align_sound",
    "frame_count",
    "open_media",
    "read_audio",
    "read_image",
    "read_video",
    "resize",
]

__getattr__ = old_names(__name__)
