"""Settings: options beat the environment, which beats the file, which beats the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from medloop.errors import UsageError, did_you_mean

Config = TypeVar("Config", bound=BaseModel)

_PREFIX = "MEDLOOP_"


def resolve(
    kind: type[Config],
    options: Mapping[str, Any],
    settings: Sequence[str],
    file: Path | None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Build a configuration from its four sources.

    Parameters
    ----------
    kind : type
        A pydantic model with a ``student_options`` field.
    options : mapping
        Options of the command line; None where not given.
    settings : sequence of str
        ``key=value`` for any field, and ``student.key=value`` for the student's own: for whatever
        has a field of options, ``student_options``.
    file : Path, optional
        YAML.
    environment : mapping, optional
        ``MEDLOOP_KEY=value``; the process's own where not given.

    Raises
    ------
    UsageError
        A key is unknown or a value is not what the key takes.
    """
    known = set(kind.model_fields)
    environment = os.environ if environment is None else environment
    values = _from_file(file, known)
    for name in sorted(known):
        raw = environment.get(_PREFIX + name.upper())
        if raw is not None:
            values[name] = _value(raw)
    values |= {name: value for name, value in options.items() if value is not None}
    for setting in settings:
        key, equals, raw = setting.partition("=")
        if not equals:
            raise UsageError(f"--set takes KEY=VALUE, got {setting!r}.")
        whose, dot, own = key.partition(".")
        options_of = f"{whose}_options"
        if dot and options_of in known:
            values[options_of] = {**(values.get(options_of) or {}), own: _value(raw)}
        elif key in known:
            values[key] = _value(raw)
        else:
            parts = sorted(name.removesuffix("_options") for name in known if "_options" in name)
            named = " or ".join(f"{part}.{key}" for part in parts)
            raise UsageError(
                f"unknown setting {key!r}.{did_you_mean(key, known)} "
                f"A setting of a part is named {named}."
            )
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        got = first.get("input")
        raise UsageError(f"{name} cannot be {got!r}: {first['msg']}.") from None


def _from_file(file: Path | None, known: set[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"{file} is not YAML.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{file} must hold KEY: VALUE lines.")
    for name in values:
        if name not in known:
            raise UsageError(f"{file}: unknown setting {name!r}.{did_you_mean(str(name), known)}")
    return values


def _value(raw: str) -> Any:
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw
