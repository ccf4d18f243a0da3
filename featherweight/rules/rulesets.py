"""Rule sets as data: a TOML file names the rules that apply and their limits. Those shipped lie in `sets/`. No torch
here.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.utils import UserError

SETS = Path(__file__).parent / "sets"

# Each rule's settings: name → (type, whether it must be given, the value where it is not).
_SETTINGS: dict[str, dict[str, tuple[type, bool, Any]]] = {
    "parameters": {"fewer_than": (int, True, None)},
    "receptive_field": {"more_than": (int, True, None)},
    "no_max_pooling": {},
    "blocks": {"convolution_blocks": (list, True, None), "output": (str, True, None)},
    "strided_convolutions": {
        "at_least": (int, True, None),
        "kernel": (int, False, 3),
        "stride": (int, False, 2),
        "dilation_instead": (bool, False, False),
    },
    "no_downsampling": {},
    "depthwise_separable": {"at_least": (int, False, 1)},
    "dilated": {"at_least": (int, False, 1)},
    "global_pooling": {},
    "accuracy": {
        "at_least": (float, True, None),
        "test_images": (int, True, None),
        "train_images_at_most": (int, True, None),
        "dataset": (str, False, ""),
    },
}
# The least a whole number may be, where 0 makes no sense.
_LEAST = {"fewer_than": 1, "kernel": 1, "stride": 1, "test_images": 1, "train_images_at_most": 1}


@dataclass(frozen=True)
class RuleSet:
    """Which rules apply, in order, with their settings. input: [channels, height, width]."""

    name: str
    title: str
    input: tuple[int, int, int]
    larger_input: int
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (1, *self.input)


def rule_set_names() -> list[str]:
    """The names of the rule sets that are shipped; the assignment first."""
    return sorted((path.stem for path in SETS.glob("*.toml")), key=lambda name: (name != "assignment", name))


def load_rule_set(name: str) -> RuleSet:
    """A shipped rule set by name, or any by the path of its TOML file.

    Raises UserError for an unknown name, a file that cannot be read, an unknown rule or setting, or a wrong type.
    """
    path = Path(name) if name.endswith(".toml") else SETS / f"{name}.toml"
    if not name.endswith(".toml") and name not in rule_set_names():
        raise UserError(f"no rule set is called {name!r}; choose one of {', '.join(rule_set_names())} or a .toml file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark before the text
    except OSError as error:
        raise UserError(f"cannot read the rule set {path}: {error.strerror}; give the path of a .toml file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the rule set {path} is not valid TOML: {error}; mend that line") from error
    return _checked(data, path)


def _checked(data: dict[str, Any], path: Path) -> RuleSet:
    rules: dict[str, dict[str, Any]] = {}
    side = data.pop("larger_input", None)
    shape = data.pop("input", [3, 32, 32])
    data.pop("augmentation", None)  # what `audit` asks of a pipeline: audit_rules.py reads and checks it
    name, title = data.pop("name", path.stem), data.pop("title", "")
    if not (
        isinstance(shape, list) and len(shape) == 3 and all(_is(size, int) and 1 <= size <= 4096 for size in shape)
    ):
        raise UserError(f"{path}: input must be [channels, height, width], three numbers from 1 to 4096; got {shape!r}")
    side = max(shape[1:]) * 3 // 2 if side is None else side
    if not _is(side, int) or not max(shape[1:]) < side <= 8192:
        raise UserError(f"{path}: larger_input must be a number over {max(shape[1:])}; got {side!r}")
    for rule, given in data.items():
        if rule in _SETTINGS and not isinstance(given, dict):
            raise UserError(f"{path}: the rule {rule} must be a table, written [{rule}]")
        if rule not in _SETTINGS:
            raise UserError(f"{path}: there is no rule {rule!r}; choose among {', '.join(_SETTINGS)}")
        rules[rule] = _settings(rule, given, path)
    if not rules:
        raise UserError(f"{path} has no rule in it; give at least one table such as [parameters]")
    return RuleSet(str(name), str(title), (shape[0], shape[1], shape[2]), side, rules)


def _settings(rule: str, given: dict[str, Any], path: Path) -> dict[str, Any]:
    known = _SETTINGS[rule]
    settings = {name: default for name, (_, _, default) in known.items()}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{path}: rule {rule} has no setting {name!r}; it knows {', '.join(known) or 'none'}")
        kind = known[name][0]
        if not _is(value, kind):
            raise UserError(f"{path}: {rule}.{name} must be of type {kind.__name__}; got {value!r}")
        least, most = (0, 1) if kind is float else (_LEAST.get(name, 0), 10**12)
        if kind in (int, float) and not least <= value <= most:
            within = f"{least} or more" if kind is int else "a fraction from 0 to 1"
            raise UserError(f"{path}: {rule}.{name} must be {within}; got {value!r}")
        settings[name] = value
    missing = [name for name, (_, needed, _) in known.items() if needed and name not in given]
    if missing:
        raise UserError(f"{path}: rule {rule} needs {', '.join(missing)}")
    if rule == "blocks":
        names = [*settings["convolution_blocks"], settings["output"]]
        if len(names) < 2 or not all(isinstance(name, str) and name for name in names) or len({*names}) < len(names):
            raise UserError(f"{path}: blocks.convolution_blocks must be a list of names, and output another name")
    return settings


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
