"""The whole configuration of a run as frozen, keyword-only data, and how a recipe and overrides become one.

Order of precedence: the defaults below < the recipe's TOML < overrides from the command line. An unknown key, a value
of the wrong type or out of range is an error that names the key and where it came from. No torch here.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from featherweight.utils import UserError

RECIPES = Path(__file__).parent / "recipes"  # inside an installed wheel
if not RECIPES.is_dir():
    RECIPES = Path(__file__).parent.parent / "recipes"  # in a checkout


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, and which of them are trained on."""

    name: Literal["cifar10", "digits"] = "cifar10"
    train_on: Literal["all", "train"] = "all"  # "all" 50,000 for a published run; "train" 45,000, validating on 5,000


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The augmentation, stated once; both engines obey it. Order: flip, shift-scale-rotate, hole, normalise.

    The three transforms are the assignment's; limits not given there are albumentations' own defaults of the time.
    """

    engine: Literal["albumentations", "batched", "none"] = "batched"
    flip_p: float = 0.5  # probability of a horizontal flip
    alternate_flip: bool = False  # flip each picture in every other epoch instead of by chance (batched engine)
    affine_p: float = 0.5  # probability of a shift-scale-rotate
    shift_limit: float = 0.0625  # largest shift each way, as a fraction of the side (2 pixels of 32)
    scale_limit: float = 0.1  # largest relative change of size: scales in 1 ± 0.1
    rotate_limit: float = 15.0  # largest turn each way, in degrees
    border: Literal["reflect_101", "constant"] = "reflect_101"  # "constant" pads with the mean
    hole_p: float = 0.5  # probability of the one hole
    hole_size: int = 16  # side of the hole in pixels; always fully inside the picture, filled with the mean
    workers: int = 2  # worker processes of the albumentations engine (0: in this process)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimiser and its groups; norms and biases are never decayed."""

    name: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: float = 0.1  # the schedule's peak
    momentum: float = 0.9  # sgd's and muon's momentum; adamw's beta1
    nesterov: bool = True  # sgd only
    weight_decay: float = 5e-4
    rest: float = 1.0  # muon only: sgd's peak for all that is not a mixing kernel, as a multiple of lr
    rest_momentum: float = 0.9  # muon only: and its momentum


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the run, a pure function of the step."""

    name: Literal["one_cycle", "cosine", "linear", "constant"] = "one_cycle"
    warmup: float = 0.25  # fraction of all steps spent rising to the peak
    start: float = 0.1  # rate at step 0, as a fraction of the peak
    final: float = 0.0  # rate at the end, as a fraction of the peak


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Pictures of a batch mixed in pairs, on top of the augmentation; off while both alphas are 0."""

    mixup: float = 0.0  # alpha of the Beta distribution that blends are drawn from; 0: no mixup
    cutmix: float = 0.0  # and of pasted areas; 0: no CutMix. Where both are on, a batch gets one of them
    p: float = 1.0  # probability that a batch is mixed
    ramp: float = 0.0  # fraction of all steps over which that probability rises from 0


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A trained network whose answers the student learns, beside the labels."""

    weights: str = ""  # a published name, a weights file or a run; empty: no teacher
    share: float = 0.9  # of the loss that comes from the teacher
    temperature: float = 2.0  # both networks' outputs are divided by it


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run."""

    recipe: str = "custom"
    model: str = "feather_quick"
    epochs: int = 10
    batch_size: int = 128
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where this device measures faster with it
    drop_last: bool = True  # leave an epoch's last, short batch out of training (never out of evaluation)
    channels_last: bool = True
    compile: bool = False  # torch.compile the network: pays on long runs only
    capture: bool = False  # on CUDA, with Muon: record the whole step as a graph and replay it
    fused: bool = True  # on a CPU, with a C compiler at hand: this project's own operations (featherweight/fused)
    threads: int = 0  # 0: leave torch's own choice
    label_smoothing: float = 0.0
    dropout: bool = True  # false: the network's dropout layers let everything through in training as well
    average: float = 0.0  # decay per step of the exponential moving average of the weights; 0: none
    clip_norm: float = 0.0  # largest gradient norm; 0: no clipping
    stop_at_accuracy: float = 0.0  # stop once the validation accuracy reaches this fraction; 0: never
    whiten: bool = False  # start the first convolution at the training patches' principal components
    freeze_first: bool = False  # with whiten: the first convolution and its norm stay as they start
    small_size: int = 0  # side the augmented pictures are shrunk to early on; 0: never
    small_until: float = 0.0  # fraction of the steps trained at that size
    rules: str = "assignment"  # the rule set checked before compute is spent; "none" goes on regardless
    read_test: bool = True  # measure the final network on the test pictures, once; false while choosing a recipe
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)


