"""The README's table of exported networks, from the cards that `featherweight export` writes beside the .onnx files."""

from __future__ import annotations

from pathlib import Path

from featherweight.records import read_json_object
from featherweight.report import code_cell, markdown, text_cell
from featherweight.utils import UserError

MAX_CARD = 1 << 20  # bytes; such a card holds about 3,000
COLUMNS = ("network", "form", "bytes", "test accuracy", "points lost", "same class as torch", "largest difference")


def onnx_table(folder: Path) -> str:
    """One row for each card in `folder`, of all its *.json files, the networks in the order of their names.

    Raises UserError, naming the file, for one that is no such card.
    """
    rows, batches, devices, names = [], [], set(), []
    for path in sorted(folder.glob("*.json"), key=lambda path: path.name.split(".")):
        card = read_json_object(path, limit=MAX_CARD, what="card of an exported network")
        try:
            onnx = card["onnx"]
            parity, latency = onnx["parity"], onnx["latency"]
            batches = [int(batch.removeprefix("batch_")) for batch in latency]
            times = [of[onnx["form"]] for of in latency.values()]
            rows.append(
                [
                    text_cell(card["name"]),
                    text_cell(onnx["form"]),
                    f"{onnx['bytes']:,}",
                    f"{100 * parity['accuracy']:.2f} %",
                    f"{parity['lost_points'] + 0:.2f}",
                    f"{parity['agreeing']:,} of {parity['images']:,}",
                    f"{parity['max_difference']:.1e}",
                    *(f"{time['ms']:.2f} ms ({time['torch_ratio']:.1f}x)" for time in times),
                ]
            )
            devices.add(onnx["device"])
            names.append(card["name"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: this is no card of an exported network; write it anew with --int8") from error
    if not rows:
        return "Not exported yet."
    columns = [*COLUMNS, *(f"batch of {batch}" for batch in batches)]
    commands = ", ".join(code_cell(f"featherweight export {name} --int8") for name in dict.fromkeys(names))
    return (
        markdown(columns, rows, right=columns[2:])
        + f"\n\nMeasured by {commands} on {text_cell(' and '.join(sorted(devices)))}. Points lost: of accuracy, "
        "against torch; largest difference: of any probability. Times: of the quickest call, one thread, and how many "
        "times quicker than torch with one thread."
    )
