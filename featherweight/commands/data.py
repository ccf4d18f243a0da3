"""`featherweight data`: where a data set is, whether it is what it should be, and its mean and deviation."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight import terminal

if TYPE_CHECKING:
    from featherweight.datasets.cifar10 import Archive, Copy
    from featherweight.datasets.pictures import PictureSet


VERIFY_STEPS = 7  # the files, the pictures, the four sets' digests, their comparison
STATISTICS_STEPS = 2  # the pictures, their figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `featherweight data`."""
    parser.add_argument("--dataset", default="cifar10", metavar="{cifar10,digits}", help="default: cifar10")
    parser.add_argument("--data-dir", type=Path, metavar="D", help="the folder to look in first, and to fetch into")
    parser.add_argument("--fetch", action="store_true", help="download it if it is absent, replace it if it is damaged")
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="URL",
        help="an address to fetch from first: the archive's, or that of the folder it lies in",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check every file, all pictures and labels, the counts per class and the splits",
    )
    parser.add_argument(
        "--statistics",
        action="store_true",
        help="measure mean and deviation of the training pictures against the built-in values",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace, archive: Archive | None = None) -> int:
    """Report as asked. 0, or 1 when verification or a comparison failed. Raises UserError where there is no copy.

    archive: what a copy of CIFAR-10 must be, if not the official one.
    """
    from featherweight import datasets
    from featherweight.datasets import cifar10
    from featherweight.utils import UserError

    datasets.check_name(args.dataset)
    if args.mirror and not args.fetch:
        raise UserError("--mirror says where to fetch from and needs --fetch beside it")
    if args.dataset == "digits" and (args.fetch or args.data_dir):
        terminal.note("the digits come inside scikit-learn: nothing to fetch, and no folder to look in")
    archive = archive or cifar10.CIFAR10
    copy = _copy(args, archive) if args.dataset == "cifar10" else None
    report = _whereabouts(args.dataset, copy)
    problems: list[str] = []
    steps = VERIFY_STEPS * args.verify + STATISTICS_STEPS * args.statistics
    with terminal.Progress("measuring", steps, "steps") as progress:
        if args.verify:
            report["verification"] = _verify(args.dataset, copy, archive, problems, progress)
        if args.statistics and not problems:
            report["statistics"] = _statistics(args.dataset, copy, archive, problems, progress)
    if args.verify or args.statistics:
        report["passed"] = not problems
        report["problems"] = problems
    if args.json:
        terminal.print_json(report)
    else:
        _show(report)
    return 1 if problems else 0


def _copy(args: argparse.Namespace, archive: Archive) -> Copy:
    from featherweight import datasets
    from featherweight.datasets import fetch

    copy = datasets.locate(args.data_dir, archive)
    if not args.fetch:
        return copy or datasets.obtain(args.data_dir, fetch=False, archive=archive)
    if copy is None:
        return datasets.obtain(args.data_dir, mirrors=args.mirror, archive=archive)
    if fetch.is_sound(copy, archive):
        terminal.note(f"CIFAR-10 is already in {copy.folder}, complete and undamaged: nothing to fetch")
        return copy
    terminal.note(f"the copy in {copy.folder} is damaged")
    return datasets.fetch_into(copy.around(archive), fetch.default_sources(args.mirror), archive)


def _whereabouts(name: str, copy: Copy | None) -> dict[str, Any]:
    from featherweight import datasets

    report: dict[str, Any] = {"dataset": name, "classes": list(datasets.CLASSES[name])}
    if copy:
        return report | {"path": str(copy.folder.resolve()), "form": copy.form}
    return report | {"path": None, "form": "inside scikit-learn"}


def _pictures(name: str, copy: Copy | None, archive: Archive, split: str) -> PictureSet:
    from featherweight import datasets
    from featherweight.datasets import cifar10

    if copy:
        return cifar10.read(copy, "train" if split == "train" else "test", archive)
    return datasets.load_train(name) if split == "train" else datasets.load_test(name)


