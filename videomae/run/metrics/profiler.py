"""Profile some steps with torch.profiler: a trace for Perfetto or chrome://tracing, and a table of the top operators.

Outside of these steps the cost is one comparison per step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videomae.core.distributed import World
from videomae.core.progress import logger
from videomae.run.metrics.config import ProfileConfig

_ROWS = 40  # of the table


class ProfilerWindow:
    """Records the configured steps on the configured ranks into `folder`; a profiler error does not end the run."""

    def __init__(self, config: ProfileConfig | None, *, folder: Path, world: World) -> None:
        enabled = config is not None and world.rank in config.ranks
        self._window = range(config.start, config.start + config.steps) if config is not None and enabled else range(0)
        self._folder, self._world = folder, world
        self._profiler: Any = None
        self._first = self._last = 0

    def begin(self, step: int) -> None:
        """Before the 0-based `step`: start recording in the window, even in its middle if a run resumes there."""
        if step in self._window and self._profiler is None:
            self._profiler, self._first = self._start(), step
            self._last = step

    def end(self, step: int) -> None:
        """After `step`: write the profile at the end of the window."""
        if self._profiler is not None:
            self._last = step
            if step + 1 not in self._window:
                self.close()

    def close(self) -> None:
        """Write the profile, also if a run ends within the window."""
        if self._profiler is not None:
            self._write(self._profiler)
            self._profiler, self._window = None, range(0)

    def _start(self) -> Any:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._world.device.type == "cuda" else [])]
        try:
            profiler = profile(activities=activities, record_shapes=True, acc_events=True)
            profiler.start()
        except RuntimeError as error:
            logger.warning("the profiler cannot start: %s; training continues", error)
            self._window = range(0)
            return None
        return profiler

    def _write(self, profiler: Any) -> None:
        name = f"{self._folder / f'rank-{self._world.rank}-steps-{self._first}-{self._last}'}"
        key = f"self_{self._world.device.type}_time_total"
        try:
            profiler.stop()
            self._folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(f"{name}.json")
            Path(f"{name}.txt").write_text(profiler.key_averages().table(sort_by=key, row_limit=_ROWS) + "\n")
        except (RuntimeError, OSError) as error:
            logger.warning("the profile of steps %d to %d cannot be written: %s", self._first, self._last, error)
            return
        logger.info("profile of steps %d to %d: %s.json (for ui.perfetto.dev) and .txt", self._first, self._last, name)
