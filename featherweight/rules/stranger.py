"""Run a stranger's file and judge the networks in it. Called only in a child process with limits set: see `worker`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from featherweight.rules.graph import trace
from featherweight.rules.layers import summarise
from featherweight.rules.oracle import verify
from featherweight.rules.package import module_name
from featherweight.rules.rulesets import load_rule_set
from featherweight.rules.verdict import check
from featherweight.rules.wording import does_not_run, first_line
from featherweight.utils import UserError


class Unfit(Exception):
    """A file or class that cannot be judged; the message says why in one line."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request: {"results": [...]}, each with a name and a verdict or an error; or {"error": line}."""
    sys.argv = [request["path"]]  # a file that parses its command line as it is imported finds none
    try:
        module = run_file(Path(request["path"]))
        found, broken = (named(module, request["name"]), {}) if request.get("name") else _all(module)
    except Unfit as error:
        return {"error": str(error)}
    results = [_judged(name, network, request) for name, network in found]
    return {"results": results + [{"name": name, "error": str(error)} for name, error in broken.items()]}


def _judged(name: str, network: nn.Module, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"name": name, **judge(network, request)}
    except MemoryError:
        raise
    except UserError as error:
        return {"name": name, "error": str(error)}


def judge(network: nn.Module, request: dict[str, Any]) -> dict[str, Any]:
    """The task of a request done on a network: "check" (rules, record, verify) or "summary" (input_shape, verify)."""
    if request["task"] == "summary":
        return summary(network, tuple(request["input_shape"]), bool(request.get("verify")))
    rules = load_rule_set(request["rules"])
    verdict = check(network, rules, request.get("record"), bool(request.get("require_accuracy")))
    result = verdict.as_json()
    if request.get("verify"):
        result["verify"] = measured(network, rules.input_shape)
    return result


def summary(network: nn.Module, input_shape: tuple[int, ...], check_field: bool = False) -> dict[str, Any]:
    """The layer table as plain data. Raises UserError when the network does not run on `input_shape` ([1, C, H, W])."""
    from featherweight.rules.layers import one

    graph = trace(network, input_shape)
    if graph.error is not None:
        raise UserError(does_not_run(network, input_shape[1:], graph.error, "try another --input-size"))
    made = summarise(graph)
    figure, deciding = made.reception.figure, made.reception.deciding
    result: dict[str, Any] = {
        "parameters": made.cost.parameters,
        "frozen_parameters": made.cost.frozen_parameters,
        "multiply_adds": made.cost.multiply_adds,
        "activation_bytes": made.cost.activation_bytes,
        "peak_activation_bytes": made.cost.peak_activation_bytes,
        "weight_bytes": made.cost.weight_bytes,
        "receptive_field": one(figure.size) if figure else None,
        "receptive_field_with_pooling": one(made.reception.with_pooling),
        "jump": one(figure.jump) if figure else None,
        "map_ends": {"kind": deciding.kind, "where": graph.label(deciding.node)} if deciding else None,
        "exact": figure.exact if figure else None,
        "whole_map": made.reception.wide,
        "layers": [layer.as_json() for layer in made.layers],
    }
    if check_field:
        result["verify"] = measured(network, input_shape)
    return result


