"""Each rule of a rule set, read off an examined network: what was measured, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from featherweight.rules.cost import Cost, cost
from featherweight.rules.findings import Convolution, convolutions, longest_chain, max_pooling, separable_pairs
from featherweight.rules.graph import trace
from featherweight.rules.layers import one
from featherweight.rules.nodes import Graph, place_of
from featherweight.rules.receptive_field import Exit, Reception, extent, field_of, positions, receptive_field, uncovered
from featherweight.rules.result_record import problem_of
from featherweight.rules.rulesets import RuleSet
from featherweight.rules.wording import does_not_run, one_line
from featherweight.utils import UserError

Settings = dict[str, Any]


@dataclass(frozen=True)
class RuleResult:
    """One rule's outcome. where: the layer that decides it; advice: one sentence for a failing rule, else empty."""

    rule: str
    passed: bool
    measured: Any
    required: str
    where: str
    advice: str = ""


class Examined:
    """A network traced at the rule set's size, and what the rules read off it."""

    def __init__(self, network: nn.Module, rules: RuleSet) -> None:
        self.network, self.rule_set = network, rules
        self.graph: Graph = trace(network, rules.input_shape)
        if self.graph.error is not None:
            raise UserError(does_not_run(network, rules.input, self.graph.error))

    @cached_property
    def reception(self) -> Reception:
        return receptive_field(self.graph)

    @cached_property
    def cost(self) -> Cost:
        return cost(self.graph)

    @cached_property
    def larger(self) -> Graph:
        side = self.rule_set.larger_input
        return trace(self.network, (1, self.rule_set.input[0], side, side))

    @cached_property
    def live(self) -> set[int]:
        return self.graph.live()

    @cached_property
    def convolutions(self) -> list[Convolution]:
        """Those whose result reaches the output."""
        return [conv for conv in convolutions(self.graph) if conv.node in self.live]

    def labels(self, nodes: list[int], most: int = 3) -> str:
        names = list(dict.fromkeys(self.graph.label(node) for node in nodes))
        return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _parameters(seen: Examined, settings: Settings) -> RuleResult:
    count, limit = seen.cost.parameters, settings["fewer_than"]
    sizes = {name: p.numel() for name, p in seen.graph.network.named_parameters() if p.requires_grad}
    biggest = max(sizes, key=lambda name: sizes[name], default="")
    where = f"most in {biggest}: {sizes[biggest]:,}" if biggest else "no trainable parameter"
    if seen.graph.hidden:
        where += (
            f"; {sum(seen.graph.hidden.values()):,} of them not registered with the network (layers in a plain list)"
        )
    if seen.cost.frozen_parameters:
        where += f"; {seen.cost.frozen_parameters:,} frozen ones are not counted"
    return RuleResult(
        "parameters",
        count < limit,
        count,
        f"< {limit}",
        where,
        ""
        if count < limit
        else (f"Take away {count - limit + 1:,} parameters: fewer channels in {biggest}, or a separable convolution."),
    )


def _receptive_field(seen: Examined, settings: Settings) -> RuleResult:
    reception, limit = seen.reception, settings["more_than"]
    required = f"> {limit}"
    if reception.figure is None or reception.deciding is None:
        reached = any(
            (layout := reception.layouts[ref.node][ref.output]) is not None and (layout.wide or layout.pooled)
            for ref in seen.graph.outputs
        )
        measured = "whole map" if reached else "none"
        return RuleResult(
            "receptive_field",
            reached,
            measured,
            required,
            "no unit has a limited field" if reached else "no map of rows and columns was found",
            "" if reached else "Let the network work on a map of rows and columns.",
        )
    number = min(reception.figure.size)
    where = seen.graph.label(reception.deciding.source.node)
    if reception.with_pooling is not None:
        where += f"; {one(reception.with_pooling)} with the pooling counted in"
    if reception.wide:
        where += f"; not counted: {', '.join(reception.wide[:3])} reaching the whole map"
    if not reception.figure.exact:
        where += "; branches with different jumps meet, the largest field is given"
    return RuleResult(
        "receptive_field",
        number > limit,
        one(reception.figure.size),
        required,
        where,
        ""
        if number > limit
        else f"Widen the field by {limit + 1 - number} pixels or more: a stride-2 or "
        "dilated convolution earlier doubles what every later layer adds.",
    )


def _no_max_pooling(seen: Examined, settings: Settings) -> RuleResult:
    found = max_pooling(seen.graph, seen.reception.layouts)
    found = [node for node in found if not _after_the_map(seen, node)]
    return RuleResult(
        "no_max_pooling",
        not found,
        len(found),
        "0",
        seen.labels(found) or "the whole graph",
        "Replace it by a 3x3 convolution of stride 2, or by average pooling." if found else "",
    )


