"""The parts of a check: a probe that runs on every rank, and a judgement of all ranks' answers.

A probe inspects its own machine and returns plain values. A judgement is a pure function of them, so a test produces
any red line by passing answers. Every probe runs in a thread with a deadline: one that crashes or hangs becomes a red
line, and a hung thread is abandoned. Once the ranks fail to communicate, no further collective check runs, and each
rank judges the answers that it has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from launch.plan.model import Config
from videomae.core.distributed import World
from videomae.core.errors import UserError, listing

Level = Literal["green", "yellow", "red"]
Key = TypeVar("Key", bound=Hashable)
_LEVELS: tuple[Level, ...] = ("green", "yellow", "red")
NETWORK = "network"
NETWORK_REMEDY = (
    "check that all processes run, that the hosts reach each other on all ports (firewall), and that "
    "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the right interface; NCCL_DEBUG=INFO prints more"
)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One line of the table."""

    check: str = ""  # a judgement leaves it out, and `run_checks` fills it in
    level: Level
    message: str
    remedy: str = ""  # what to do; empty if green


def passed(message: str) -> list[CheckResult]:
    return [CheckResult(level="green", message=message)]


def warned(message: str, remedy: str) -> list[CheckResult]:
    return [CheckResult(level="yellow", message=message, remedy=remedy)]


def failed(message: str, remedy: str, *, check: str = "") -> list[CheckResult]:
    return [CheckResult(check=check, level="red", message=message, remedy=remedy)]


def worst_level(results: Sequence[CheckResult]) -> Level:
    """The most severe level; green without results."""
    return _LEVELS[max((_LEVELS.index(result.level) for result in results), default=0)]


@dataclass(frozen=True)
class Answer:
    """What a probe returned on one rank, or why it failed."""

    rank: int
    host: str
    value: Any = None
    error: str | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host})"


def name_ranks(answers: Sequence[Answer]) -> str:
    return listing(answers, 4)


def group_by(answers: Sequence[Answer], key: Callable[[Answer], Key]) -> dict[Key, list[Answer]]:
    """Answers with equal `key`, in the order of their first ranks."""
    groups: dict[Key, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return groups


def by_host(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    return group_by(answers, lambda answer: answer.host)


def one_per_host(answers: Sequence[Answer]) -> list[Answer]:
    """The answer of each host's first rank."""
    return [ranks[0] for ranks in by_host(answers).values()]


@dataclass(frozen=True)
class Context:
    """The arguments of probes and judgements."""

    world: World
    host: str
    config: Config | None = None
    run: Path = Path()  # the run directory, which may not exist yet
    timeout: float = 60.0  # seconds for all ranks to answer

    @property
    def on_gpu(self) -> bool:
        return self.world.device.type == "cuda"


Judge = Callable[[Sequence[Answer], Context], Sequence[CheckResult]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A probe and its judgement."""

    name: str
    probe: Callable[[Context], Any]
    judge: Judge
    timeout: float = 20.0  # seconds after which the probe counts as hung
    collective: bool = False  # the probe communicates with the other ranks, or must run at the same time on all
    min_ranks: int = 1
    applies: Callable[[Context], bool] = lambda context: True


def call_within(seconds: float, action: Callable[[], Any]) -> tuple[Any, str | None]:
    """The result of `action`, called in a thread, and the error if it raises or takes longer than `seconds`."""
    done: list[tuple[Any, str | None]] = []

    def work() -> None:
        try:
            done.append((action(), None))
        except UserError as error:
            done.append((None, str(error)))
        except Exception as error:  # whatever a probe raises becomes a red line
            done.append((None, f"{type(error).__name__}: {error}".splitlines()[0]))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return done[0] if done else (None, f"no answer within {seconds:g} s")


def run_checks(context: Context, checks: Sequence[Check]) -> list[CheckResult]:
    """Run `checks`, the same on every rank. Rank 0's results are those to show."""
    checks = [check for check in checks if context.world.size >= check.min_ranks and check.applies(context)]
    local = [check for check in checks if not check.collective]
    answers = {check.name: [_probe(check, context)] for check in local}
    results: list[CheckResult] = []
    try:
        gathered = _gather([answers[check.name][0] for check in local], context)
        answers |= {check.name: [rank[number] for rank in gathered] for number, check in enumerate(local)}
        for check in checks:
            if check.collective:
                answers[check.name] = _gather(_probe(check, context), context)
    except ConnectionError as error:
        results += failed(str(error), NETWORK_REMEDY, check=NETWORK)
    for check in checks:
        results += _judge(check, answers.get(check.name, []), context)
    return results


def _probe(check: Check, context: Context) -> Answer:
    def probe() -> Any:
        if context.on_gpu:
            torch.cuda.set_device(context.world.device)
        return check.probe(context)

    return Answer(context.world.rank, context.host, *call_within(check.timeout, probe))


def _gather(value: Any, context: Context) -> list[Any]:
    values, error = call_within(context.timeout, lambda: context.world.all_gather_object(value))
    if error is not None:
        raise ConnectionError(f"not all of {context.world.size} ranks answer: {error}")
    return values


def _judge(check: Check, answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """The judgement of the ranks that answered, and a red line for each error of the others."""
    errors = group_by([answer for answer in answers if answer.error is not None], lambda answer: answer.error)
    results: list[CheckResult] = []
    for error, ranks in errors.items():
        results += failed(f"{name_ranks(ranks)}: {error}", "fix what the message names")
    answered = [answer for answer in answers if answer.error is None]
    if answered:
        judged, error = call_within(check.timeout, lambda: list(check.judge(answered, context)))
        results += judged if error is None else failed(f"cannot judge: {error}", "report this")
    return [replace(result, check=check.name) for result in results]
