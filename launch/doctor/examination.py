"""Runs all checks on all ranks within bounded time, and collects the findings.

Every probe runs in a thread of its own with a deadline: one that crashes is a red line, one that hangs is a red line
and is left behind. Once a meeting of all ranks has failed, no other is tried, and each rank judges what it knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from launch.doctor.finding import Answer, Check, Context, Finding

NETWORK = "network"
NETWORK_REMEDY = (
    "see that all processes run, that the hosts reach each other on all ports (firewall), and that GLOO_SOCKET_IFNAME "
    "and NCCL_SOCKET_IFNAME name the right interface; NCCL_DEBUG=INFO says more"
)


class Unreachable(Exception):
    """The ranks cannot meet."""


@dataclass(frozen=True)
class Outcome:
    """A call's result, or what went wrong."""

    value: Any = None
    fault: str | None = None


def within(seconds: float, action: Callable[[], Any]) -> Outcome:
    """What `action` gives, unless it crashes or takes longer than `seconds`; then its thread is left behind."""
    done: list[Outcome] = []

    def work() -> None:
        try:
            done.append(Outcome(action()))
        except Exception as error:  # whatever a probe raises is a finding
            done.append(Outcome(fault=f"{type(error).__name__}: {error}".splitlines()[0]))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return done[0] if done else Outcome(fault=f"no answer within {seconds:g} s")


def examine(context: Context, checks: Sequence[Check]) -> list[Finding]:
    """Every rank's findings; all of them are called with the same checks. Rank 0's are the ones to show."""
    wanted = [check for check in checks if check.wanted(context)]
    alone = [check for check in wanted if not check.together]
    own = {check.name: _answer(check, context) for check in alone}
    findings: list[Finding] = []
    try:
        gathered = _gather(own, context)
        met = [_meet(check, context) for check in wanted if check.together]
    except Unreachable as error:
        findings.append(Finding(NETWORK, "red", str(error), NETWORK_REMEDY))
        gathered, met = [own], []
    answers = {check.name: [part[check.name] for part in gathered] for check in alone}
    answers.update(zip([check.name for check in wanted if check.together], met, strict=False))
    for check in wanted:
        if check.name in answers:
            findings += _judged(check, answers[check.name], context)
    return findings


def _answer(check: Check, context: Context) -> Answer:
    def probe() -> Any:
        if context.world.device.type == "cuda":
            torch.cuda.set_device(context.world.device)
        return check.probe(context)

    outcome = within(check.seconds, probe)
    return Answer(context.world.rank, context.host, outcome.value, outcome.fault)


def _meet(check: Check, context: Context) -> list[Answer]:
    """A probe of all ranks together, and everyone's answers.

    Raises:
        Unreachable: the ranks did not meet in time.
    """
    return _gather(_answer(check, context), context)


def _gather(value: Any, context: Context) -> list[Any]:
    outcome = within(context.patience, lambda: context.world.gather(value))
    if outcome.fault is not None:
        raise Unreachable(f"not all of {context.world.size} ranks answer: {outcome.fault}")
    return outcome.value


def _judged(check: Check, answers: Sequence[Answer], context: Context) -> list[Finding]:
    """The judgement of those who answered, and a red line for each kind of fault."""
    faults: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.fault is not None:
            faults.setdefault(answer.fault, []).append(answer)
    findings = [
        Finding(check.name, "red", f"{', '.join(answer.place for answer in where[:4])}: {fault}", "see the line's text")
        for fault, where in faults.items()
    ]
    sound = [answer for answer in answers if answer.fault is None]
    if sound:
        judged = within(check.seconds, lambda: list(check.judge(sound, context)))
        if judged.fault is not None:
            findings.append(Finding(check.name, "red", f"cannot be judged: {judged.fault}", "report this"))
        else:
            findings += judged.value  # none, where there is nothing to say
    return findings
