"""Configs: YAML values under frozen typed dataclasses.

Owns the way from a file and dotted overrides to a validated config and back. A dumped config is itself a config that
loads. Unknown keys and wrong types are errors that name the dotted path and, for a typo, the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses
import yaml

from videomae.core.errors import UserError

T = TypeVar("T")


class ConfigError(UserError):
    """A config file or override is invalid; the message says where, what was got and what was wanted."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that is validated at construction and refuses unknown keys."""
    decorate = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid"))
    return typing.cast(type[T], decorate(cls))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema for numbers: `1e-4` is one, `2024_01_05`, `1:30` and `2024-01-05` are text."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML takes for something else."""


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_PREFIX = "tag:yaml.org,2002:"
_NUMBERS = {_PREFIX + kind for kind in ("int", "float", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_PREFIX + "int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(_PREFIX + "float", re.compile(rf"(?:{_FLOAT.pattern})$"), list("-+0123456789."))
_Dumper.add_implicit_resolver(_PREFIX + "float", re.compile(rf"(?:{_FLOAT.pattern})$"), list("-+0123456789."))


def load(schema: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read `path`, apply `key.sub=value` overrides (values are YAML), and validate against `schema`.

    An override of the `name` of a tagged section (a union of configs told apart by `name`) chooses another variant:
    settings that both variants have are kept, the rest start from the new variant's defaults.

    Raises:
        ConfigError: the file is missing or no mapping, a key is unknown, or a value has the wrong type.
    """
    values = read_values(path)
    for override in overrides:
        _apply(schema, values, override)
    return parse(schema, values, source=str(path))


def parse(schema: type[T], values: dict[str, Any], *, source: str) -> T:
    """Validate plain `values` against `schema`; `source` is named in errors."""
    try:
        return pydantic.TypeAdapter(schema).validate_python(values)
    except pydantic.ValidationError as error:
        found = error.errors()
        other_stage = [detail for detail in found if detail["loc"] == ("stage",)]  # then hardly a key fits
        lines = [_explain(schema, dict(detail)) for detail in other_stage or found]
        raise ConfigError(f"{source}: " + "; ".join(lines)) from None


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as JSON-like values, including defaults."""
    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def dump(config: Any) -> str:
    """Return the config as YAML text that `load` accepts."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, width=120)


def read_values(path: Path) -> dict[str, Any]:
    """The plain values of a config file. Raises ConfigError if it is missing, no YAML or no mapping."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else "; the shipped ones stand under configs/"
        raise ConfigError(f"no config file at {path}{hint}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values


def read_value(text: str) -> Any:
    """What `text` is in YAML, or the text itself."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError:
        return text


def _apply(schema: Any, values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r}: expected key=value, for example optimizer.lr=3e-4")
    *parents, leaf = key.strip().split(".")
    section = _section(values, parents)
    value = read_value(text)
    plain = text.strip()
    if plain[:1] not in ("", "'", '"', "[", "{") and value is not None and _is_text(schema, parents, leaf):
        value = plain  # such as run=20240105, which must not become a number
    if leaf == "name" and section.get("name") not in (None, value):
        known = _variant_fields(schema, parents, str(value))
        if known is not None:
            for stale in [name for name in section if name not in known]:
                del section[stale]
    section[leaf] = value


def _is_text(schema: Any, path: Sequence[str], key: str) -> bool:
    """Whether every config class that can stand at `path` takes nothing but text for `key`, or nothing at all."""
    hints = [typing.get_type_hints(variant).get(key) for variant in _variants(schema, path)]
    return bool(hints) and all(map(_takes_only_text, hints))


def _takes_only_text(hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return all(isinstance(option, str) for option in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = set(typing.get_args(hint)) - {type(None)}
        return bool(options) and all(map(_takes_only_text, options))
    return hint is str


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted `key` in nested plain values, creating missing sections.

    Raises:
        ConfigError: a part of the key is a single value.
    """
    *parents, leaf = key.split(".")
    _section(values, parents)[leaf] = value


def _section(values: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    for depth, name in enumerate(path, start=1):
        if values.get(name) is None:
            values[name] = {}
        values = values[name]
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(path[:depth])} is a single value, not a section; it has no keys to set")
    return values


def _variant_fields(schema: Any, path: Sequence[str], name: str) -> set[str] | None:
    """The field names of the variant called `name` of the tagged section at `path`, or None if it is not tagged."""
    for variant in _variants(schema, path):
        tag = typing.get_type_hints(variant).get("name")
        if name in typing.get_args(tag):
            return {field.name for field in dataclasses.fields(variant)}
    return None


def _variants(schema: Any, path: Sequence[Any]) -> Iterator[Any]:
    """Every config class that can stand at the dotted `path` below `schema`."""
    if typing.get_origin(schema) is typing.Annotated or typing.get_origin(schema) in (typing.Union, types.UnionType):
        for option in typing.get_args(schema):
            if isinstance(option, type) or typing.get_origin(option):
                yield from _variants(option, path)
    elif typing.get_origin(schema) in (tuple, list) and path:
        yield from _variants(typing.get_args(schema)[0], path[1:])
    elif dataclasses.is_dataclass(schema) and isinstance(schema, type):
        if not path:
            yield schema
            return
        hints = typing.get_type_hints(schema, include_extras=True)
        if path[0] in hints:
            yield from _variants(hints[path[0]], path[1:])
        elif path[0] in typing.get_args(typing.get_type_hints(schema).get("name")):
            yield from _variants(schema, path[1:])  # pydantic puts a union's tag into the location


def _explain(schema: Any, detail: dict[str, Any]) -> str:
    location = list(detail["loc"])
    dotted = ".".join(str(part) for part in location)
    if detail["type"] == "unexpected_keyword_argument":
        known = {f.name for variant in _variants(schema, location[:-1]) for f in dataclasses.fields(variant)}
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {dotted!r}; {hint}"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{dotted}: required and not given; add it to the file or type {dotted}=VALUE"
    message = detail["msg"].removeprefix("Value error, ")
    section = detail["type"] == "value_error" and isinstance(detail["input"], dict)  # its message names the keys
    got = "" if section else f"got {detail['input']!r}; "
    return f"{dotted}: {got}{message}" if dotted else message
