"""Figures of a window against a clock that the test turns by hand."""

import pytest
import torch

from videomae.run.metrics.meter import Meter, Workload, memory_gb
from videomae.run.metrics.peak import PeakFlops


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_window_counts_training_alone_and_tells_the_rest_apart() -> None:
    clock = Clock()
    meter = Meter(batch=32, devices=2, flops=10**12, peak=PeakFlops(8.0, "given"), clock=clock)
    for _ in range(5):
        with meter.data_wait():
            clock.now += 0.5
        clock.now += 1.5
        meter.step()
    with meter.exclude_time("evaluation"):
        clock.now += 1000
    with meter.exclude_time("save"):
        clock.now += 7
    values = meter.read()
    assert values == {
        "seconds": 10.0,
        "step_seconds": 2.0,
        "samples_per_second": 16.0,
        "data_seconds": 2.5,
        "data_percent": 25.0,
        "teraflops": 8.0,  # 16 clips a second of 1 TFLOP on two devices
        "mfu": 1.0,
        "evaluation_seconds": 1000.0,
        "save_seconds": 7.0,
    }
    clock.now += 2
    meter.step()
    again = meter.read(waited=1.0)
    assert (again["seconds"], again["data_percent"]) == (2.0, 50.0)
    assert "evaluation_seconds" not in again


def test_time_aside_counts_when_what_is_done_there_fails() -> None:
    clock = Clock()
    meter = Meter(batch=1, devices=1, flops=1, peak=PeakFlops(None, "unknown"), clock=clock)

    def save() -> None:
        with meter.exclude_time("save"):
            clock.now += 3
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        save()
    clock.now += 1
    meter.step()
    values = meter.read()
    assert (values["seconds"], values["save_seconds"], values["mfu"]) == (1.0, 3.0, None)


def test_a_window_begun_anew_forgets() -> None:
    clock = Clock()
    meter = Meter(batch=1, devices=1, flops=1, peak=PeakFlops(1.0, "given"), clock=clock)
    with meter.data_wait():
        clock.now += 5
    meter.restart()
    clock.now += 1
    meter.step()
    assert meter.read()["data_seconds"] == 0.0


def test_operations_are_two_a_multiply_add() -> None:
    assert Workload(multiply_adds={"encoder": 3, "decoder": 4}, parameters=1).flops == 14


def test_memory_of_a_process_on_a_cpu_grows_with_what_it_holds() -> None:
    before = memory_gb(torch.device("cpu"))
    held = bytearray(b"x" * 200_000_000)
    assert memory_gb(torch.device("cpu")) - before > 0.1
    del held
