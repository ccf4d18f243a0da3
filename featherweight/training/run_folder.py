"""A run's folder: what was asked for, with what it ran, how it went, and what came of it.

config.json      the resolved configuration
versions.json    packages, commit, device
metrics.jsonl    one line an epoch
checkpoint.safetensors    the whole state, to carry on from
best.safetensors + best.json      the best network by validation accuracy (only where pictures are held out for it)
model.safetensors + model.json    the final network and its card
result.json      the record
curves.png       loss, accuracy and rate over the epochs
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.config import TrainConfig, apply, to_dict
from featherweight.utils import UserError, write_atomic

if TYPE_CHECKING:  # the rest needs no torch
    from featherweight.training.checkpoint import Progress

LONGEST_NAME = 200  # bytes: file systems take 255, and a number may follow


class RunFolder:
    """The files of one run, by name."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.versions = self.path / "versions.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.best = self.path / "best.safetensors"
        self.model = self.path / "model.safetensors"
        self.result = self.path / "result.json"

    def start(self, config: TrainConfig, versions: dict[str, Any], *, resume: bool) -> None:
        """Put down the configuration and versions. Raises UserError when another run has taken the folder meanwhile."""
        if not resume:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self.config.open("x").close()
            except FileExistsError as error:
                raise UserError(
                    f"another run has taken {self.path}, or was killed while it began there: choose another --out, or "
                    "delete the folder"
                ) from error
            except OSError as error:
                raise UserError(f"cannot write {self.config}: {error.strerror}; choose another --out") from error
        try:
            write_atomic(self.config, json.dumps(to_dict(config), indent=2) + "\n")
            write_atomic(self.versions, json.dumps(versions, indent=2) + "\n")
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leave the folder free for another try, when nothing has been saved in it."""
        if not self.checkpoint.exists():
            for file in (self.config, self.versions):
                file.unlink(missing_ok=True)

    def started_with(self) -> dict[str, Any]:
        """What `start` was given as `versions`; empty where that is not known."""
        try:
            found = json.loads(self.versions.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def read_config(self) -> TrainConfig:
        """The configuration the run was started with. Raises UserError when there is none or it does not read."""
        try:
            settings = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"no run to carry on in {self.path}: {error}; start one without --resume") from error
        if not isinstance(settings, dict):
            raise UserError(f"{self.config} holds no configuration; start a run without --resume")
        return apply(TrainConfig(), settings, source=str(self.config))

    def add_metrics(self, line: dict[str, Any], *, epoch: int) -> None:
        """Append an epoch's figures, in place of what a sitting that was cut off left of this epoch or later ones."""
        kept = [old for old in self.read_metrics() if old["epoch"] < epoch]
        write_atomic(self.metrics, "".join(json.dumps(entry) + "\n" for entry in [*kept, line]))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All epochs' figures so far. Raises UserError, naming the line, for anything else."""
        remedy = "take the file away: no more is lost than the learning curves"
        if not self.metrics.is_file():
            return []
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.metrics}: {error}; {remedy}") from error
        figures = []
        for number, text in enumerate(lines, 1):
            try:
                line = json.loads(text)
                needed = [line[key] for key in ("epoch", "train_loss", "train_accuracy", "lr")]
                optional = [line[key] for key in ("val_loss", "val_accuracy", "seconds") if key in line]
                if not all(type(value) in (int, float) and math.isfinite(value) for value in (*needed, *optional)):
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(f"{self.metrics}, line {number}: no epoch's figures; {remedy}") from error
            figures.append(line)
        return figures


def new_folder(root: Path, name: str) -> Path:
    """`root/name`, or `root/name-2`, … : the first that holds no run yet, so that no run overwrites another."""
    for number in range(1, 10_000):
        path = root / (name if number == 1 else f"{name}-{number}")
        if not (path / "config.json").exists():
            return path
    raise UserError(f"{root} holds 9,999 runs of {name}; clear some away or choose a folder with --out")


def carried_on(
    folder: RunFolder,
    config: TrainConfig,
    versions: dict[str, Any],
    progress: Progress,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """The sittings of a run so far that went on otherwise than the one before: where, and what changed from what to
    what. The new one, told with `say`, is among them; of device and threads, what came of the settings counts."""
    before, old, new = folder.started_with(), _flat(to_dict(folder.read_config())), _flat(to_dict(config))
    compared = new.keys() - {"recipe", "device", "threads"}
    changed = {key: [old.get(key), new[key]] for key in new if key in compared and old.get(key) != new[key]}
    before = {"commit": ""} | before
    for key in ("commit", "device", "threads", "torch"):
        if key in before and before[key] != versions[key]:
            changed[key] = [before[key], versions[key]]
    earlier = before.get("carried_on")
    sittings = [one for one in earlier if isinstance(one, dict)] if isinstance(earlier, list) else []
    if changed:
        what = ", ".join(f"{key} {was} → {now}" for key, (was, now) in changed.items())
        say(f"from here on otherwise than before, as the record will say: {what}")
        sittings.append({"epoch": progress.epoch + 1, "step": progress.step, "changed": changed})
    return sittings


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def run_name(recipe: str, seed: int) -> str:
    """What the folder of a run is called: `RECIPE-seedN`, a long list of changed settings cut short by its digest."""
    name = f"{recipe}-seed{seed}".replace("/", "_")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    start = name.encode()[: LONGEST_NAME - 40].decode(errors="ignore")
    return f"{start}+{digest}-seed{seed}"


def latest_folder(root: Path, *names: str) -> Path:
    """The run to carry on among those of `names` under `root`: of the first name that has one, the newest by its
    checkpoint, one that is not finished before one that is. Raises UserError, with the newest unfinished run of any
    name where there is one, when there is none of these."""
    checkpoints = sorted(
        root.glob("*/checkpoint.safetensors"),
        key=lambda path: (not path.with_name("result.json").exists(), path.stat().st_mtime),
    )
    for name in names:
        of_name = [path.parent for path in checkpoints if _is_run_of(path.parent.name, name)]
        if of_name:
            return of_name[-1]
    missing = f"no interrupted run of {names[0]} under {root}"
    if checkpoints and not checkpoints[-1].with_name("result.json").exists():
        last = checkpoints[-1].parent
        raise UserError(f"{missing}; the last one interrupted is carried on by --resume --out {shlex.quote(str(last))}")
    raise UserError(f"{missing}; start one without --resume, or name its --out")


def _is_run_of(folder: str, name: str) -> bool:
    return folder == name or (folder.startswith(f"{name}-") and folder[len(name) + 1 :].isdigit())


def commit() -> str:
    """The commit of the checkout this package stands in, with `+changes` where files differ.

    Where its history is not there: $FEATHERWEIGHT_COMMIT, for a clean copy that was taken to another machine, or "".
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return os.environ.get("FEATHERWEIGHT_COMMIT", "")
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = [*git, "status", "--porcelain", "--untracked-files=normal", "--", "featherweight", "recipes"]
        changes = subprocess.run(status, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def runs_beside() -> int:
    """How many other trainings may share the device, as $FEATHERWEIGHT_BESIDE says for who starts several at once."""
    said = os.environ.get("FEATHERWEIGHT_BESIDE", "0")
    if not said.isdecimal():
        raise UserError(
            f"$FEATHERWEIGHT_BESIDE is {said!r}; make it the number of other runs on the device, or unset it"
        )
    return int(said)


def package_versions() -> dict[str, str]:
    """The versions of what decides a run's figures."""
    found = {}
    for name in ("featherweight", "torch", "numpy", "albumentations", "opencv-python-headless"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
