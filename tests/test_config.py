"""Precedence, conversion and refusal of settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from featherweight import config
from featherweight.config import TrainConfig
from featherweight.utils import UserError


def test_overrides_beat_the_recipe_and_the_recipe_beats_the_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('epochs = 7\nbatch_size = 64\n[optimizer]\nname = "adamw"\nlr = 1\n')
    resolved = config.resolve(str(recipe), {"epochs": "3", "optimizer.weight_decay": "0.01"})
    assert (resolved.epochs, resolved.batch_size) == (3, 64)
    assert resolved.optimizer == dataclasses.replace(TrainConfig().optimizer, name="adamw", lr=1.0, weight_decay=0.01)
    assert isinstance(resolved.optimizer.lr, float)
    assert resolved.recipe == "mine.toml+epochs=3+optimizer.weight_decay=0.01"


def test_seed_and_device_leave_the_recipe_its_name() -> None:
    assert config.resolve("feather_quick", {"seed": "5", "device": "cpu"}).recipe == "feather_quick"


def test_an_override_that_says_what_the_recipe_says_leaves_it_its_name() -> None:
    epochs = config.resolve("feather_quick", {}).epochs
    assert config.resolve("feather_quick", {"epochs": str(epochs)}).recipe == "feather_quick"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"epoch": "3"}, "unknown key 'epoch'"),
        ({"optimizer.rate": "3"}, "unknown key 'optimizer.rate'"),
        ({"epochs": "three"}, "epochs = 'three' is not a whole number"),
        ({"epochs": "2.5"}, "not a whole number"),
        ({"epochs": "0"}, "must lie between 1 and"),
        ({"optimizer.lr": "nan"}, "not a number"),
        ({"optimizer.lr": "inf"}, "out of range"),
        ({"augment.engine": "both"}, "choose one of albumentations, batched, none"),
        ({"compile": "maybe"}, "not true or false"),
        ({"optimizer": "sgd"}, "is a section"),
        ({"augment.flip_p": "1.5"}, "must lie between 0 and 1"),
    ],
)
def test_a_setting_that_does_not_fit_is_told_in_one_line(overrides: dict[str, str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        config.resolve(None, overrides)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["epochs = ", "epochs = true", "[recipe]\ncolour = 1", "recipe = 3", "\x00", "model = 1"]
)
def test_a_recipe_with_a_slip_is_refused_when_read(tmp_path: Path, text: str) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text(text)
    with pytest.raises(UserError, match=r"bad\.toml"):
        config.read_recipe(str(recipe))


def test_a_recipe_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(UserError, match="feather_quick"):
        config.read_recipe("feather_quik")


@pytest.mark.parametrize("name", config.recipe_names())
def test_every_recipe_reads_and_states_its_command(name: str) -> None:
    recipe = config.read_recipe(name)
    resolved = config.resolve(name, {})
    assert recipe.about
    assert f"--recipe {name}" in recipe.command
    assert resolved.recipe == name


def test_a_configuration_survives_its_own_plain_form() -> None:
    resolved = config.resolve("feather_quick", {"seed": "3"})
    assert config.apply(TrainConfig(), config.to_dict(resolved), source="test") == resolved


def test_every_number_has_its_range() -> None:
    def numbers(section: object, prefix: str = "") -> set[str]:
        found = set()
        for f in dataclasses.fields(section):  # type: ignore[arg-type]
            value = getattr(section, f.name)
            if dataclasses.is_dataclass(value):
                found |= numbers(value, f"{f.name}.")
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found.add(prefix + f.name)
        return found

    assert numbers(TrainConfig()) == set(config.RANGES)


def test_another_engine_flips_by_chance_where_the_recipe_alternates() -> None:
    assert config.resolve("feather_quick", {}).augment.alternate_flip
    for engine in ("albumentations", "none"):
        changed = config.resolve("feather_quick", {"augment.engine": engine})
        assert (changed.augment.engine, changed.augment.flip_p) == (engine, 0.5)
        assert not changed.augment.alternate_flip
        assert changed.recipe == f"feather_quick+augment.alternate_flip=False+augment.engine={engine}"
    same = config.resolve("feather_quick", {"augment.engine": "batched"})
    assert same.augment.alternate_flip
    assert same.recipe == "feather_quick"
    insisted = config.resolve("feather_quick", {"augment.engine": "none", "augment.alternate_flip": "true"})
    assert insisted.augment.alternate_flip  # and is refused where the pictures are made


def test_settings_that_cannot_stand_together_are_one_line() -> None:
    with pytest.raises(UserError, match="stop_at_accuracy needs pictures that are held out"):
        config.resolve("digits", {"stop_at_accuracy": "0.5"})
    assert config.resolve("digits", {"stop_at_accuracy": "0.5", "data.train_on": "train"}).stop_at_accuracy == 0.5
    with pytest.raises(UserError, match="freeze_first keeps a whitened layer as it is"):
        config.resolve("dilated_160k_ours", {"freeze_first": "true"})
    for order in (("epochs", "epochs.x"), ("epochs.x", "epochs")):
        with pytest.raises(UserError, match="epochs is both a setting and a section"):
            config.resolve("digits", dict.fromkeys(order, "1"))