def _verify(
    name: str, copy: Copy | None, archive: Archive, problems: list[str], progress: terminal.Progress
) -> dict[str, Any]:
    """Checksums of the files, then digests, counts and splits; what is wrong is added to `problems`."""
    from featherweight import datasets
    from featherweight.datasets import cifar10, pictures
    from featherweight.utils import UserError

    report: dict[str, Any] = {}
    if copy:
        progress.title = "checking the files"
        checks = cifar10.check_files(copy, archive)
        report["files"] = [
            {"name": check.file.name, "sha256": check.sha256, "problem": check.problem or None} for check in checks
        ]
        problems += [f"{check.file}: {check.problem}" for check in checks if check.problem]
        if problems:
            return report
    progress.step()
    progress.title = "reading the pictures"
    try:
        train, test = _pictures(name, copy, archive, "train"), _pictures(name, copy, archive, "test")
    except UserError as error:
        if copy is None:  # scikit-learn is missing: that is no damaged data
            raise
        problems.append(str(error))
        return report
    progress.step()
    progress.title = "comparing the pictures"
    kept, validation = datasets.split_train(train)
    sets = {"train_all": train, "train": kept, "validation": validation, "test": test}
    for key, pictures_of in sets.items():
        per_class = pictures_of.labels.bincount(minlength=len(pictures_of.classes)).tolist()
        report[key] = {"images": len(pictures_of), "per_class": per_class, "digest": pictures_of.digest()}
        progress.step()
    report["repeated_in_train"] = pictures.repeated_contents(train)
    report["repeated_in_test"] = pictures.repeated_contents(test)
    report["in_train_and_test"] = pictures.shared_contents(train, test)
    progress.step()
    for key, expected in datasets.DIGESTS[name].items():
        if report[key]["digest"] != expected:
            problems.append(f"the digest of {key} is {report[key]['digest']}, not {expected}")
    if name == "cifar10":
        for key, each in (("train_all", 5000), ("train", 4500), ("validation", 500), ("test", 1000)):
            if report[key]["per_class"] != [each] * 10:
                problems.append(f"{key} has not {each} pictures of each class")
    if report["in_train_and_test"]:
        problems.append(f"{report['in_train_and_test']} pictures are in both train and test")
    return report


def _statistics(
    name: str, copy: Copy | None, archive: Archive, problems: list[str], progress: terminal.Progress
) -> dict[str, Any]:
    from featherweight import datasets

    progress.title = "measuring mean and deviation"
    train = _pictures(name, copy, archive, "train")
    progress.step()
    measured = datasets.measure_statistics(train)
    progress.step()
    pinned = datasets.STATISTICS[name]
    pairs = zip((*measured.mean, *measured.std), (*pinned.mean, *pinned.std), strict=True)
    difference = max(abs(one - other) for one, other in pairs)
    if difference > 1e-9:
        problems.append(f"mean and deviation differ from the built-in ones by up to {difference:.3g}")
    return asdict(measured) | {"largest_difference": difference}


def _show(report: dict[str, Any]) -> None:
    print(
        f"{report['dataset']}: {report['path'] or report['form']}" + (f" ({report['form']})" if report["path"] else "")
    )
    verification = report.get("verification", {})
    if files := verification.get("files"):
        terminal.print_table(
            ("file", "sha256", "verdict"),
            [(file["name"], file["sha256"][:16], file["problem"] or "right") for file in files],
        )
    rows = [
        (key, f"{entry['images']:,}", _per_class(entry["per_class"]), entry["digest"][:16])
        for key, entry in verification.items()
        if isinstance(entry, dict)
    ]
    if rows:
        terminal.print_table(("set", "pictures", "per class", "digest"), rows, right=("pictures", "per class"))
        print(
            f"exact copies: {verification['repeated_in_train']} within train, {verification['repeated_in_test']} "
            f"within test, {verification['in_train_and_test']} in both"
        )
    if statistics := report.get("statistics"):
        terminal.print_table(
            ("", "red", "green", "blue"),
            [(key, *[f"{value:.6f}" for value in statistics[key]]) for key in ("mean", "std")],
        )
    for problem in report.get("problems", []):
        print(f"FAILED: {problem}")
    if report.get("passed"):
        print("all checks passed")


def _per_class(counts: list[int]) -> str:
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,}–{max(counts):,}"
