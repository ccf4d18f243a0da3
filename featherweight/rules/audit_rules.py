"""What is required of a pipeline, as data: a rule set's `[augmentation]` table; the defaults are the assignment's."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.rules.rulesets import SETS, rule_set_names
from featherweight.utils import UserError


@dataclass(frozen=True, kw_only=True)
class AuditRules:
    """What a pipeline must do. Fractions are of 1; sizes in pixels of what comes out."""

    flip_p: float = 0.5  # share of the pictures mirrored left to right
    shift: bool = True  # shifts must be there, and so on
    scale: bool = True
    rotate: bool = True
    holes: int = 1  # in every picture that has one; 0: holes are not judged
    hole_size: int = 16  # side, pixels
    hole_p: float = -1.0  # share of the pictures with a hole; below 0: any share above 0.05
    fill_tolerance: float = 0.02  # of the hole's mean after normalisation from 0
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)  # the training set's: CIFAR-10, pixels in 0 … 1
    std: tuple[float, ...] = (0.2470, 0.2435, 0.2616)
    statistics_tolerance: float = 0.005  # 0.49, 0.48, 0.45 is still taken for the mean; 0.2023 not for 0.2470


# What a value must lie in, ends included; where nothing is said, between 0 and 1.
_RANGES: dict[str, tuple[float, float]] = {
    "holes": (0, 100),
    "hole_size": (1, 4096),
    "hole_p": (-1, 1),
    "std": (0.001, 1),
}


def read_audit_rules(name: str) -> AuditRules:
    """The `[augmentation]` table of a shipped rule set, or of the TOML file of that path, over the defaults.

    A rule set without that table asks of a pipeline what the assignment asks. Raises UserError for what does not fit.
    """
    if not name.endswith(".toml") and name not in rule_set_names():
        raise UserError(f"no rule set is called {name!r}; choose one of {', '.join(rule_set_names())} or a .toml file")
    path = Path(name) if name.endswith(".toml") else SETS / f"{name}.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read the rule set {path}: {error.strerror}; give the path of a .toml file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the rule set {path} is not valid TOML: {error}; mend that line") from error
    table = tables.get("augmentation", {})
    if not isinstance(table, dict):
        raise UserError(f"{path}: augmentation must be a table, written [augmentation]")
    known = {field.name: field.default for field in dataclasses.fields(AuditRules)}
    values = {}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r} in [augmentation]; known are {', '.join(known)}")
        values[key] = _fitting(value, known[key], f"{path}: {key}")
        low, high = _RANGES.get(key, (0, 1))
        if not all(low <= number <= high for number in _numbers(values[key])):
            raise UserError(f"{path}: {key} = {value!r} is out of range; it must lie between {low:g} and {high:g}")
    return dataclasses.replace(AuditRules(), **values)


def _numbers(value: Any) -> tuple[Any, ...]:
    """The numbers of a value: its own three, itself, or 0 or 1."""
    return value if isinstance(value, tuple) else (value,)


def _fitting(value: Any, default: Any, where: str) -> Any:
    if isinstance(default, tuple):
        if isinstance(value, list) and len(value) == 3 and all(type(item) in (int, float) for item in value):
            return tuple(float(item) for item in value)
        raise UserError(f"{where} = {value!r} must be three numbers, one a channel")
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise UserError(f"{where} = {value!r} must be of the kind of {default!r}")
    return value
