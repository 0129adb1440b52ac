"""Every check, in the order in which its findings are shown."""

from __future__ import annotations

from launch.doctor import hardware, limits, mirror, network, storage, versions
from launch.doctor.finding import Check, Context


def _on_gpu(context: Context) -> bool:
    return context.world.device.type == "cuda"


CHECKS: tuple[Check, ...] = (
    Check(name=versions.NAME, probe=versions.probe, judge=versions.judge, seconds=30),
    Check(name=hardware.DEVICES, probe=hardware.probe_devices, judge=hardware.judge_devices),
    Check(name=hardware.LINKS, probe=hardware.probe_links, judge=hardware.judge_links, wanted=_on_gpu),
    Check(name=network.NAMES, probe=network.probe_names, judge=network.judge_names, seconds=15),
    Check(
        name="firewall",
        probe=network.probe_doors,
        judge=network.judge_doors,
        seconds=30,
        together=True,
        wanted=network.several,
    ),
    Check(
        name=network.CLOCKS, probe=network.probe_clock, judge=network.judge_clock, together=True, wanted=network.several
    ),
    Check(
        name=network.REDUCE,
        probe=network.probe_reduce,
        judge=network.judge_reduce,
        seconds=60,
        together=True,
        wanted=network.several,
    ),
    # Together, so that neighbours load the host as they will in a run.
    Check(name=hardware.SPEED, probe=hardware.probe_speed, judge=hardware.judge_speed, seconds=30, together=True),
    Check(name=limits.SHARED, probe=limits.probe_shared, judge=limits.judge_shared),
    Check(name=limits.FILES, probe=limits.probe_limits, judge=limits.judge_limits),
    Check(name=limits.CORES, probe=limits.probe_cores, judge=limits.judge_cores),
    Check(name=storage.DISK, probe=storage.probe_disk, judge=storage.judge_disk, seconds=60, wanted=storage.has_run),
    Check(
        name=storage.SHARED,
        probe=storage.probe_shared,
        judge=storage.judge_shared,
        together=True,
        wanted=lambda context: storage.has_run(context) and network.several(context),
    ),
    Check(
        name=storage.SHARDS,
        probe=storage.probe_shards,
        judge=storage.judge_shards,
        seconds=60,
        wanted=storage.has_config,
    ),
    Check(name=mirror.NAME, probe=mirror.probe, judge=mirror.judge),
)