def measured(network: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """The oracle's measurement as plain data."""
    from featherweight.rules.layers import one

    result = verify(network, input_shape)
    return {
        "expected": one(result.expected),
        "measured": one(result.measured),
        "agrees": result.agrees,
        "note": result.note,
    }


def run_file(path: Path) -> ModuleType:
    """Run a Python file as a module. Raises Unfit with one line for whatever it does instead."""
    if path.suffix == ".ipynb":
        raise Unfit("it is a notebook, not a Python file; export it as .py")
    name = module_name(path, "checked")
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        source = loader.get_data(str(path))
        code = compile(source, str(path), "exec")
    except OSError as error:
        raise Unfit(f"it cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        raise Unfit(f"it is not Python: {error.msg}" + (f", line {error.lineno}" if error.lineno else "")) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise Unfit(f"it is not Python: {error}") from error
    _calmly(lambda: exec(code, module.__dict__), "running it")
    return module


def _calmly(action: Any, doing: str) -> Any:
    """Call `action`; whatever it raises becomes one line. Running out of memory is left to the caller."""
    try:
        return action()
    except Unfit:
        raise
    except SystemExit as error:
        raise Unfit(
            f"{doing} ends the program (sys.exit({error.code!r})); keep that under if __name__ == '__main__'"
        ) from error
    except BaseException as error:
        if is_memory(error):
            raise
        missing = isinstance(error, ModuleNotFoundError)
        hint = "; install it, or import it only where the network needs it" if missing else ""
        raise Unfit(f"{doing} raises {first_line(error)}{_line_of(error)}{hint}") from error


def is_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out."""
    text = str(error)
    return (
        isinstance(error, MemoryError) or "bad_alloc" in text or ("alloc" in text.lower() and "memory" in text.lower())
    )


def _line_of(error: BaseException) -> str:
    """Where in the stranger's own file it happened."""
    trace_back, line = error.__traceback__, None
    while trace_back is not None:
        if Path(trace_back.tb_frame.f_code.co_filename).name != Path(__file__).name and (
            "checked_" in trace_back.tb_frame.f_globals.get("__name__", "")
        ):
            line = trace_back.tb_lineno
        trace_back = trace_back.tb_next
    return f" (line {line})" if line else ""


def named(module: ModuleType, name: str) -> list[tuple[str, nn.Module]]:
    """The network called `name`: a class, a function without arguments, or a finished network."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if value is None:
        there = ", ".join(sorted(classes(module))) or "no network class at all"
        raise Unfit(f"it has no {name}; it has {there}")
    return [(name, build(value, name))]


def build(value: Any, name: str) -> nn.Module:
    """A network from a class, a function or a network."""
    if isinstance(value, nn.Module):
        return value
    if not callable(value):
        raise Unfit(f"{name} is neither a class nor a function nor a network")
    needed = required_arguments(value)
    if needed:
        raise Unfit(f"{name} needs arguments ({', '.join(needed)}); give them defaults, or name a function without any")
    made = _calmly(value, f"building {name}")
    if not isinstance(made, nn.Module):
        raise Unfit(f"{name} gives a {type(made).__name__}, not a torch.nn.Module")
    return made


def required_arguments(value: Any) -> list[str]:
    """The names of the arguments that have no default."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def classes(module: ModuleType) -> dict[str, type[nn.Module]]:
    """The network classes that the file itself defines."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }


def every(module: ModuleType) -> list[tuple[str, nn.Module]]:
    """The networks of a file named without a class: its `Net`, or each class that builds without arguments.

    Classes that only serve as parts of another, and where there are networks those without parameters (losses,
    layers), are left out. Raises Unfit where none is left.
    """
    return _all(module)[0]


def _all(module: ModuleType) -> tuple[list[tuple[str, nn.Module]], dict[str, Unfit]]:
    """The networks of `every`, and beside them the classes that could not be built, each with the reason."""
    found = classes(module)
    if not found:
        raise Unfit("it defines no torch.nn.Module class; name a function or network with file.py:NAME")
    if "Net" in found or len(found) == 1:
        name = "Net" if "Net" in found else next(iter(found))
        return [(name, build(found[name], name))], {}
    ready = {name: value for name, value in found.items() if not required_arguments(value)}
    if not ready:
        made = _makers(module)
        name_one = f", or name a function that makes the network: file.py:{made[0]}" if made else ""
        raise Unfit(f"its classes {', '.join(found)} all need arguments; give one of them defaults{name_one}")
    built: dict[str, nn.Module] = {}
    broken: dict[str, Unfit] = {}
    for name, value in ready.items():
        try:
            built[name] = build(value, name)
        except Unfit as error:
            broken[name] = error
    if not built:
        raise next(iter(broken.values()))
    parts = {type(part) for network in built.values() for part in list(network.modules())[1:]}
    whole = {name: network for name, network in built.items() if type(network) not in parts} or built
    trained = {name: network for name, network in whole.items() if next(network.parameters(), None) is not None}
    return list((trained or whole).items()), broken


def _makers(module: ModuleType) -> list[str]:
    """The names of the file's own functions that can do without arguments."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not required_arguments(value)
    ]
