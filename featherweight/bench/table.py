"""What `featherweight bench` measured, for people: rows for the terminal, Markdown for the README, bars for the figure.

All are pure functions of the JSON that the command writes; each of its four kinds is told by its `kind`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.bench.predict import FORMS as FORM_NAMES
from featherweight.bench.speed import PLAIN
from featherweight.explain.speed import Bar, Panel
from featherweight.report import format_count, format_seconds
from featherweight.utils import UserError

PHASES = {  # name in the JSON → heading
    "waiting": "waiting",
    "augmentation": "augment",
    "forward": "forward",
    "backward": "backward",
    "optimiser": "optimiser",
    "other": "other",
}


@dataclass(frozen=True)
class Table:
    """A table as `terminal.print_table` takes it. All columns but the first few `left` are set flush right."""

    columns: list[str]
    rows: list[list[str]]
    title: str = ""
    left: int = 1

    @property
    def right(self) -> list[str]:
        return self.columns[self.left :]


def speed_table(bench: dict[str, Any]) -> str:
    """Markdown of one output of `featherweight bench`: its figures, what they mean, the command and the machine.

    Raises UserError for anything else.
    """
    try:
        table = _MARKDOWN[bench["kind"]](bench)
        code = f" at commit {_short(bench['commit'])}" if bench.get("commit") else ""
        sentences = [*remarks(bench), f"Measured by `{bench['command']}`{code} on {machine_line(bench['machine'])}."]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"this is no output of `featherweight bench` ({type(error).__name__}: {error}); write it anew with --out"
        ) from error
    return "\n\n".join([_markdown(table), " ".join(sentences)])


def _short(commit: str) -> str:
    return commit[:10] + ("+changes" if commit.endswith("+changes") else "")


def terminal_tables(bench: dict[str, Any]) -> list[Table]:
    """The tables printed by the command, none wider than 80 columns."""
    if bench["kind"] == "equal_epochs":
        return [_equal_network_table(network) for network in bench["networks"]]
    if bench["kind"] != "speed":
        return [_MARKDOWN[bench["kind"]](bench)]
    return [table for network in bench["networks"] for table in (_network_table(network), _shares_table(network))]


def panels(bench: dict[str, Any]) -> list[Panel]:
    """The bars of the command's figure."""
    draw = {"speed": _speed_panels, "time_to": _time_panels, "predict": _predict_panels, "equal_epochs": _equal_panels}
    return draw[bench["kind"]](bench)


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line, with how idle it was."""
    device = machine["device"]
    line = device if device.startswith("cpu") else f"{device} ({machine['processor']})"
    line += f", {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}"
    if machine["others_share"] is not None:
        line += f"; other processes took {_percent(machine['others_share'])} of the processors' time"
        line += f", the host's other guests {_percent(machine['stolen_share'])}"
    if machine["load_before"] is not None:
        line += f"; load average {machine['load_before']:.2f} before"
    return line


def loop_name(loop: dict[str, Any]) -> str:
    """`plain loop, fp32` or `ours, batched, bf16`."""
    return f"{'' if _is_plain(loop) else 'ours, '}{loop['name']}, {loop['precision']}"


def _is_plain(loop: dict[str, Any]) -> bool:
    return loop["name"] == PLAIN


def _network_title(network: dict[str, Any]) -> str:
    counts = f"{network['parameters']:,} parameters, {format_count(network['multiply_adds'])} multiply-adds"
    dataset = "" if network["dataset"] == "cifar10" else f", {network['dataset']}"
    return f"{network['model']}: {counts}, batch {network['batch_size']}{dataset}"


def _network_table(network: dict[str, Any]) -> Table:
    rows = [
        [
            f"{loop['name']} {loop['precision']}",
            f"{loop['images_per_second']:,.0f}",
            "1" if _is_plain(loop) else _ratio(loop["ratio"], 1),
            f"{loop['flops_per_second'] / 1e9:,.0f}",
            *(f"{100 * loop['of_matrix_product'][kind]:.0f}" for kind in ("fp32", "bf16")),
        ]
        for loop in network["loops"]
    ]
    return Table(["loop", "images/s", "ratio", "GFLOP/s", "% fp32", "% bf16"], rows, _network_title(network))


def _shares_table(network: dict[str, Any]) -> Table:
    memory = ", ".join(f"{loop['name']} {_bytes(loop['peak_memory_bytes'])}" for loop in network["loops"])
    rows = [[loop["name"], *(f"{100 * loop['shares'][name]:.0f}" for name in PHASES)] for loop in network["loops"]]
    return Table(["% of a step", *PHASES.values()], rows, f"Peak memory: {memory}")


def _speed_markdown(bench: dict[str, Any]) -> Table:
    rows = [
        [
            network["model"] if _is_plain(loop) else "",
            loop_name(loop),
            f"{loop['images_per_second']:,.0f}",
            "1" if _is_plain(loop) else f"**{_ratio(loop['ratio'])}**",
            _bytes(loop["peak_memory_bytes"]),
            f"{loop['flops_per_second'] / 1e9:,.0f}",
            _percent(loop["of_matrix_product"]["fp32"]),
            _percent(loop["of_matrix_product"]["bf16"]),
        ]
        for network in bench["networks"]
        for loop in network["loops"]
    ]
    columns = ["network", "training loop", "images/s", "ratio", "peak memory", "GFLOP/s"]
    return Table([*columns, "of the fp32 product", "of the bf16 product"], rows, left=2)


def _time_table(bench: dict[str, Any]) -> Table:
    rows = [
        [
            str(run["seed"]),
            format_seconds(run["train_seconds"]),
            format_seconds(run["wall_seconds"]),
            str(run["epochs"]),
            f"{run['flops'] / 1e12:,.1f}",
            _bytes(run["peak_memory_bytes"]),
            f"{100 * run['test_accuracy']:.2f} %",
            "yes" if run["met"] else "no",
        ]
        for run in bench["runs"]
    ]
    columns = ["seed", "training", "in all", "epochs", "TFLOP", "memory", "test", "met"]
    title = f"{bench['recipe']} to {100 * bench['target']:g} % of the test pictures"
    return Table(columns, rows, title)


def _predict_table(bench: dict[str, Any]) -> Table:
    rows = [
        [
            FORM_NAMES[row["form"]],
            str(row["batch_size"]),
            f"{row['images_per_second']:,.0f}",
            f"{1000 * row['latency_median']:,.2f} ms",
            f"{1000 * row['latency_95']:,.2f} ms",
            f"{100 * row['agreement']:.1f} %",
        ]
        for row in sorted(bench["forms"], key=lambda row: row["batch_size"])
    ]
    rows += [[FORM_NAMES[missing["form"]], "", "", "not available", "", ""] for missing in bench["unavailable"]]
    columns = ["form", "at a time", "images/s", "latency", "95 % within", "same class"]
    return Table(columns, rows, f"{bench['weights']} ({bench['model']}): inference")


def _equal_table(bench: dict[str, Any]) -> Table:
    rows = [
        [network["model"] if _is_plain(loop) else "", loop_name(loop), *_equal_cells(loop)]
        for network in bench["networks"]
        for loop in network["loops"]
    ]
    return Table(["network", "training loop", *EQUAL_COLUMNS], rows, left=2)


def _equal_network_table(network: dict[str, Any]) -> Table:
    rows = [[f"{loop['name']} {loop['precision']}", *_equal_cells(loop)] for loop in network["loops"]]
    return Table(["loop", *EQUAL_COLUMNS], rows, network["model"])


EQUAL_COLUMNS = ["validation", "difference", "training"]


def _equal_cells(loop: dict[str, Any]) -> list[str]:
    return [
        f"{100 * loop['accuracy_mean']:.2f} ± {100 * loop['accuracy_deviation']:.2f} %",
        "" if _is_plain(loop) else _difference(loop),
        format_seconds(loop["train_seconds"]),
    ]


_MARKDOWN = {"speed": _speed_markdown, "time_to": _time_table, "predict": _predict_table, "equal_epochs": _equal_table}


def remarks(bench: dict[str, Any]) -> list[str]:
    return _REMARKS[bench["kind"]](bench)


def _speed_remarks(bench: dict[str, Any]) -> list[str]:
    """What the table's figures mean, sentence by sentence."""
    product = bench["matrix_product"]
    found = [
        f"Images/s: median of {bench['repeats']} turns of about {bench['seconds']:g} s, the loops taking turns in one "
        "run; ratio to the plain loop: median (least – most) over the turns.",
        f"FLOP/s: {bench['flops_formula']}, also as a share of what a matrix product of {product['size']}² reached "
        f"between the turns: {product['fp32'] / 1e9:,.0f} GFLOP/s in fp32, {product['bf16'] / 1e9:,.0f} in bf16.",
    ]
    if any(loop["fused"] for network in bench["networks"] for loop in network["loops"]):
        found.append("Ours ran on this project's own fused operations where they fit, else on torch's.")
    costs = [
        f"{network['model']}, {loop['name']}: {_cost(loop['augmentation_cost'])}"
        for network in bench["networks"]
        for loop in network["loops"]
        if loop["augmentation_cost"] is not None and loop["name"] != "none"
    ]
    if costs:
        found.append(
            f"What augmentation costs of the time, against going without, median (least – most) over the "
            f"turns: {'; '.join(costs)}."
        )
    return found


