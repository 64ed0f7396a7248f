"""C++ source of the loops of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from bayesprof.inference.loop_expressions import NAMES, PRELUDE, expression, literal
from bayesprof.inference.loop_parts import LAST, Buffer, External, Item, Shape, View, strides_along
from bayesprof.inference.loops import Plan

_ALIGNED = 64  # bytes
_TILE = 16  # elements stored next to each other, by a loop whose innermost axis jumps
# what GCC 12 finds out about one function and uses in another it has been seen to get wrong: calls vanished
_APART = "__attribute__((noipa))"


class Code:
    """Source of a plan's loops, and where in memory they find their arrays.

    `text` has a function for each stage, ``stage_N(void* const* p)``; p[0] is memory of `bytes`, then come the
    arguments of the graph and the results of the library's operations.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.offsets, self.bytes = _arranged(plan)
        loops: dict[tuple[int, int, Shape, int], list[Item]] = {}
        for item in _needed(plan):
            loops.setdefault(item.key, []).append(item)
        functions: list[str] = []
        calls: dict[int, list[str]] = {}
        for number, key in enumerate(sorted(loops, key=lambda key: (key[0], key[1]))):
            functions.append("\n".join(_Loop(self, loops[key]).lines(f"loop_{number}")))
            calls.setdefault(key[0], []).append(f"    loop_{number}(p, a);")
        self.stages = sorted(calls)
        for stage, lines in sorted(calls.items()):
            head = f'extern "C" void stage_{stage}(void* const* p) {{\n    char* const a = (char*)p[0];'
            functions.append("\n".join([head, *lines, "}"]))
        self.text = "\n".join([PRELUDE, *functions])

    def place(self, buffer: Buffer | External) -> str:
        """Where an array starts."""
        if isinstance(buffer, External):
            return f"p[{1 + len(self.plan.arguments) + self.plan.externals.index(buffer)}]"
        if buffer.argument is not None:
            return f"p[{1 + buffer.argument}]"
        return f"(a + {self.offsets[id(buffer)]})"