# What a value must lie in, ends included; fractions and probabilities, sizes that cannot be negative or nothing.
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "batch_size": (2, 65_536),
    "seed": (0, 2**31 - 1),
    "threads": (0, 1024),
    "label_smoothing": (0, 0.999),
    "average": (0, 0.99999),
    "clip_norm": (0, 1e9),
    "stop_at_accuracy": (0, 1),
    "small_size": (0, 4096),
    "small_until": (0, 1),
    "augment.flip_p": (0, 1),
    "augment.affine_p": (0, 1),
    "augment.hole_p": (0, 1),
    "augment.shift_limit": (0, 1),
    "augment.scale_limit": (0, 0.99),
    "augment.rotate_limit": (0, 180),
    "augment.hole_size": (1, 4096),
    "augment.workers": (0, 256),
    "optimizer.lr": (0, 1e6),
    "optimizer.momentum": (0, 0.99999),
    "optimizer.weight_decay": (0, 1e3),
    "optimizer.rest": (0, 1e6),
    "optimizer.rest_momentum": (0, 0.99999),
    "mix.mixup": (0, 100),
    "mix.cutmix": (0, 100),
    "mix.p": (0, 1),
    "mix.ramp": (0, 1),
    "teacher.share": (0, 1),
    "teacher.temperature": (0.01, 100),
    "schedule.warmup": (0, 1),
    "schedule.start": (0, 1),
    "schedule.final": (0, 1),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One published row: what it is, what it should give and what it takes, and the settings that give it."""

    name: str
    about: str = ""
    command: str = ""
    expected_accuracy: float | None = None  # fraction of the 10,000 test images
    expected_seconds: float | None = None  # of training, on `hardware`
    hardware: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """The recipe of that name, or of that path when it ends in .toml. Raises UserError when there is none such."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not os.path.isfile(path):  # which, unlike Path's own, never raises
        raise UserError(
            f"no recipe {name!r}; choose one of {', '.join(recipe_names())}, or give the path of a .toml file"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}; mend the file or choose another recipe") from error
    about = content.pop("recipe", {})
    known = {f.name for f in dataclasses.fields(Recipe)} - {"name", "settings"}
    unknown = sorted(set(about) - known) if isinstance(about, dict) else ["recipe, which is a section"]
    if unknown:
        raise UserError(f"{path}: [recipe] does not know {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    apply(TrainConfig(), content, source=str(path))  # so that a recipe with a slip fails when read, not when used
    # A file of one's own is named with its ending, so that it cannot pass for the published recipe of that name.
    return Recipe(name=path.name if name.endswith(".toml") else name, settings=content, **about)


def apply(config: TrainConfig, settings: dict[str, Any], *, source: str) -> TrainConfig:
    """`config` with nested `settings` put over it. Raises UserError naming `source` and the key that does not fit."""
    changed = _replace(config, settings, "", source)
    _expect_ranges(changed, "", source)
    if bool(changed.small_size) != bool(changed.small_until):
        raise UserError(f"{source}: small_size and small_until go together; set both, or neither")
    if changed.freeze_first and not changed.whiten:
        raise UserError(f"{source}: freeze_first keeps a whitened layer as it is; set whiten = true, or neither")
    if changed.stop_at_accuracy and changed.data.train_on == "all":
        raise UserError(f"{source}: stop_at_accuracy needs pictures that are held out; set data.train_on = train")
    return changed


def check(section: Any, name: str, *, source: str) -> None:
    """UserError, naming `source` and the key, for the first value of the section `name` that a recipe could not set."""
    _expect_ranges(_replace(section, to_dict(section), f"{name}.", source), f"{name}.", source)


def _expect_ranges(config: Any, prefix: str, source: str) -> None:
    """prefix: the name of the section that `config` is, and a dot; empty for the whole."""
    for key, (low, high) in RANGES.items():
        if key.startswith(prefix):
            value = get(config, key.removeprefix(prefix))
            if not low <= value <= high:
                raise UserError(f"{source}: {key} = {value} is out of range; it must lie between {low:g} and {high:g}")


def resolve(recipe: str | None, overrides: dict[str, Any]) -> TrainConfig:
    """Defaults < recipe < overrides (`section.key` → value, text where it came from a command line).

    A recipe that was changed in anything but its seed, device or threads carries the changes in its name, so that its
    record cannot be taken for the recipe's own.
    """
    config = TrainConfig()
    if recipe is not None:
        found = read_recipe(recipe)
        config = apply(config, {**found.settings, "recipe": found.name}, source=f"recipe {found.name}")
    return override(config, overrides)


def override(config: TrainConfig, overrides: dict[str, Any]) -> TrainConfig:
    """`config` with `section.key` → value pairs put over it, its recipe's name telling the changes.

    Pictures flip by chance, with the probability the recipe names, in an engine that cannot alternate its flips.
    """
    if overrides.get("augment.engine", "batched") != "batched" and config.augment.alternate_flip:
        overrides = {"augment.alternate_flip": False, **overrides}
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        place = nested.setdefault(section, {}) if section else nested
        if not isinstance(place, dict) or isinstance(nested.get(key), dict):
            raise UserError(f"command line: {section or key} is both a setting and a section; set one of them")
        place[name] = value
    changed = apply(config, nested, source="command line")
    told = [key for key in overrides if key not in ("seed", "device", "threads")]
    changes = [f"{key}={get(changed, key)}" for key in told if get(changed, key) != get(config, key)]
    return dataclasses.replace(changed, recipe="+".join([changed.recipe, *changes]))


def get(config: Any, key: str) -> Any:
    """The value at `section.key`."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain data, as it goes into a run folder and a record."""
    return dataclasses.asdict(config)


def _replace(config: Any, settings: dict[str, Any], prefix: str, source: str) -> Any:
    hints = get_type_hints(type(config))
    new = {}
    for key, value in settings.items():
        if key not in hints:
            raise UserError(f"{source}: unknown key {prefix + key!r}; known are {', '.join(hints)}")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise UserError(
                    f"{source}: {prefix + key} is a section; set one of its keys, such as {key}.{_first(current)}"
                )
            new[key] = _replace(current, value, f"{prefix}{key}.", source)
        else:
            new[key] = _convert(value, hints[key], prefix + key, source)
    return dataclasses.replace(config, **new)


def _first(section: Any) -> str:
    return dataclasses.fields(section)[0].name


def _convert(value: Any, kind: Any, key: str, source: str) -> Any:
    """`value` as `kind`; text is read as that kind, nothing else is bent."""
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise UserError(f"{source}: {key} = {value!r}; choose one of {', '.join(map(str, get_args(kind)))}")
    given = value
    try:
        if kind is bool and isinstance(value, str):
            value = {"true": True, "false": False}[value.lower()]
        elif kind in (int, float) and isinstance(value, str | int) and not isinstance(value, bool):
            value = kind(value)
    except (ValueError, KeyError):
        value = None
    if type(value) is kind and value == value:  # a value that is not equal to itself is not a number
        return value
    raise UserError(f"{source}: {key} = {given!r} is not {_NAMES[kind]}")


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
