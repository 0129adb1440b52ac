"""Predict on a camera, in constant memory and with a bounded delay.

A thread reads the camera and keeps only the newest complete window; windows that the model has no time for are counted
and dropped. After a loss it connects again, and a new window begins: none spans the loss.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from finetune.predict.classifier import Classifier, Score
from finetune.predict.windows import SlidingWindows, Window, WindowConfig
from videomae.core.progress import logger
from videomae.data.video import CameraError, Picture, TimedFrame, masked, read_camera, sample_pictures

_BACKOFF = (1.0, 30.0)  # seconds between two attempts to connect: the first, doubled up to the last
_LONGEST_HOLD = 2.0  # seconds for which a picture is repeated when the camera sends none


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """How a camera is read."""

    timeout: float = 10.0  # seconds without an answer, or without data, that count as a loss
    backoff: tuple[float, float] = _BACKOFF


@dataclass(frozen=True)
class LiveScore:
    """The score of a window; times are in seconds since the epoch."""

    score: Score
    behind: float  # seconds from the arrival of the window's last picture to its score
    dropped: int  # windows dropped so far, because the model was busy
    lost_packets: int  # packets dropped so far, because decoding was behind


@dataclass(frozen=True)
class Loss:
    """The camera was lost, at a time in seconds since the epoch; connecting is tried again until it succeeds."""

    time: float
    reason: str


@dataclass(frozen=True)
class _Arrived:
    window: Window
    at: float  # time.monotonic()


class CameraReader(threading.Thread):
    """Reads one camera until `stop`; `take` waits for the newest window or the next loss."""

    def __init__(
        self,
        source: str,
        windows: WindowConfig,
        classifier: Classifier,
        config: LiveConfig,
        *,
        on_picture: Callable[[Picture], None] = lambda picture: None,
    ) -> None:
        super().__init__(name=f"camera {masked(source)}", daemon=True)
        self.source, self._config, self._on_picture = source, config, on_picture
        self._windows, self._input = windows, classifier.input
        self._short_side = classifier.stored.short_side
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._newest: _Arrived | None = None
        self._loss: Loss | None = None
        self._failure: BaseException | None = None
        self.dropped = self.lost_packets = self.connections = self.pictures = 0

    def run(self) -> None:
        """Connect, read, and connect again after a loss, until `stop`."""
        wait = self._config.backoff[0]
        try:
            while not self._stopping.is_set():
                before = self.connections
                reason = self._read_once()
                if self._stopping.is_set():
                    return
                if not self.connections:
                    raise CameraError(f"{reason}; no picture ever came: check the address and the camera")
                if self.connections > before:
                    wait = self._config.backoff[0]
                    with self._changed:
                        self._loss = Loss(time.time(), reason)
                        self._changed.notify()
                self._stopping.wait(wait)
                wait = min(2 * wait, self._config.backoff[1])
        except BaseException as error:  # raised again by `take`, in the thread that predicts
            with self._changed:
                self._failure = error
                self._changed.notify()

    def stop(self) -> None:
        """Ask the thread to end; it does so with the next picture, or when its connection times out."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()

    def take(self, seconds: float) -> _Arrived | Loss | None:
        """Return the next loss or the newest window, or None if neither comes within `seconds`.

        Raises:
            CameraError: the camera has never answered.
        """
        with self._changed:
            if self._newest is None and self._loss is None and self._failure is None:
                self._changed.wait(seconds)
            if self._failure is not None:
                raise self._failure
            if self._newest is not None:  # read before the loss
                arrived, self._newest = self._newest, None
                return arrived
            loss, self._loss = self._loss, None
            return loss

    def _read_once(self) -> str:
        """Read until the connection ends, and return the reason."""
        sliding = SlidingWindows(self._windows, self._input)
        try:
            for picture, clock in self._pictures():
                self.pictures += 1
                self._on_picture(replace(picture, seconds=clock))
                window = sliding.add(replace(picture, seconds=clock))
                if window is not None:
                    with self._changed:
                        self.dropped += self._newest is not None
                        self._newest = _Arrived(window, time.monotonic())
                        self._changed.notify()
                if self._stopping.is_set():
                    return "stopped"
        except CameraError as error:
            return str(error)
        return f"{masked(self.source)}: the stream has ended"

    def _pictures(self) -> Iterator[tuple[Picture, float]]:
        """Yield the sampled pictures of one connection, and their times since the epoch."""
        began: list[float] = []

        def frames() -> Iterator[TimedFrame]:
            for frame in read_camera(self.source, timeout=self._config.timeout, dropped=self._count_lost):
                if not began:
                    began.append(time.time() - frame.seconds)
                    self.connections += 1
                yield frame

        sampled = sample_pictures(
            frames(), fps=self._windows.fps, short_side=self._short_side, longest_hold=_LONGEST_HOLD
        )
        for picture in sampled:
            yield picture, began[0] + picture.seconds

    def _count_lost(self, packets: int) -> None:
        self.lost_packets += packets


def predict_live(
    classifier: Classifier, reader: CameraReader, *, stopped: Callable[[], bool]
) -> Iterator[LiveScore | Loss]:
    """Yield a score for the newest window whenever one is complete, and every loss, until `stopped`.

    Raises:
        CameraError: the camera never answers.
    """
    reader.start()
    try:
        while not stopped():
            event = reader.take(0.2)
            if isinstance(event, Loss):
                logger.warning("lost %s; connecting again", event.reason)
                yield event
            elif event is not None:
                (score,) = classifier.score([event.window])
                behind = time.monotonic() - event.at
                yield LiveScore(score, behind, reader.dropped, reader.lost_packets)
    finally:
        reader.stop()
