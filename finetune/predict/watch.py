"""Watch a camera: scores, alarms and losses as events, written to files as they come."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from finetune.predict.alarms import Alarm, AlarmConfig, AlarmState, TimedScore
from finetune.predict.annotate import annotate
from finetune.predict.classifier import Classifier, Prediction, Score
from finetune.predict.live import CameraReader, LiveConfig, LiveScore, Loss, predict_live
from finetune.predict.timeline import Timeline, by_class, csv_header, csv_row, draw_timeline
from finetune.predict.windows import WindowConfig
from videomae.core.progress import logger
from videomae.data.video import Picture, VideoWriter, masked, open_writer

_KEPT = 20_000  # newest windows that the picture of the timeline shows
_SECONDS_BETWEEN_REPORTS = 60.0

Event = dict[str, Any]


@dataclass(frozen=True)
class WatchOptions:
    """How a camera is watched, and where the results go."""

    windows: WindowConfig
    alarm: AlarmConfig | None = None
    out: Path | None = None
    annotate: bool = False
    duration: float | None = None  # seconds; None: until a stop is requested
    live: LiveConfig = field(default_factory=LiveConfig)


def watch_camera(
    classifier: Classifier, source: str, options: WatchOptions, *, stopped: Callable[[], bool]
) -> Iterator[Event]:
    """Yield an event for every window, alarm and loss of a camera until `stopped`, or for `options.duration`.

    In `options.out`: camera.csv with a line per window, events.jsonl with the others, camera.png with the newest
    windows, and camera.annotated.mp4; both files of lines are continued if they exist.

    Raises:
        CameraError: the camera never answers.
    """
    end = None if options.duration is None else time.monotonic() + options.duration
    watch = _Watch(classifier, source, options)
    with contextlib.ExitStack() as stack:
        watch.open(stack)
        reader = CameraReader(source, options.windows, classifier, options.live, on_picture=watch.show)
        for event in predict_live(
            classifier, reader, stopped=lambda: stopped() or (end is not None and time.monotonic() > end)
        ):
            yield from watch.loss(event) if isinstance(event, Loss) else watch.window(event)
        yield from watch.finish()


class _Watch:
    """The state of one watched camera: the alarm, the newest windows, and the open files."""

    def __init__(self, classifier: Classifier, source: str, options: WatchOptions) -> None:
        self._classes, self._source, self._options = classifier.classes, masked(source), options
        self._alarm = None if options.alarm is None else AlarmState(options.alarm.rule)
        self._newest: deque[Score] = deque(maxlen=_KEPT)
        self._alarms: deque[Alarm] = deque(maxlen=_KEPT)
        self._lines: TextIO | None = None
        self._events: TextIO | None = None
        self._writer: VideoWriter | None = None
        self._size: tuple[int, ...] | None = None
        self._reported = time.monotonic()

    def open(self, stack: contextlib.ExitStack) -> None:
        """Open the files of `options.out` until the stack closes."""
        out = self._options.out
        if out is None:
            return
        out.mkdir(parents=True, exist_ok=True)
        self._lines, self._events = (
            stack.enter_context((out / name).open("a", newline="")) for name in ("camera.csv", "events.jsonl")
        )
        if not self._lines.tell():
            csv.writer(self._lines, lineterminator="\n").writerow(csv_header(self._classes))
        if self._options.annotate:
            file = out / "camera.annotated.mp4"
            self._writer = stack.enter_context(open_writer(file, fps=self._options.windows.fps, fragmented=True))

    def show(self, picture: Picture) -> None:
        """Write a picture with the newest score; called by the thread that reads."""
        if self._writer is None or not self._newest:
            return
        self._size = self._size or picture.frame_HWC.shape
        if picture.frame_HWC.shape == self._size:
            active, clock = self._alarm is not None and self._alarm.active, _time(picture.seconds)
            self._writer.write(
                annotate(picture.frame_HWC, self._newest[-1], self._classes, time=clock[11:19], alarm=active)
            )

    def window(self, live: LiveScore) -> Iterator[Event]:
        """Yield the events of a score."""
        score, best = live.score, int(np.argmax(live.score.probabilities))
        self._newest.append(score)
        if self._lines is not None:
            csv.writer(self._lines, lineterminator="\n").writerow(csv_row(score, self._classes))
            self._lines.flush()
        yield {
            "event": "window",
            "time": _time(score.end),
            "label": self._classes[best],
            "scores": by_class(self._classes, score.probabilities),
            "behind": round(live.behind, 3),
            "dropped": live.dropped,
        }
        yield from self._follow(score)
        self._report(live)

    def loss(self, loss: Loss) -> Iterator[Event]:
        """Yield the events of a loss: it ends an alarm."""
        if self._alarm is not None:
            yield from self._ended(self._alarm.end())
        yield self._record({"event": "loss", "time": _time(loss.time), "reason": loss.reason})

    def finish(self) -> Iterator[Event]:
        """End an alarm that still lasts, and draw the newest windows."""
        if self._alarm is not None:
            yield from self._ended(self._alarm.end())
        if self._options.out is None or not self._newest:
            return
        began = self._newest[0].start
        shifted = [Score(one.start - began, one.end - began, one.probabilities) for one in self._newest]
        prediction = Prediction(f"{self._source} from {_time(began)}", self._classes, tuple(shifted))
        alarms = (
            Alarm(alarm.start - began, alarm.end - began, alarm.raised - began, alarm.peak)
            for alarm in self._alarms
            if alarm.end > began
        )
        timeline = Timeline(prediction, self._options.alarm, tuple(alarms))
        draw_timeline(timeline, self._options.out / "camera.png")

    def _follow(self, score: Score) -> Iterator[Event]:
        if self._alarm is None or self._options.alarm is None:
            return
        before, name = self._alarm.active, self._options.alarm.name
        probability = score.probabilities[self._classes.index(name)]
        ended = self._alarm.add(TimedScore(score.start, score.end, probability))
        yield from self._ended(ended)
        if self._alarm.active and (not before or ended is not None):
            yield self._record({"event": "alarm", "time": _time(score.end), "class": name, "score": probability})

    def _ended(self, alarm: Alarm | None) -> Iterator[Event]:
        if alarm is not None:
            self._alarms.append(alarm)
            times = {"from": _time(alarm.start), "to": _time(alarm.end)}
            yield self._record({"event": "alarm ended", "time": times["to"], **times, "peak": alarm.peak})

    def _record(self, event: Event) -> Event:
        if self._events is not None:
            self._events.write(json.dumps(event) + "\n")
            self._events.flush()
        return event

    def _report(self, live: LiveScore) -> None:
        if time.monotonic() - self._reported >= _SECONDS_BETWEEN_REPORTS:
            self._reported = time.monotonic()
            logger.info(
                "%s: %.2f s behind, %d windows and %d packets dropped",
                *(self._source, live.behind, live.dropped, live.lost_packets),
            )


def _time(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
