"""The engine configurations compared with the reference engine: all of them, and a pairwise covering choice.

In `PAIRWISE`, which every test run covers, any two values of two factors occur together in at least one case.
"""

from dataclasses import dataclass
from itertools import product

STEPS = 10  # of a case in the test suite
MATRIX_STEPS = 20  # of a case in the full matrix
BATCH = 16  # clips per step, over all processes
CLIP = 0.1  # below the norms that occur, so that it has an effect
EMA = 0.9


@dataclass(frozen=True)
class Reference:
    """The settings that change the numbers."""

    clip: bool
    ema: bool
    decay: bool  # parameter groups with different learning rates
    muon: bool = False  # on the matrices of the blocks

    @property
    def name(self) -> str:
        parts = ("clip" if self.clip else "free", "ema" if self.ema else "plain", "decay" if self.decay else "even")
        return "-".join((*parts, "muon" if self.muon else "adamw"))


@dataclass(frozen=True)
class Case:
    """A DeepSpeed configuration, and the reference that it must match."""

    processes: int
    stage: int
    accumulation: int  # micro-batches per step and process
    reference: Reference

    @property
    def name(self) -> str:
        return f"{self.processes}x-zero{self.stage}-accumulate{self.accumulation}-{self.reference.name}"


def _case(processes: int, stage: int, accumulation: int, flags: str) -> Case:
    return Case(processes, stage, accumulation, Reference(*(flag == "1" for flag in flags)))


REFERENCES = [Reference(*flags) for flags in product((False, True), repeat=4)]
FULL = [Case(*values) for values in product((1, 2, 4), (0, 1, 2, 3), (1, 4), REFERENCES)]
PAIRWISE = [
    _case(1, 0, 1, "0101"),
    _case(1, 1, 4, "1010"),
    _case(1, 2, 4, "0011"),
    _case(1, 3, 1, "1000"),
    _case(2, 0, 4, "1110"),
    _case(2, 1, 4, "0111"),
    _case(2, 2, 1, "1001"),
    _case(2, 3, 1, "0011"),
    _case(4, 0, 4, "1010"),
    _case(4, 1, 1, "0001"),
    _case(4, 2, 4, "1100"),
    _case(4, 3, 4, "0100"),
]

STAGES = (0, 1, 2, 3)
# Every pair of a stage and a precision is either resumed or given bad steps. Only bf16 is loaded by other engines, and
# only fp16 has a loss scale.
RESUMED = [*((stage, "bf16") for stage in STAGES), (0, "fp32"), (3, "fp32"), (1, "fp16"), (2, "fp16")]
BAD_STEPS = [*((stage, "fp16") for stage in STAGES), (1, "fp32"), (2, "fp32"), (0, "bf16"), (3, "bf16")]


def loaded_by(stage: int, processes: int) -> list[int | str]:
    """The engines that load the state of a stage: together, one and four processes load it into all."""
    if processes == 4:
        return [stage, (stage + 3) % 4]
    return ["local", (stage + 1) % 4, (stage + 2) % 4]
