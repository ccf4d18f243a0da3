"""Publishes a finished run: its record into results/, and the weights of seed 0 with their card into weights/.

    .venv/bin/python tools/publish.py runs/feather_quick-seed0 [more runs …]

Refuses a run of a changed recipe, of changed code, carried on otherwise than begun, one that was not measured on all
test pictures or trained on some of them, weights that are not the record's, such of 1 MB or more, and a run on a GPU in
the place of one on a CPU, or the other way round. Of the teacher only the record is published.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from featherweight import weights
from featherweight.config import TrainConfig, apply, recipe_names, resolve, to_dict
from featherweight.records import LAST_EPOCH, Record
from featherweight.utils import UserError, sha256_file

ROOT = Path(__file__).resolve().parent.parent
PLACE = ("device", "precision", "threads")  # where a run was, not what it was
TOO_LARGE = ("teacher",)  # whose record alone is published
TEST_IMAGES = {"cifar10": 10_000, "digits": 355}


def publish(run: Path) -> str:
    record = Record.read(run / "result.json")
    if record.recipe not in recipe_names():
        raise UserError(f"{run}: {record.recipe!r} is no recipe of recipes/; only unchanged recipes are published")
    if record.commit.endswith("+changes") or not record.commit:
        raise UserError(f"{run}: trained on uncommitted code ({record.commit!r}); commit, then train again")
    if record.selection != LAST_EPOCH:
        raise UserError(f"{run}: its epoch was selected ({record.selection}); a published run ends at its last")
    recipe = to_dict(resolve(record.recipe, {"seed": str(record.seed)}))
    # A record older than a setting does not tell it: its default is what was done before.
    trained_with = to_dict(apply(TrainConfig(), record.config or {}, source=str(run)))
    changed = [key for key in recipe if key not in PLACE and recipe[key] != trained_with[key]]
    if changed:
        raise UserError(f"{run}: its {', '.join(changed)} is not that of the recipe {record.recipe}; train it anew")
    if record.test_images != TEST_IMAGES[record.dataset or "cifar10"]:
        raise UserError(f"{run}: measured on {record.test_images} test pictures, not on all")
    extras = record.extras or {}
    if extras.get("carried_on"):
        raise UserError(f"{run}: it was carried on otherwise than it was begun (extras.carried_on); train it anew")
    if extras.get("test_pictures_among_training"):
        count = extras["test_pictures_among_training"]
        raise UserError(f"{run}: {count} of its test pictures were trained on; `featherweight data --verify` the data")
    trained = run / "model.safetensors"
    if not trained.is_file() or sha256_file(trained) != record.weights_sha256:
        raise UserError(f"{trained} is not what the record was written for (weights_sha256); train it anew")
    name = record.recipe if record.seed == 0 else f"{record.recipe}-seed{record.seed}"
    place = ROOT / "results" / f"{name}.json"
    _expect_same_kind_of_device(record, place)
    if record.seed != 0 or record.recipe in TOO_LARGE:
        dataclasses.replace(record, weights="").write(place)
        return name
    if trained.stat().st_size >= 1_000_000:
        raise UserError(f"{trained}: 1 MB or more; such weights are not published")
    network, card = weights.load(trained)
    path = weights.save(ROOT / "weights" / f"{record.recipe}.safetensors", network, card)
    record = dataclasses.replace(record, weights=f"weights/{path.name}", weights_sha256=sha256_file(path))
    record.write(place)
    return name


def _expect_same_kind_of_device(record: Record, place: Path) -> None:
    """UserError where the record in `place` is of another kind of device: figures and times are not comparable."""
    if place.exists():
        old, new = (one.device.partition(" ")[0] for one in (Record.read(place), record))
        if old != new:
            raise UserError(
                f"{place} is of a {old}, the run of a {new}; give the {new} a recipe of its own, or remove it"
            )


if __name__ == "__main__":
    try:
        for argument in sys.argv[1:]:
            print(publish(Path(argument)))
    except UserError as error:
        print(f"publish: {error}", file=sys.stderr)
        sys.exit(2)
