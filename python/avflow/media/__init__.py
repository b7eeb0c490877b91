"""Files of video, sound and pictures as tensors. What a model family's file needs is named here."""

from ..moved import old_names
from .audio import SAMPLE_RATE, align_sound, read_audio
from .video import Video, frame_count, read_image, read_video, resize

__all__ = ["SAMPLE_RATE", "Video", "align_sound", "frame_count", "read_audio", "read_image", "read_video", "resize"]

__getattr__ = old_names(__name__)
