"""Complex arithmetic of a graph as arithmetic on pairs of real arrays.

The library's complex arithmetic takes fewer passes over memory where operations run one by one, but torch.compile
fuses real operations only. So a graph is rewritten before it is compiled: what can be done on real and imaginary parts
is, and complex arrays remain around the Fourier transforms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from bayesprof.inference.passes import written_into

Node = Any
Pair = tuple[Node, Node]

_ATEN = torch.ops.aten
_PART_BY_PART = (
    _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.expand.default,
    _ATEN.unsqueeze.default, _ATEN.squeeze.dim, _ATEN.permute.default, _ATEN.transpose.int, _ATEN.slice.Tensor,
    _ATEN.select.int, _ATEN.sum.dim_IntList, _ATEN.sum.default, _ATEN.neg.default, _ATEN.clone.default,
    _ATEN.detach.default, _ATEN.alias.default,
)  # fmt: skip


def in_real_arithmetic(graph: fx.GraphModule) -> fx.GraphModule:
    """`graph` with its complex arithmetic on pairs of real arrays; the same values, to rounding."""
    if not any(_is_complex(node) for node in graph.graph.nodes):
        return graph
    return fx.GraphModule(graph, _Rewriter(graph).graph)


class _Rewriter:
    """Copies a graph; a complex node is kept `whole`, or as a pair, or as either made from the other where needed."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.graph = fx.Graph()
        self.wholes: dict[Node, Node] = {}
        self.pairs: dict[Node, Pair] = {}
        self.written = written_into(module)
        for node in module.graph.nodes:
            pair = self.paired(node)
            if pair is None:
                self.wholes[node] = self.graph.node_copy(node, self.whole)
            elif node.target == _ATEN.select.int and not _is_complex(node):
                self.wholes[node] = pair[0]
            else:
                self.pairs[node] = pair
        self.graph.eliminate_dead_code()

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(target, args, kwargs)

    def whole(self, node: Node) -> Node:
        if node not in self.wholes:
            pair = self.pairs[node]
            joined = (
                self.call(torch.stack, list(pair), -1) if not _is_complex(node) else self.call(torch.complex, *pair)
            )
            self.wholes[node] = joined
        return self.wholes[node]

    def parts(self, node: Node) -> Pair:
        """Real and imaginary part of a complex node."""
        if node not in self.pairs:
            both = self.call(_ATEN.view_as_real.default, self.whole(node))
            self.pairs[node] = (self.call(_ATEN.select.int, both, -1, 0), self.call(_ATEN.select.int, both, -1, 1))
        return self.pairs[node]

    def paired(self, node: Node) -> Pair | None:
        """The parts of what `node` gives, in real arithmetic; None where it has to be done as it stands."""
        if node.op != "call_function" or node in self.written or node.kwargs:
            return None
        target, args = node.target, node.args
        if target == _ATEN.view_as_real.default:
            return self.parts(args[0]) if args[0] in self.pairs else None
        if target == _ATEN.select.int and _is_view_as_real(args[0]) and args[0] in self.pairs:
            rank = args[0].meta["val"].ndim
            if args[1] % rank == rank - 1:
                part = self.pairs[args[0]][args[2]]
                return part, part
            return None
        if not _is_complex(node):
            return None
        if target == _ATEN.complex.default:
            return self.whole(args[0]), self.whole(args[1])
        if target in (_ATEN._conj.default, _ATEN.conj_physical.default):
            real, imag = self.parts(args[0])
            return real, self.call(_ATEN.neg.default, imag)
        if target in _PART_BY_PART and args[0] in self.pairs:
            real, imag = self.pairs[args[0]]
            return self.call(target, real, *args[1:]), self.call(target, imag, *args[1:])
        if target == _ATEN.mul.Tensor:
            return self.product(*args)
        if target in (_ATEN.add.Tensor, _ATEN.sub.Tensor) and all(_is_complex(arg) for arg in args):
            first, second = (self.parts(arg) for arg in args)
            return self.call(target, first[0], second[0]), self.call(target, first[1], second[1])
        return None

    def product(self, first: Any, second: Any) -> Pair | None:
        if _is_complex(first) and _is_complex(second):
            (a, b), (c, d) = self.parts(first), self.parts(second)
            mul, add, sub = _ATEN.mul.Tensor, _ATEN.add.Tensor, _ATEN.sub.Tensor
            real = self.call(sub, self.call(mul, a, c), self.call(mul, b, d))
            return real, self.call(add, self.call(mul, a, d), self.call(mul, b, c))
        if not _is_complex(first):
            first, second = second, first
        if isinstance(second, complex):
            return None
        factor = self.whole(second) if isinstance(second, fx.Node) else second
        real, imag = self.parts(first)
        return self.call(_ATEN.mul.Tensor, real, factor), self.call(_ATEN.mul.Tensor, imag, factor)


def _is_complex(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.is_complex()


def _is_view_as_real(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target == _ATEN.view_as_real.default
