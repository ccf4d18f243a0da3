"""One traced graph of a network: every tensor operation that depends on the picture, and every module call around it.

The tracer runs the network once on a small picture under a `TorchDispatchMode`, which sees each operation after torch
has reduced it to its own small set: functional calls, methods, in-place operations, reused modules and whatever the
Python code decides all arrive there as the same few dozen names. Global module hooks add the modules' names.
Why not torch.export: on two cores it took 3.0 s for 17 convolutions on top of 2.0 s for `import torch`, more than the
4 s that a whole `check` may take; it also refuses data-dependent Python and drops Dropout. This tracer takes 0.1 s.

The network itself is never touched: a deep copy runs, on the CPU and in evaluation mode; torch's generator is restored.
"""

from __future__ import annotations

import dataclasses
import random
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from featherweight.rules.copying import copy_network
from featherweight.rules.nodes import Call, Constant, Graph, Node, Place, Ref, flat, is_atomic, place_of
from featherweight.rules.wording import first_line

# Results that only take a tensor's shape or type, never its values.
_SHAPE_ONLY = {
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "randint_like",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_empty_strided",
    "new_full",
    "bernoulli",
}


_DROPOUTS = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
    torch.feature_dropout,
    torch.alpha_dropout,
    torch.feature_alpha_dropout,
}


def trace(network: nn.Module, input_shape: tuple[int, ...] = (1, 3, 32, 32)) -> Graph:
    """Run `network` once on a picture of `input_shape` ([N, C, H, W]) and return its graph.

    Raises UserError when the network cannot be copied. An exception inside the network ends the trace: the graph up to
    there is returned with `error` set, for a network that cannot take a size must still be judged on what it showed.
    """
    network = copy_network(network, input_shape)
    graph = Graph(network, tuple(input_shape))
    # The picture has a generator of its own; whatever the network draws is undone below.
    picture = torch.rand(input_shape, generator=torch.Generator().manual_seed(0))
    floating = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    run_traced(graph, picture.to(floating))
    return graph


class Reached(Exception):
    """Ends a run at the operation that was watched for. `tensor`: its result, with its gradient history."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__("reached")
        self.tensor = tensor


def run_traced(graph: Graph, picture: torch.Tensor, watch: tuple[Place, int] | None = None) -> torch.Tensor | None:
    """Run graph.network on `picture`, filling the empty `graph`; with `watch` only up to that operation's output.

    Returns the watched tensor, None where there is nothing to watch or it was not reached.
    """
    recorder = _Recorder(graph, picture, watch)
    state, generator = random.getstate(), torch.get_rng_state()
    before = register_module_forward_pre_hook(recorder.enter)
    after = register_module_forward_hook(recorder.leave, always_call=True)
    try:
        # Gradients stay on: with them off, torch takes fused short cuts (attention) that hide what the network does.
        with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad(), _Dropouts(recorder), recorder:
            warnings.simplefilter("ignore")
            output = graph.network(picture)
        graph.outputs = recorder.refs_in(output)
        if not graph.outputs:
            graph.error = _without_picture(output)
        if recorder.watched is not None and isinstance(output, torch.Tensor):
            recorder.look_for_watched([output])
    except Reached as reached:
        return reached.tensor
    except Exception as error:
        graph.error = first_line(error)
    finally:
        before.remove()
        after.remove()
        random.setstate(state)
        torch.set_rng_state(generator)
    return None


def _without_picture(output: Any) -> str:
    """What is wrong with an output in which no tensor made from the picture was found."""
    kind = type(output).__name__
    if isinstance(output, torch.Tensor | dict | list | tuple):
        return f"its output (a {kind}) does not depend on the picture; numpy and new tensors on the way lose the track"
    return f"its output is a {kind}; return a tensor of scores, or a tuple or dict of tensors"


class _Dropouts(TorchFunctionMode):
    """Notes functional dropout, which in evaluation mode runs no operation at all."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _DROPOUTS:
            self.recorder.functional_dropout(result)
        return result