def _time_remarks(bench: dict[str, Any]) -> list[str]:
    """The outcome in words."""
    seconds, deviation = bench["train_seconds"], bench["accuracy_deviation"]
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    word = "reaches" if bench["met"] else "does not reach"
    return [
        f"The mean test accuracy, {100 * bench['accuracy_mean']:.2f}{spread} %, {word} {100 * bench['target']:g} % "
        f"({bench['runs_that_met']} of {len(bench['runs'])} runs do); training took {format_seconds(seconds['mean'])} "
        f"in the mean ({format_seconds(seconds['min'])} to {format_seconds(seconds['max'])}).",
        f"Protocol: {bench['protocol']}.",
    ]


def _equal_remarks(bench: dict[str, Any]) -> list[str]:
    """How the runs were alike, and what was found."""
    epochs, seeds, images = bench["epochs"], bench["seeds"], bench["networks"][0]["loops"][0]["runs"][0]["images"]
    within = "within noise: 0 lies in" if bench["met"] else "not all within noise: 0 does not lie in each of"
    return [
        f"Accuracy on {images:,} held-out training pictures after {epochs} equal epoch{'s' * (epochs != 1)}, mean ± "
        f"standard deviation over {len(seeds)} seeds, all loops with SGD at a rate of {bench['learning_rate']:g} and a "
        f"momentum of {bench['momentum']:g} from the same weights.",
        f"Difference: from the plain loop's mean, in points; in brackets what it can be by Welch's t-test, with 95 % "
        f"confidence in all intervals together; {within} the intervals, and no difference beyond them is likely.",
    ]