def _after_the_map(seen: Examined, node: int) -> bool:
    """A maximum over classes after the pooling is no pooling."""
    refs = seen.graph.nodes[node].refs()
    layout = seen.reception.layouts[refs[0].node][refs[0].output] if refs else None
    return layout is not None and not layout.roots() and bool(layout.pooled) and not layout.wide


def _blocks(seen: Examined, settings: Settings) -> RuleResult:
    wanted = [*settings["convolution_blocks"], settings["output"]]
    children = {name.lower(): name for name, _ in seen.graph.network.named_children()}
    faults: list[str] = []
    starts: list[int] = []
    for name in wanted:
        child = children.get(name.lower())
        if child is None:
            faults.append(f"{name} is missing")
            continue
        inside = [
            node.index
            for node in seen.graph.nodes[1:]
            if node.index in seen.live and (node.module == child or node.module.startswith(child + "."))
        ]
        convs = [conv for conv in seen.convolutions if conv.node in inside]
        if not inside:
            faults.append(f"{name} is not used")
        elif name != settings["output"] and not convs:
            faults.append(f"{name} has no convolution")
        else:
            starts.append(inside[0])
    if not faults and starts != sorted(starts):
        faults.append("they do not run in this order")
    return RuleResult(
        "blocks",
        not faults,
        len(starts),
        " ".join(wanted),
        "; ".join(faults) or "children of the network",
        f"Make {', '.join(wanted)} attributes of the network that run in this order." if faults else "",
    )


def _strided_convolutions(seen: Examined, settings: Settings) -> RuleResult:
    kernel, stride, least = settings["kernel"], settings["stride"], settings["at_least"]
    chosen = [
        conv.node
        for conv in seen.convolutions
        if conv.kernel == (kernel, kernel) and conv.stride == (stride, stride) and not conv.transposed
    ]
    chain = longest_chain(seen.graph, set(chosen), seen.live)
    required = f">= {least} of {kernel}x{kernel}, stride {stride}"
    where = seen.labels(chain) or "no such convolution"
    if len(chain) >= least:
        return RuleResult("strided_convolutions", True, len(chain), required, where)
    if settings["dilation_instead"]:
        required += ", or no stride and no pooling but dilation"
        if not _downsampling(seen) and (dilated := [c.node for c in seen.convolutions if c.dilated]):
            return RuleResult(
                "strided_convolutions",
                True,
                len(chain),
                required,
                f"the bonus: dilation instead, {seen.labels(dilated)}",
            )
    ones = [conv.node for conv in seen.convolutions if max(conv.kernel) < max(conv.stride)]
    if ones:
        where += f"; not counted, for its stride passes over pixels: {seen.labels(ones)}"
    return RuleResult(
        "strided_convolutions",
        False,
        len(chain),
        required,
        where,
        f"Let {least - len(chain)} more {kernel}x{kernel} convolutions, one after another, have stride {stride}.",
    )


def _downsampling(seen: Examined) -> list[int]:
    """Nodes before the global pooling that stride or pool."""
    found = []
    layouts, exits = seen.reception.layouts, {e.node for e in seen.reception.exits}
    for node in seen.graph.nodes[1:]:
        if node.index not in seen.live or not extent(layouts[node.index][0]):
            continue
        after = field_of(layouts[node.index][0])
        if (after is not None and max(after.jump) > 1) or ("pool" in node.op and node.index not in exits):
            found.append(node.index)
    strided = [conv.node for conv in seen.convolutions if max(conv.stride) > 1 and extent(layouts[conv.node][0])]
    return sorted({*found, *strided})


def _no_downsampling(seen: Examined, settings: Settings) -> RuleResult:
    found = _downsampling(seen)
    return RuleResult(
        "no_downsampling",
        not found,
        len(found),
        "no stride and no pooling before the last",
        f"first in {seen.graph.label(found[0])}" if found else "the whole graph",
        "Use stride 1 and no pooling there, and widen the field by dilation." if found else "",
    )


def _depthwise_separable(seen: Examined, settings: Settings) -> RuleResult:
    pairs = separable_pairs(seen.graph, seen.reception.layouts, seen.live)
    least = settings["at_least"]
    where = seen.labels([pair[0] for pair in pairs])
    if not pairs:
        alone = [conv.node for conv in seen.convolutions if conv.depthwise]
        grouped = [conv.node for conv in seen.convolutions if conv.groups > 1 and not conv.depthwise]
        where = (
            f"depthwise without a 1x1 after it: {seen.labels(alone)}"
            if alone
            else f"grouped but not depthwise: {seen.labels(grouped)}"
            if grouped
            else "no depthwise convolution"
        )
    return RuleResult(
        "depthwise_separable",
        len(pairs) >= least,
        len(pairs),
        f">= {least}",
        where,
        ""
        if len(pairs) >= least
        else "Give a 3x3 convolution as many groups as it has input channels and "
        "put a 1x1 convolution of groups 1 after it.",
    )


