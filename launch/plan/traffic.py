"""Bytes that one step moves: between devices, and from the shards.

Gradients are averaged and weights spread by ring algorithms (Patarasuk and Yuan 2009), in which each of N devices sends
and receives (N - 1)/N of a tensor for a reduce-scatter or an all-gather, and twice that for an all-reduce.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.machine import Machine
from launch.plan.memory import SINGLE
from launch.plan.workload import Workload
from videomae.engine.deepspeed_engine import BUCKET

LINK_EFFICIENCY = 0.8  # of a link's rate that large messages reach: assumed, `python -m launch.doctor` measures it
HOP = 5e-6  # seconds from one device to the next, for each collective's steps
DEFAULT_VIDEO = 207_000  # bytes: ten seconds at 340 x 256, 7.5 frames a second, GOP 16 (measured with x264)
DECODING_SHARE = 0.83  # of a core's time on a clip that goes into decoding; the rest is cropping, once for each crop


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Of one optimizer step."""

    volume: int  # bytes of the tensors that are reduced and gathered, before the ring's factor
    sent: int  # bytes that each device sends
    messages: int  # collectives
    seconds: float  # if nothing else ran


def traffic(workload: Workload, machine: Machine, *, stage: int, micro_batches: int) -> Traffic:
    """What ZeRO moves a step: at stages 0 and 1 once, at 2 the gradients and at 3 also the weights each micro-batch."""
    config = workload.config
    width = SINGLE if stage == 0 or config.engine.precision == "fp32" else 2
    everything, trained = (width * count for count in workload.counts)
    scattered, gathered = {  # tensors' bytes that are reduce-scattered, and that are all-gathered
        0: (trained, trained),
        1: (trained, trained),
        2: (trained * micro_batches, trained),
        3: (trained * micro_batches, 2 * everything * micro_batches),
    }[stage]
    volume = scattered + gathered
    size = machine.size
    if size == 1:
        return Traffic(volume=volume, sent=0, messages=0, seconds=0.0)
    bucket = BUCKET * width
    layers = 4 * 40 * micro_batches if stage == 3 else 0  # weights come by the layer
    messages = layers + -(-volume // bucket)
    inside = volume * (machine.gpus - 1) / machine.gpus / machine.inside
    outside = volume * (machine.nodes - 1) / machine.nodes / machine.outside
    hops = (machine.gpus - 1) + 2 * (machine.nodes - 1)
    return Traffic(
        volume=volume,
        sent=int(volume * (size - 1) / size),
        messages=messages,
        seconds=(inside + outside) / LINK_EFFICIENCY + messages * hops * HOP,
    )


def clips_a_core(machine: Machine, repeats: int) -> float:
    """Clips a second that one core makes when `repeats` of them come from one decoded video."""
    return machine.decoded_a_core / (DECODING_SHARE / repeats + 1 - DECODING_SHARE)