def _predict_remarks(bench: dict[str, Any]) -> list[str]:
    """What was classified, and what could not be had."""
    found = [
        f"From uint8 pictures ({bench['pictures']}) to probabilities, both in memory; latency: median of all calls; "
        "same class: as torch fp32, of 512 pictures."
    ]
    found += [
        f"{FORM_NAMES[missing['form']]} is not available: {missing['reason']}." for missing in bench["unavailable"]
    ]
    return found


_REMARKS = {
    "speed": _speed_remarks,
    "time_to": _time_remarks,
    "predict": _predict_remarks,
    "equal_epochs": _equal_remarks,
}


def _speed_panels(bench: dict[str, Any]) -> list[Panel]:
    found = []
    for network in bench["networks"]:
        bars = []
        for loop in network["loops"]:
            rate, turns = loop["images_per_second"], loop["turns"]
            ratio = "" if _is_plain(loop) else f" = {loop['ratio']['median']:.1f}×"
            bars.append(
                Bar(
                    label=loop_name(loop),
                    value=rate,
                    low=min(turns),
                    high=max(turns),
                    note=f"{rate:,.0f}{ratio}",
                    reference=_is_plain(loop),
                )
            )
        found.append(Panel(title=_network_title(network), unit="images a second, training", bars=bars))
    return found


def _time_panels(bench: dict[str, Any]) -> list[Panel]:
    bars = [
        Bar(
            label=f"seed {run['seed']}",
            value=run["train_seconds"],
            low=run["train_seconds"],
            high=run["train_seconds"],
            note=f"{format_seconds(run['train_seconds'])}: {100 * run['test_accuracy']:.2f} %",
            reference=not run["met"],
        )
        for run in bench["runs"]
    ]
    title = f"{bench['recipe']} to {100 * bench['target']:g} % of the test pictures (grey: not reached)"
    return [Panel(title=title, unit="seconds of training", bars=bars)]


def _equal_panels(bench: dict[str, Any]) -> list[Panel]:
    found = []
    for network in bench["networks"]:
        bars = [
            Bar(
                label=loop_name(loop),
                value=100 * loop["accuracy_mean"],
                low=100 * min(run["accuracy"] for run in loop["runs"]),
                high=100 * max(run["accuracy"] for run in loop["runs"]),
                note=f"{100 * loop['accuracy_mean']:.2f} %",
                reference=_is_plain(loop),
            )
            for loop in network["loops"]
        ]
        title = f"{network['model']}: {bench['epochs']} equal epochs, {len(bench['seeds'])} seeds each"
        found.append(Panel(title=title, unit="% of the validation pictures", bars=bars))
    return found


def _predict_panels(bench: dict[str, Any]) -> list[Panel]:
    found = []
    for size in sorted({row["batch_size"] for row in bench["forms"]}):
        bars = [
            Bar(
                label=FORM_NAMES[row["form"]],
                value=row["images_per_second"],
                low=row["images_per_second"],
                high=row["images_per_second"],
                note=f"{row['images_per_second']:,.0f}  ({1000 * row['latency_median']:,.2f} ms)",
                reference=row["form"] == "torch_fp32",
            )
            for row in bench["forms"]
            if row["batch_size"] == size
        ]
        title = f"{bench['weights']}: inference, {size} at a time"
        found.append(Panel(title=title, unit="images a second (in brackets: latency)", bars=bars))
    return found


def _ratio(ratio: dict[str, float], digits: int = 2) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.{digits}f}–{ratio['max']:.{digits}f})"


def _cost(share: dict[str, float]) -> str:
    return f"{100 * share['median']:.1f} % ({100 * share['min']:.1f} – {100 * share['max']:.1f})"


def _difference(loop: dict[str, Any]) -> str:
    low, high = loop["difference_interval"]
    return f"{100 * loop['difference']:+.2f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _bytes(count: int | None) -> str:
    return "?" if not count else f"{count / 1e9:.2f} GB"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %" if fraction < 0.1 else f"{100 * fraction:.0f} %"


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join("---" if place < table.left else "---:" for place in range(len(table.columns))) + "|"
    return "\n".join([line(table.columns), rule, *map(line, table.rows)])