class _Loop:
    """Source of one loop."""

    def __init__(self, code: Code, items: list[Item]) -> None:
        self.code, self.items = code, items
        self.loop = items[0].loop
        self.pointers: dict[int, tuple[str, str, str]] = {}  # by id of the array: its name and where it starts
        self.loaded: dict[tuple[str, str], str] = {}
        self.values: dict[int, Any] = {}
        self.start: list[str] = []
        self.before: list[str] = []  # of the innermost loop
        self.body: list[str] = []
        self.after: list[str] = []
        self.sums: list[str] = []
        for item in items:
            self._write(item)

    def lines(self, name: str) -> Iterator[str]:
        yield f"{_APART} static void {name}(void* const* p, char* const a) {{"
        for pointer, place, kind in self.pointers.values():
            yield f"    {kind}* __restrict const {pointer} = ({kind}*){place};"
        yield from self.start
        heads = [
            f"    for (int64_t i{axis} = 0; i{axis} < {size}; ++i{axis}) {{" for axis, size in enumerate(self.loop)
        ]
        across = self._across()
        if across is not None:
            size = self.loop[across]
            tile = f"    for (int64_t t = 0; t < {size}; t += {_TILE}) {{"
            end = f"(t + {_TILE} < {size} ? t + {_TILE} : {size})"
            along = f"    for (int64_t i{across} = t; i{across} < {end}; ++i{across}) {{"
            heads = [*heads[:across], *heads[across + 1 : -1], tile, heads[-1], along]
        for depth, head in enumerate(heads):
            if depth == len(heads) - 1:
                yield from self.before
                yield from self._hint()
            yield head
        yield from self.body
        if heads:
            yield "    }"
            yield from self.after
        yield "    }" * max(len(heads) - 1, 0)
        yield "}"

    def _across(self) -> int | None:
        """The axis along which neighbours are stored, where that isn't the innermost one: lines of memory are filled
        one after the other if some turns along it are taken together.
        """
        if any(item.kind in ("sum", "scatter") for item in self.items):
            return None
        for item in self.items:
            if item.kind == "store" and item.out is not None:
                strides = strides_along(item.out.tensor.stride(), item.shape, self.loop)
                if strides and abs(strides[-1]) >= _TILE and 1 in strides[:-1]:
                    return strides.index(1)
        return None

    def _hint(self) -> Iterator[str]:
        """What tells the compiler that the innermost loop's turns don't depend on each other."""
        if not any(item.kind == "scatter" for item in self.items):
            yield f"    #pragma omp simd reduction(+: {', '.join(self.sums)})" if self.sums else "    #pragma GCC ivdep"

    def _write(self, item: Item) -> None:
        code = self.code
        dtype, name = item.dtype, f"v{len(self.values)}"
        names: tuple[str, ...]
        if item.target == "look up":
            index, table = item.operands
            at = self._operand(index, item)
            if item.kwargs["wrap"]:
                at = f"({at} < 0 ? {at} + {item.kwargs['wrap']} : {at})"
            value = self._load(table, item, extra=f" + {at} * {item.kwargs['stride']}")
        elif item.kind == "point":
            operands = [self._operand(operand, item) for operand in item.operands]
            value = expression(item.target, operands, item.kwargs, item.dtypes, dtype)
        else:
            operands = [self._operand(operand, item) for operand in item.operands]
            value = literal(operands[0], dtype) if item.dtypes[0] is None else operands[0]
            if dtype.is_complex and not isinstance(value, tuple):
                value = (value, None)
        if dtype.is_complex:
            names = (f"{name}r", f"{name}i")
            parts = [literal(0, dtype) if part is None else part for part in value]
        else:
            names, parts = (name,), [value]
        for variable, part in zip(names, parts, strict=True):
            self.body.append(f"        const {NAMES[dtype]} {variable} = {part};")
        self.values[id(item)] = names if dtype.is_complex else name
        if item.kind == "point":
            stored = code.plan.stored(item)
            if stored is not None:
                self._put(stored, self._contiguous(), names, "=")
        elif item.kind == "store":
            assert item.out is not None
            self._put(item.out.source.buffer, self._address(item.out, item), names, "=")
        elif item.kind == "sum":
            self._add_up(item, names)
        else:
            assert item.out is not None
            at = f"{self._address(item.out, item)} + {self._operand(item.operands[1], item)} * {item.kwargs['stride']}"
            self._put(item.out.source.buffer, at, names, "+=")

    def _add_up(self, item: Item, names: tuple[str, ...]) -> None:
        out = item.out
        assert out is not None
        buffer = out.source.buffer
        self.start.append(f"    std::memset({self._pointer(buffer)}, 0, {buffer.bytes});")
        strides = strides_along(out.tensor.stride(), item.shape, self.loop)
        if not self.loop or strides[-1]:
            self._put(buffer, self._address(out, item), names, "+=")
            return
        totals = tuple(f"total_{variable}" for variable in names)
        for variable, total in zip(names, totals, strict=True):
            self.before.append(f"    {NAMES[item.dtype]} {total} = 0;")
            self.body.append(f"        {total} += {variable};")
        self.sums += totals
        self._put(buffer, self._address(out, item), totals, "+=", into=self.after)

    def _put(self, buffer: Buffer, at: str, names: Any, sign: str, *, into: list[str] | None = None) -> None:
        pointer, into = self._pointer(buffer), self.body if into is None else into
        if len(names) == 1:
            into.append(f"        {pointer}[{at}] {sign} {names[0]};")
        else:
            into.append(f"        {pointer}[2 * ({at})] {sign} {names[0]};")
            into.append(f"        {pointer}[2 * ({at}) + 1] {sign} {names[1]};")

    def _operand(self, operand: Any, item: Item) -> Any:
        if isinstance(operand, Item):
            return self.values[id(operand)]
        return self._load(operand, item) if isinstance(operand, View) else operand

    def _load(self, view: View, item: Item, extra: str = "") -> Any:
        buffer = self.code.plan.buffer(view.source)
        dtype = view.tensor.dtype
        pointer = self._pointer(buffer, dtype)
        shape = item.shape
        at = self._address(View(view.source, view.tensor.expand(shape)), item) + extra
        if not dtype.is_complex:
            return self._read(f"{pointer}[{at}]", dtype)
        return tuple(self._read(f"{pointer}[2 * ({at}) + {part}]", dtype) for part in (0, 1))

    def _read(self, what: str, dtype: torch.dtype) -> str:
        key = (what, NAMES[dtype])
        if key not in self.loaded:
            self.loaded[key] = f"l{len(self.loaded)}"
            self.body.append(f"        const {NAMES[dtype]} {self.loaded[key]} = {what};")
        return self.loaded[key]

    def _pointer(self, buffer: Buffer | External, dtype: torch.dtype | None = None) -> str:
        if id(buffer) not in self.pointers:
            kind = NAMES[dtype if isinstance(buffer, External) else buffer.dtype]  # type: ignore[index]
            self.pointers[id(buffer)] = (f"b{len(self.pointers)}", self.code.place(buffer), kind)
        return self.pointers[id(buffer)][0]

    def _address(self, view: View, item: Item) -> str:
        """Place of the loop's element in a view, in elements of its type."""
        strides = strides_along(view.tensor.stride(), item.shape, self.loop)
        terms = [f"i{axis} * {stride}" for axis, stride in enumerate(strides) if stride]
        offset = view.tensor.storage_offset()
        return " + ".join([*terms, *([str(offset)] if offset or not terms else [])])

    def _contiguous(self) -> str:
        terms = [f"i{axis} * {math.prod(self.loop[axis + 1 :])}" for axis in range(len(self.loop))]
        return " + ".join(terms) or "0"


def _needed(plan: Plan) -> list[Item]:
    """Items that something comes of."""
    needed: set[int] = set()
    for item in reversed(plan.items):
        if item.kind != "point" or plan.stored(item) is not None or id(item) in needed:
            needed.add(id(item))
            needed.update(id(operand) for operand in item.operands if isinstance(operand, Item))
    return [item for item in plan.items if id(item) in needed]


def _arranged(plan: Plan) -> tuple[dict[int, int], int]:
    """Where each array of a plan lies in its memory, and how much that is; arrays that aren't needed at the same time
    share theirs.
    """
    offsets: dict[int, int] = {}
    placed: list[tuple[Buffer, int, int]] = []
    total = 0
    for buffer in sorted(plan.buffers, key=lambda buffer: (-buffer.bytes, buffer.first)):
        if buffer.first > (LAST, 0) or buffer.last < (0, 0):
            continue
        size = -(-buffer.bytes // _ALIGNED) * _ALIGNED
        busy = sorted(
            (start, end) for other, start, end in placed if not (other.last < buffer.first or buffer.last < other.first)
        )
        place = 0
        for start, end in busy:
            if start - place >= size:
                break
            place = max(place, end)
        offsets[id(buffer)] = place
        placed.append((buffer, place, place + size))
        total = max(total, place + size)
    return offsets, total
