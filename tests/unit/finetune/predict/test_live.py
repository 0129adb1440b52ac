"""A live camera over RTSP: no picture is invented, none spans a loss, delay and memory are bounded."""

import itertools
import socket
import time
from collections.abc import Generator

import pytest
import torch
from torch import Tensor, nn

from benchmarks.camera import watch
from finetune.export import TrainedClassifier
from finetune.models.examples import ExampleConfig
from finetune.predict import Classifier
from finetune.predict.live import CameraReader, LiveConfig, LiveScore, Loss, predict_live
from finetune.predict.windows import WindowConfig
from finetune.stored_clips import StoredClips
from tests.rtsp import FPS, Camera, number_of
from videomae.data.video import CameraError, is_camera, masked
from videomae.data.video.camera import _Pace

QUICK = LiveConfig(timeout=5, backoff=(0.2, 0.5))
WINDOWS = WindowConfig(fps=FPS, length=8, hop=2, clips=1, crops=1)


class Slow(nn.Module):
    """Logits from the mean pixel, after a wait: a model that may be too slow for its camera."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        time.sleep(self.seconds)
        mean_B = video_BCTHW.mean((1, 2, 3, 4))
        return torch.stack([mean_B, -mean_B], dim=1)


def classifier(seconds: float = 0.0) -> Classifier:
    stored = StoredClips(fps=FPS, seconds=0.8, longest=1.0, short_side=64)
    model = ExampleConfig(frames=4, size=16)
    trained = TrainedClassifier(Slow(seconds), model, ("Calm", "Fight"), stored)
    return Classifier(trained, device=torch.device("cpu"))


def until(
    reader: CameraReader, model: Classifier, enough: int, *, deadline: float = 240
) -> Generator[LiveScore | Loss]:
    """The first `enough` events."""
    end = time.monotonic() + deadline
    yield from itertools.islice(predict_live(model, reader, stopped=lambda: time.monotonic() > end), enough)


def test_a_camera_that_is_cut_and_restored() -> None:
    with Camera() as camera:
        shown: list[tuple[int, float]] = []
        model = classifier()
        reader = CameraReader(
            camera.address,
            WINDOWS,
            model,
            QUICK,
            on_picture=lambda picture: shown.append((number_of(picture.frame_HWC), picture.seconds)),
        )
        events = until(reader, model, 100)
        before = [next(events) for _ in range(4)]
        assert all(isinstance(event, LiveScore) for event in before)
        camera.cut()
        loss = next(event for event in events if isinstance(event, Loss))
        assert "secret" not in loss.reason
        last_before, sent_at_cut = shown[-1][0], camera.sent
        camera.restore()
        after = [event for event in itertools.islice(events, 4) if isinstance(event, LiveScore)]
        events.close()
    assert len(after) == 4
    scored = [event for event in before if isinstance(event, LiveScore)]
    assert after[0].score.start > scored[-1].score.end  # no window spans the loss
    numbers = [number for number, _ in shown]
    assert numbers == sorted(numbers)
    assert set(numbers) <= set(range(camera.sent + 1))
    assert last_before <= sent_at_cut
    gaps = [second - first for first, second in itertools.pairwise(numbers)]
    assert max(gaps) > 1  # the pictures of the loss are missing
    assert sum(gap == 0 for gap in gaps) <= 2  # and not replaced by repeated ones
    assert all(event.behind < 5 for event in [*scored, *after])


def test_a_model_that_is_too_slow_gets_the_newest_window() -> None:
    with Camera() as camera:
        model = classifier(seconds=1.0)
        reader = CameraReader(camera.address, WINDOWS, model, QUICK)
        events = [event for event in until(reader, model, 4) if isinstance(event, LiveScore)]
    assert events[-1].dropped >= 6  # five windows a second, one of them scored
    starts = [event.score.start for event in events]
    assert all(later - earlier > 0.5 for earlier, later in itertools.pairwise(starts))


def test_a_camera_that_never_answers() -> None:
    model = classifier()
    with pytest.raises(CameraError, match="no such camera"):
        next(predict_live(model, CameraReader("/dev/video87", WINDOWS, model, QUICK), stopped=lambda: False))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"rtsp://viewer:secret@127.0.0.1:{silent.getsockname()[1]}/x"
        reader = CameraReader(address, WINDOWS, model, LiveConfig(timeout=1))
        with pytest.raises(CameraError, match="no data for 1 s; no picture ever came") as error:
            next(predict_live(model, reader, stopped=lambda: False))
    assert "secret" not in str(error.value)


@pytest.mark.long
def test_ten_thousand_windows_of_a_camera_that_is_cut_again_and_again() -> None:
    found = watch(10_000, cuts=4)
    assert found.windows >= 10_000
    assert found.losses == 4
    assert found.invented == found.spanning == 0
    assert found.repeated < found.pictures / 100
    assert found.longest_delay < 5
    assert found.memory_at_the_end < found.memory_after_a_fifth + 4_000_000


def test_packets_that_arrive_late_are_noticed_and_clocks_may_drift() -> None:
    pace = _Pace()
    assert pace.lag(100.0, 5.0) == 0
    assert pace.lag(101.0, 6.5) == pytest.approx(0.5, abs=0.01)
    assert pace.lag(102.0, 7.1) == pytest.approx(0.1, abs=0.01)
    lags = [pace.lag(102 + second, 7.1 + second * 1.0005) for second in range(1, 5000)]  # a slow camera's clock
    assert max(lags[100:]) < 0.2
    assert pace.lag(3.0, 5100.0) == 0  # the camera was started again


@pytest.mark.parametrize(
    ("source", "camera"),
    [("0", True), ("/dev/video1", True), ("rtsp://a:b@host/x", True), ("http://host/x.mjpg", True), ("a/b.mp4", False)],
)
def test_which_sources_are_cameras(source: str, camera: bool) -> None:
    assert is_camera(source) == camera
    assert ":b@" not in masked(source)