class _Recorder(TorchDispatchMode):
    """Writes down operations as they run. Tensors are told apart by the memory they view; in-place results share it."""

    def __init__(self, graph: Graph, picture: torch.Tensor, watch: tuple[Place, int] | None = None) -> None:
        super().__init__()
        self.graph, self.watch = graph, watch
        self.watched: Any = None  # where in memory the watched result lies, once it exists
        self.alive: list[Any] = []  # keeps memory from being reused, so that a place in memory means one tensor
        self.known: dict[Any, Ref] = {}
        self.seen: set[Any] = set()  # places that already mean a tensor of their own
        self.names: dict[Any, tuple[str, ...]] = {}
        self.parent: dict[Any, tuple[torch.Tensor, Node]] = {}  # of a view: what it views, and how
        self.stack: list[int] = []
        self.paths = {id(module): path for path, module in graph.network.named_modules()}
        self._register_parameters()
        graph.nodes.append(Node(0, "input", {}, [tuple(picture.shape)], [0]))
        self._remember(picture, Ref(0))

    def _register_parameters(self) -> None:
        for name, parameter in self.graph.network.named_parameters():
            if not isinstance(parameter, nn.parameter.UninitializedParameter):
                self.names[_place(parameter)] = (name,)

    def _remember(self, tensor: torch.Tensor, ref: Ref) -> None:
        self.alive.append(tensor)
        self.known[_place(tensor)] = ref
        self.seen.add(_place(tensor))

    def refs_in(self, value: Any) -> list[Ref]:
        """The picture-dependent tensors anywhere in a module's input or output."""
        if isinstance(value, torch.Tensor):
            ref = self.known.get(_place(value))
            return [] if ref is None else [ref]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = [getattr(value, part.name, None) for part in dataclasses.fields(value)]
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list | tuple):
            return [ref for item in value for ref in self.refs_in(item)]
        return []

    # module calls

    def enter(self, module: nn.Module, inputs: Any) -> None:
        refs = self.refs_in(inputs)
        path = self.paths.get(id(module), f"({type(module).__name__} not registered)")
        parent = self.stack[-1] if self.stack else -1
        if parent >= 0:
            self.graph.calls[parent].leaf = False
        call = Call(
            len(self.graph.calls),
            path,
            type(module).__name__,
            module,
            parent,
            len(self.graph.nodes),
            refs[0] if refs else None,
        )
        self.graph.calls.append(call)
        self.stack.append(call.index)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        call = self.graph.calls[self.stack.pop()]
        call.last = len(self.graph.nodes)
        call.output = next(iter(self.refs_in(output)), None)

    def functional_dropout(self, result: Any) -> None:
        inside = self.graph.calls[self.stack[-1]] if self.stack else None
        ref = next(iter(self.refs_in(result)), None)
        if ref is None or (inside is not None and is_atomic(inside.module)):
            return
        here = len(self.graph.nodes)
        self.graph.calls.append(
            Call(
                len(self.graph.calls),
                inside.path if inside else "",
                "Dropout",
                None,
                inside.index if inside else -1,
                here,
                ref,
                here,
                ref,
            )
        )

    # operations

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler (1.6 s) to keep it away from this class; nothing here is ever compiled."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            self.watched is not None and func._schema.name != "aten::detach"
        ):  # autograd's own, before the history is set
            self.look_for_watched([*args, *kwargs.values()])
        if _is_composite(func):  # arrives here whole only under the network's own inference_mode
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        op = func._schema.name.split("::")[1]
        values = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        for argument in func._schema.arguments:
            if argument.name not in values and argument.has_default_value():
                values[argument.name] = argument.default_value
        # Looked up before the operation runs: some (`as_strided_`, `unsqueeze_`) change in place what a tensor views.
        plain = {name: self._plain(value) for name, value in values.items()}
        result = func(*args, **kwargs)
        self._record(op, values, plain, result)
        return result

    def look_for_watched(self, values: list[Any]) -> None:
        """End the run when the watched result is read: only then has autograd given the tensor its history."""
        for tensor in flat(values, torch.Tensor):
            if _place(tensor) == self.watched and tensor.requires_grad:
                raise Reached(tensor)

    def _watch(self, node: Node, results: list[Any]) -> None:
        if (
            self.watch is not None
            and node.op == self.watch[0].op
            and (place_of(self.graph, node.index) == self.watch[0])
        ):
            self.watched = _place(results[self.watch[1]])

    def _record(self, op: str, values: dict[str, Any], plain: dict[str, Any], result: Any) -> None:
        results = list(result) if isinstance(result, list | tuple) else [result]
        tensors = [item for item in results if isinstance(item, torch.Tensor)]
        self.alive.extend(tensors)
        depends = next(flat(plain.values(), Ref), None) is not None and op not in _SHAPE_ONLY
        if op == "detach" and depends:  # the same memory: the same tensor
            return
        if not depends:
            made_from = tuple(sorted({name for c in flat(plain.values(), Constant) for name in c.parameters}))
            for tensor in tensors:
                if op not in _SHAPE_ONLY and made_from:
                    self.names.setdefault(_place(tensor), made_from)
                self._note_view(values, tensor, Node(-1, op, plain, [], []))
                self.seen.add(_place(tensor))
            return
        node = self._append(op, plain, results, values)
        for output, item in enumerate(results):
            if isinstance(item, torch.Tensor):
                if node.mutates:
                    self._remember(item, Ref(node.index, output))
                    self._write_through(item, Ref(node.index, output))
                else:
                    self._note_view(values, item, node)
                    self._remember(item, Ref(node.index, output))

    def _append(self, op: str, plain: dict[str, Any], results: list[Any], values: dict[str, Any]) -> Node:
        owned = {_storage(v) for v in flat(values.values(), torch.Tensor)}
        shapes = [tuple(item.shape) if isinstance(item, torch.Tensor) else () for item in results]
        sizes = [
            item.numel() * item.element_size() if isinstance(item, torch.Tensor) and _storage(item) not in owned else 0
            for item in results
        ]
        call = self.stack[-1] if self.stack else -1
        path = self.graph.calls[call].path if call >= 0 else ""
        node = Node(len(self.graph.nodes), op, plain, shapes, sizes, path, call)
        self.graph.nodes.append(node)
        self._watch(node, results)
        return node

    def _note_view(self, values: dict[str, Any], tensor: torch.Tensor, node: Node) -> None:
        base = next(iter(values.values()), None)
        if isinstance(base, torch.Tensor) and _place(tensor) not in self.seen and _storage(base) == _storage(tensor):
            self.parent[_place(tensor)] = (base, node)

    def _write_through(self, view: torch.Tensor, ref: Ref) -> None:
        """After a write into a view, what it is a view of has changed too: `out[:, :, 1:-1] = x` changes `out`."""
        while _place(view) in self.parent:
            base, how = self.parent[_place(view)]
            old = self.known.get(_place(base), Constant(tuple(base.shape)))
            plain = {
                "self": old,
                "source": ref,
                "view": how.op,
                "how": {name: value for name, value in how.args.items() if isinstance(value, int | type(None))},
            }
            node = self._append("write_view", plain, [base], {"self": base})
            ref = Ref(node.index)
            self._remember(base, ref)
            view = base

    def _plain(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            place = _place(value)
            if place in self.known:
                return self.known[place]
            self.alive.append(value)
            if place not in self.names and value.requires_grad and value.is_leaf:
                self._unregistered(value, place)
            return Constant(tuple(value.shape), self.names.get(place, ()))
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        return value

    def _unregistered(self, tensor: torch.Tensor, place: Any) -> None:
        """A trainable leaf that named_parameters() does not list; a lazy parameter has come into being by now."""
        self._register_parameters()
        if place not in self.names:
            name = f"unregistered_{len(self.graph.hidden)}"
            self.graph.hidden[name] = tensor.numel()
            self.names[place] = (name,)


def _place(tensor: torch.Tensor) -> Any:
    """Where a tensor's numbers lie: two tensors of the same place are the same numbers in the same shape."""
    if tensor.layout is not torch.strided:
        return id(tensor)
    return _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _storage(tensor: torch.Tensor) -> int:
    return id(tensor) if tensor.layout is not torch.strided else tensor.untyped_storage()._cdata


def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), torch._C.DispatchKey.CompositeImplicitAutograd)
