"""torchvision's own networks, arithmetic against measurement: a program of its own, for test_rules_torchvision.py.

    python tests/rules/torchvision_check.py NAME …      prints {name: [field, measured field, do they agree]}

Where torchvision's compiled operations do not fit this torch (it has no CPU-only build everywhere), their names are
declared without a body, so that it can be imported: its networks do not call them.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path


def import_torchvision() -> None:
    """Import it, its operations declared where they are absent. Raises ModuleNotFoundError where there is none."""
    import torch

    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torchvision")
    text = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(
        set(re.findall(r'register_meta\("(\w+)"\)', text)) | set(re.findall(r"torchvision::(\w+)", text))
    ):
        try:
            library.define(f"{name}(Tensor x) -> Tensor")
        except RuntimeError:  # it is there
            continue
    import torchvision  # noqa: F401  # type: ignore[import-not-found]

    import_torchvision.kept = library  # type: ignore[attr-defined]  # what it declared goes when it does


def compare(name: str) -> list[object]:
    from torchvision import models  # type: ignore[import-not-found]

    from featherweight.rules.graph import trace
    from featherweight.rules.oracle import verify
    from featherweight.rules.receptive_field import receptive_field

    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    network, shape = models.get_model(name, weights=None, **more).eval(), (1, 3, 96, 96)
    figure = receptive_field(trace(network, shape)).figure
    measured = verify(network, shape)
    assert figure is not None
    assert measured.measured is not None, f"{name}: {measured}"
    return [list(figure.size), list(measured.measured), bool(measured.agrees)]


if __name__ == "__main__":
    try:
        import_torchvision()
    except ModuleNotFoundError:
        sys.exit(77)
    print(json.dumps({name: compare(name) for name in sys.argv[1:]}))
