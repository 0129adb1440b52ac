"""Draw predictions into a video: the label, its probability as a bar, and a red frame while an alarm lasts."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetune.predict.alarms import Alarm
from finetune.predict.classifier import Score
from finetune.predict.timeline import Timeline
from videomae.data.video import FrameHWC, open_writer, probe, stream_pictures

_BAR, _ALARM, _SHADE = (90, 200, 110), (225, 50, 40), (0, 0, 0, 150)
_LEAST_TEXT = 11  # pixels


def annotate_video(path: Path, timeline: Timeline, out: Path) -> None:
    """Write the video with its predictions as the mp4 file `out`, at its own size and rate, without sound."""
    windows, fps = timeline.prediction.windows, probe(path).fps
    middles = [(window.start + window.end) / 2 for window in windows]
    with open_writer(out, fps=fps) as writer:
        for picture in stream_pictures(path, fps=fps, short_side=None):
            score = windows[_nearest(middles, picture.seconds)]
            alarm = _is_during(timeline.alarms, picture.seconds)
            writer.write(
                annotate(
                    picture.frame_HWC, score, timeline.prediction.classes, time=clock(picture.seconds), alarm=alarm
                )
            )


def annotate(frame_HWC: FrameHWC, score: Score, classes: Sequence[str], *, time: str, alarm: bool = False) -> FrameHWC:
    """Return a copy of a picture with the label, its probability and `time` in a strip at the bottom."""
    image = Image.fromarray(frame_HWC)
    pen = ImageDraw.Draw(image, "RGBA")
    width, height = image.size
    size = max(_LEAST_TEXT, min(width, height) // 16)
    strip, best = size * 7 // 4, int(np.argmax(score.probabilities))
    top = height - strip
    pen.rectangle((0, top, width, height), fill=_SHADE)
    share = round(width * score.probabilities[best])
    pen.rectangle((0, height - max(2, size // 5), share, height), fill=_ALARM if alarm else _BAR)
    text = f"{classes[best]} {score.probabilities[best]:.0%}   {time}"
    pen.text((size // 2, top + size // 8), text, font=_font(size), fill="white")
    if alarm:
        pen.rectangle((0, 0, width - 1, height - 1), outline=_ALARM, width=max(2, size // 4))
    return np.asarray(image)


def clock(seconds: float) -> str:
    """Format a time within a recording as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _nearest(middles: Sequence[float], seconds: float) -> int:
    place = bisect.bisect_left(middles, seconds)
    return min((place - 1, place), key=lambda near: abs(middles[near] - seconds) if 0 <= near < len(middles) else 1e18)


def _is_during(alarms: Sequence[Alarm], seconds: float) -> bool:
    return any(alarm.start <= seconds < alarm.end for alarm in alarms)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings; it has Latin, Greek and Cyrillic letters."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
