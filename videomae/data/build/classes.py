"""Turn the labels of samples, which are numbers or names, into classes: names in the order of the class indices.

Numeric labels count from 0, or from 1 if none is 0. Without given names a class is named by its number.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videomae.core.errors import UserError
from videomae.data.build.text_files import read_lines

Label = int | str
UNLABELLED = -1
_DENSE_CLASSES = 1000  # up to here numeric labels may leave any gaps: a small part of Kinetics-700 is a usual set
_SPARSEST = 10  # beyond, at most this many classes for each that occurs; otherwise the highest label is a mistake
_INTEGER = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NUMBERED_NAME = re.compile(r"(\d+)[\s,:]+(.+)", re.ASCII)
_log = logging.getLogger(__name__)


class LabelError(UserError):
    """Labels that are contradictory, or denote no class."""


@dataclass(frozen=True)
class Classes:
    """Class names in the order of their indices; numeric labels count from `first_number`."""

    names: tuple[str, ...]
    first_number: int = 0

    def index(self, label: Label | None) -> int:
        """The class index of a label; -1 for None."""
        if label is None:
            return UNLABELLED
        return label - self.first_number if isinstance(label, int) else self.names.index(label)


def parse_label(value: object, place: str) -> Label | None:
    """A class number or name; None if `value` is empty, NaN or -1, the usual signs of a missing label.

    Raises:
        LabelError: a negative or fractional number, or not a single value; the message names `place`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise LabelError(f"{place}: label {value!r}; wanted a class number or a class name")
    text = str(value).strip()
    if text.lower() in ("", "nan"):
        return None
    if _INTEGER.fullmatch(text):
        number = int(text.partition(".")[0])
        if number < UNLABELLED:
            raise LabelError(f"{place}: label {number}; wanted a number from 0, or -1 for a sample without a label")
        return None if number == UNLABELLED else number
    binary = any(unicodedata.category(letter) == "Cc" for letter in text)
    if _NUMBER.fullmatch(text) or binary:
        shown = repr(text[:20]) if binary else text
        raise LabelError(f"{place}: label {shown}; wanted a whole number from 0, or a class name")
    return text


def resolve_classes(labels: Iterable[tuple[Label | None, str]], given: Sequence[str] = ()) -> Classes:
    """The classes of labels, each with the place where it occurs; `given` names all classes in order.

    Raises:
        LabelError: labels mix names and numbers, are none of the given classes, or are too far apart to be class
            numbers.
    """
    places: dict[Label, str] = {}
    for label, place in labels:
        if label is not None:
            places.setdefault(label, place)
    names = sorted(label for label in places if isinstance(label, str))
    numbers = sorted(label for label in places if isinstance(label, int))
    if names and numbers:
        raise LabelError(
            f"labels mix names ({names[0]!r} in {places[names[0]]}) and numbers "
            f"({numbers[0]} in {places[numbers[0]]}); use one kind"
        )
    if given:
        classes = _given_classes(places, tuple(given), numbers)
    elif numbers:
        classes = _numbered_classes(places, numbers)
    else:
        classes = Classes(tuple(names))
    _warn_of_names(classes.names)
    _warn_of_unused(classes, [classes.index(label) for label in places])
    return classes


def read_class_names(file: Path) -> list[str]:
    """Read a file with one class name a line; lines may be numbered, such as `0 abseiling`.

    Raises:
        SourceError: there is no such file, or it is not text.
        LabelError: the file is empty, or a name occurs twice.
    """
    wanted = "a file with one class name a line"
    names = [line for line in read_lines(file, wanted) if line]
    if not names:
        raise LabelError(f"{file} names no class; wanted {wanted}")
    numbered = [match for match in map(_NUMBERED_NAME.fullmatch, names) if match]
    numbers = sorted(int(match[1]) for match in numbered)
    if numbers in (list(range(len(names))), list(range(1, len(names) + 1))):
        names = [match[2] for match in sorted(numbered, key=lambda match: int(match[1]))]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise LabelError(f"{file} names the class {twice[0]!r} twice; name each class once, in the order of the labels")
    return names


def _given_classes(places: Mapping[Label, str], given: tuple[str, ...], numbers: list[int]) -> Classes:
    if len(set(given)) < len(given):
        raise LabelError(f"the classes {', '.join(given)} name one twice; name each class once")
    if numbers and numbers[0] == 1 and numbers[-1] == len(given):
        _log.warning("the labels count from 1 to %d, as many as there are class names: 1 is %s", numbers[-1], given[0])
        return Classes(given, 1)
    unknown = [label for label in places if (label not in given if isinstance(label, str) else label >= len(given))]
    if unknown:
        raise LabelError(
            f"label {unknown[0]} in {places[unknown[0]]} is none of the {len(given)} classes, "
            f"{', '.join(f'{number} {name}' for number, name in enumerate(given[:5]))}"
            f"{' ...' if len(given) > 5 else ''}; name all classes, in the order of the labels"
        )
    return Classes(given)


def _numbered_classes(places: Mapping[Label, str], numbers: list[int]) -> Classes:
    first = min(numbers[0], 1)
    count = numbers[-1] + 1 - first
    if count > _DENSE_CLASSES and count > _SPARSEST * len(numbers):
        raise LabelError(
            f"label {numbers[-1]} in {places[numbers[-1]]} would make {count} classes, but only {len(numbers)} occur; "
            "correct it, or name the classes instead of numbering them"
        )
    if first:
        _log.warning("no label is 0: the labels count from 1, and label 1 becomes the first class, named '1'")
    return Classes(tuple(str(number) for number in range(first, numbers[-1] + 1)), first)


def _warn_of_names(names: Sequence[str]) -> None:
    """Warn of classes that differ in case or blanks alone."""
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(re.sub(r"[\s_-]+", "", name).casefold(), name)
        if other != name:
            _log.warning("the classes %r and %r have almost the same name", other, name)


def _warn_of_unused(classes: Classes, used: Sequence[int]) -> None:
    seen = set(used)
    unused = [name for number, name in enumerate(classes.names) if number not in seen]
    if unused and used:
        _log.warning(
            "no sample has the class %s%s: %d of %d classes are empty",
            ", ".join(unused[:5]), " ..." if len(unused) > 5 else "", len(unused), len(classes.names),
        )  # fmt: skip
