"""A stranger's file as a module of its folder, so that it may import what lies beside it in any way. No torch here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType


def module_name(path: Path, prefix: str) -> str:
    """The name under which to load the file `path`, in a package made for its folder.

    `import blocks` and `from .blocks import Block` then find `blocks.py` beside it; what they do not find there or
    among installed packages is looked for one folder up, as `from models.blocks import Block` needs it.
    """
    package = f"{prefix}_folder"
    made = sys.modules.setdefault(package, ModuleType(package))
    made.__path__ = [str(path.parent), *getattr(made, "__path__", [])]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    if str(path.parent.parent) not in sys.path:
        sys.path.append(str(path.parent.parent))
    return f"{package}.{''.join(c if c.isalnum() else '_' for c in path.stem)}"
