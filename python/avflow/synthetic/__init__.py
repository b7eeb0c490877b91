"""A question set that needs eyes and ears: short synthetic clips, made from a seed, as many as asked for::

    items = make_items("heldout", 90)          # scene and question; tasks in turn
    path = write_items(items, "folder")        # mp4 clips with sound, and samples.jsonl

Every clip has a picture and a sound. A visual question's sound is a distraction, and the reverse. Train and held-out
clips never share a scene (see scene.py).
"""

from .items import Item, LineupItem, frame_numbers, frames_read, make_items, write_items, write_scene
from .lineup import LINEUP_TASKS, Lineup, make_lineup
from .questions import TASKS, Question, Task, answer, ask
from .scene import Scene, make_scene
from .sound import waveform

__all__ = [
    "LINEUP_TASKS",
    "TASKS",
    "Item",
    "Lineup",
    "LineupItem",
    "Question",
    "Scene",
    "Task",
    "answer",
    "ask",
    "frame_numbers",
    "frames_read",
    "make_items",
    "make_lineup",
    "make_scene",
    "waveform",
    "write_items",
    "write_scene",
]