def _dilated(seen: Examined, settings: Settings) -> RuleResult:
    found = [conv.node for conv in seen.convolutions if conv.dilated]
    least = settings["at_least"]
    where = seen.labels(found)
    if not found:
        idle = [conv.node for conv in seen.convolutions if max(conv.dilation) > 1]
        where = f"a dilated 1x1 spreads nothing: {seen.labels(idle)}" if idle else "no dilated convolution"
    return RuleResult(
        "dilated",
        len(found) >= least,
        len(found),
        f">= {least} with kernel > 1",
        where,
        "" if len(found) >= least else "Give a 3x3 convolution dilation 2 (and padding 2).",
    )


def _global_pooling(seen: Examined, settings: Settings) -> RuleResult:
    required = "an average over the whole map, at any input size"
    side = seen.rule_set.larger_input
    advice = "Use AdaptiveAvgPool2d(1) or x.mean((2, 3)) right after the last map."
    exits = seen.reception.exits
    others = [exit_ for exit_ in exits if exit_.kind != "average"]
    if others or not exits:
        measured = {"maximum": "global maximum", "none": "the output is still a map", "other": "no global pooling"}[
            others[0].kind if others else "other"
        ]
        return RuleResult(
            "global_pooling",
            False,
            measured,
            required,
            seen.labels([exit_.node for exit_ in others]) or "the whole graph",
            advice,
        )
    for exit_ in exits:
        where = seen.graph.label(exit_.node)
        missed, total = uncovered(seen.graph, exit_.node, exit_.source), positions(seen.graph, exit_.source)
        if missed:
            return RuleResult(
                "global_pooling", False, f"{total - missed} of {total} positions", required, where, advice
            )
        there = _again(seen, exit_)
        if there is None:
            return RuleResult(
                "global_pooling",
                False,
                f"global at {seen.rule_set.input[1]} only",
                required,
                f"{where}; with an input of {side}x{side}: {seen.larger.error}",
                advice,
            )
        missed, total = uncovered(seen.larger, there.node, there.source), positions(seen.larger, there.source)
        if missed or seen.larger.error is not None:
            what = f"{total - missed} of {total} positions" if missed else str(seen.larger.error)
            return RuleResult(
                "global_pooling",
                False,
                f"global at {seen.rule_set.input[1]} only",
                required,
                f"{where}; with an input of {side}x{side}: {what}",
                advice,
            )
    return RuleResult("global_pooling", True, "whole map", required, seen.labels([exit_.node for exit_ in exits]))


def _again(seen: Examined, exit_: Exit) -> Exit | None:
    """The same pooling in the graph of the larger picture; None where the network did not get so far."""
    place, source = place_of(seen.graph, exit_.node), place_of(seen.graph, exit_.source.node)
    found = {place_of(seen.larger, node.index): node for node in seen.larger.nodes if node.op in (place.op, source.op)}
    if place not in found or source not in found:
        return None
    return Exit(found[place].index, type(exit_.source)(found[source].index, exit_.source.output), exit_.kind)


def accuracy(parameters: int | None, settings: Settings, record: dict[str, Any] | None) -> RuleResult:
    """The accuracy rule: a record that may be believed, and an accuracy that is high enough."""
    required = f">= {settings['at_least']} on the {settings['test_images']} test images"
    if record is None:
        return RuleResult("accuracy", False, None, required, "no record", "Give the run's result.json with --record.")
    problem = problem_of(
        record,
        test_images=settings["test_images"],
        parameters=parameters,
        train_images_at_most=settings["train_images_at_most"],
        dataset=settings["dataset"],
    )
    measured = record.get("test_accuracy")
    if not (measured is None or (isinstance(measured, int | float) and abs(measured) < 1e6)):
        measured = one_line(measured, 20)
    if problem:
        return RuleResult(
            "accuracy",
            False,
            measured,
            required,
            f"the record is refused: {problem}",
            "Measure once, at the end, on all test images, with an epoch chosen without looking at them.",
        )
    passed = record["test_accuracy"] >= settings["at_least"]
    return RuleResult(
        "accuracy",
        passed,
        measured,
        required,
        one_line(record.get("recipe") or record.get("model") or "record", 60),
        "" if passed else "Train longer or choose another recipe on validation images.",
    )


RULES: dict[str, Callable[[Examined, Settings], RuleResult]] = {
    "parameters": _parameters,
    "receptive_field": _receptive_field,
    "no_max_pooling": _no_max_pooling,
    "blocks": _blocks,
    "strided_convolutions": _strided_convolutions,
    "no_downsampling": _no_downsampling,
    "depthwise_separable": _depthwise_separable,
    "dilated": _dilated,
    "global_pooling": _global_pooling,
}
