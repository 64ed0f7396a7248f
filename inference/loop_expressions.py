"""Operations of captured graphs on one element, as C++ expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Value = Any
"""A C++ expression, a pair of them for a complex number, or a Python number."""

_ATEN = torch.ops.aten
NAMES = {
    torch.float64: "double", torch.float32: "float", torch.int64: "int64_t", torch.int32: "int32_t",
    torch.bool: "bool", torch.complex128: "double", torch.complex64: "float",
}  # fmt: skip
"""C++'s name of each type of number; of the parts of complex ones."""

PRELUDE = """\
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef VECTOR_MATH
extern "C" {
#define VECTOR __attribute__((simd("notinbranch"), const, nothrow))
VECTOR double exp(double); VECTOR double log(double); VECTOR double sin(double); VECTOR double cos(double);
VECTOR double pow(double, double);
VECTOR float expf(float); VECTOR float logf(float); VECTOR float sinf(float); VECTOR float cosf(float);
VECTOR float powf(float, float);
}
#endif
template <class T> static inline T sign(T x) { return (T)((T)0 < x) - (T)(x < (T)0); }
template <class T> static inline T larger(T a, T b) { return a != a ? a : (b != b ? b : (a > b ? a : b)); }
template <class T> static inline T smaller(T a, T b) { return a != a ? a : (b != b ? b : (a < b ? a : b)); }
template <class T> static inline T xlogy(T a, T b) { return b != b ? b : (a == (T)0 ? (T)0 : a * std::log(b)); }
template <class T> static inline T softplus(T x, T beta, T most) {
    return x * beta > most ? x : std::log1p(std::exp(x * beta)) / beta;
}
template <class T> static inline T softplus_slope(T g, T x, T beta, T most) {
    const T e = std::exp(x * beta);
    return x * beta > most ? g : g * e / (e + (T)1);
}
"""


def expression(target: Any, args: Sequence[Value], kwargs: dict[str, Any], dtypes: Sequence[Any], dtype: Any) -> Value:
    """What `target` makes of `args`, where `dtypes` are those of the tensors among them (None of others) and `dtype`
    is that of the result.
    """
    if target in _COMPARISONS:
        common = _common(dtypes)
        left, right = (cast(arg, here, common) for arg, here in zip(args, dtypes, strict=True))
        return f"({left} {_COMPARISONS[target]} {right})"
    if target in _TRUTH:
        return _TRUTH[target](*(f"({arg} != 0)" for arg in args))
    if target == _ATEN.where.self:
        chosen, other = (cast(arg, here, dtype) for arg, here in zip(args[1:], dtypes[1:], strict=True))
        if dtype.is_complex:
            return tuple(f"({args[0]} ? {a} : {b})" for a, b in zip(chosen, other, strict=True))
        return f"({args[0]} ? {chosen} : {other})"
    if target in CASTS:
        return cast(args[0], dtypes[0], dtype)
    if target in PARTS:
        return args[0][args[1]]
    if target == _ATEN.complex.default:
        return tuple(args)
    numbers = [cast(arg, here, dtype) if here is not None else arg for arg, here in zip(args, dtypes, strict=True)]
    if dtype.is_complex:
        return _COMPLEX[target](dtype, *numbers, **kwargs)
    return _REAL[target](dtype, *numbers, **kwargs)


def known(target: Any, dtypes: Sequence[Any], dtype: Any, kwargs: dict[str, Any]) -> bool:
    """Whether :func:`expression` knows the operation for these types."""
    if dtype not in NAMES or any(here is not None and here not in NAMES for here in dtypes):
        return False
    if target in CASTS:
        return dtype.is_complex == dtypes[0].is_complex and dtype != torch.bool
    if any(name not in ("alpha", "value") for name in kwargs):
        return False
    if target in _COMPARISONS or target in _TRUTH:
        return not any(here is not None and here.is_complex for here in dtypes)
    if target == _ATEN.where.self:
        return dtypes[0] == torch.bool
    if target == _ATEN.complex.default:
        return all(here is not None and here.to_complex() == dtype for here in dtypes)
    if dtype.is_complex:
        # sums with numbers are rare
        return target in _COMPLEX and (None not in dtypes or target in _PRODUCTS)
    if any(here is not None and here.is_complex for here in dtypes):
        return target in PARTS
    if target in _ARITHMETIC:
        return dtype != torch.bool
    return target in _REAL and dtype.is_floating_point


def cast(value: Value, have: Any, want: Any) -> Value:
    """`value` of type `have` (None: a Python number) as one of type `want`."""
    if want.is_complex:
        if have is None:
            return literal(complex(value).real, want), literal(complex(value).imag, want)
        if have.is_complex:
            return value if have == want else tuple(f"({NAMES[want]})({part})" for part in value)
        return f"({NAMES[want]})({value})", None  # a real number: no imaginary part to multiply by
    if have is None:
        return literal(value, want)
    return value if have == want else f"({NAMES[want]})({value})"


def literal(value: Any, dtype: Any) -> str:
    name = NAMES[dtype]
    if isinstance(value, bool):
        return f"({name}){int(value)}"
    if isinstance(value, int):
        return f"({name}){value}LL"
    if math.isnan(value):
        return f"({name})NAN"
    if math.isinf(value):
        return f"({name}){'-' if value < 0 else ''}INFINITY"
    return f"({name}){value!r}"


def _common(dtypes: Sequence[Any]) -> Any:
    common = None
    for here in dtypes:
        if here is not None:
            common = here if common is None else torch.promote_types(common, here)
    return common


def _scaled(dtype: Any, factor: Any, value: str) -> str:
    return value if factor == 1 else f"{_number(dtype, factor)} * {value}"


def _number(dtype: Any, value: Any) -> str:
    return literal(value, dtype) if isinstance(value, int | float) else value


def _function(name: str) -> Callable[..., str]:
    return lambda dtype, *args: f"std::{name}({', '.join(_number(dtype, arg) for arg in args)})"


def _power(dtype: Any, base: Any, exponent: Any) -> str:
    if exponent == 2:
        return f"{base} * {base}"
    if exponent == 3:
        return f"{base} * {base} * {base}"
    if exponent == 0.5:
        return f"std::sqrt({base})"
    if exponent == -0.5:
        return f"{_number(dtype, 1)} / std::sqrt({base})"
    if exponent == -1:
        return f"{_number(dtype, 1)} / {base}"
    if exponent == -2:
        return f"{_number(dtype, 1)} / ({base} * {base})"
    return f"std::pow({_number(dtype, base)}, {_number(dtype, exponent)})"


def _clamped(dtype: Any, value: str, low: Any = None, high: Any = None) -> str:
    # a NaN fails every comparison, and stays
    for bound, sign in ((low, "<"), (high, ">")):
        if bound is not None:
            value = f"({value} {sign} {_number(dtype, bound)} ? {_number(dtype, bound)} : {value})"
    return value


def _sum(sign: str) -> Callable[..., str]:
    return lambda dtype, a, b, alpha=1: f"{_number(dtype, a)} {sign} {_scaled(dtype, alpha, _number(dtype, b))}"


def _addcmul(dtype: Any, start: str, a: str, b: str, value: Any = 1) -> str:
    return f"{start} + {_scaled(dtype, value, f'{a} * {b}')}"


_COMPARISONS = {
    getattr(getattr(_ATEN, name), kind): sign
    for name, sign in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
    for kind in ("Tensor", "Scalar")
}
_TRUTH: dict[Any, Callable[..., str]] = {
    _ATEN.logical_and.default: lambda a, b: f"({a} && {b})",
    _ATEN.logical_or.default: lambda a, b: f"({a} || {b})",
    _ATEN.logical_not.default: lambda a: f"(!{a})",
}
CASTS = (_ATEN._to_copy.default, _ATEN.clone.default)
PARTS = ("part of a complex number",)
_ARITHMETIC: dict[Any, Callable[..., str]] = {
    _ATEN.add.Tensor: _sum("+"),
    _ATEN.add.Scalar: _sum("+"),
    _ATEN.sub.Tensor: _sum("-"),
    _ATEN.sub.Scalar: _sum("-"),
    _ATEN.rsub.Scalar: lambda dtype, a, b, alpha=1: f"{_number(dtype, b)} - {_scaled(dtype, alpha, a)}",
    _ATEN.mul.Tensor: lambda dtype, a, b: f"{_number(dtype, a)} * {_number(dtype, b)}",
    _ATEN.mul.Scalar: lambda dtype, a, b: f"{a} * {_number(dtype, b)}",
    _ATEN.neg.default: lambda dtype, a: f"-{a}",
    _ATEN.addcmul.default: _addcmul,
    _ATEN.clamp.default: _clamped,
    _ATEN.clamp_min.default: _clamped,
    _ATEN.clamp_max.default: lambda dtype, a, high: _clamped(dtype, a, None, high),
}
_FUNCTIONS = (
    "exp", "log", "log1p", "expm1", "sin", "cos", "tan", "acos", "asin", "atan", "atan2", "tanh", "sinh", "cosh",
    "lgamma", "erf", "erfc", "floor", "ceil",
)  # fmt: skip
_REAL: dict[Any, Callable[..., str]] = {
    **_ARITHMETIC,
    _ATEN.div.Tensor: lambda dtype, a, b: f"{_number(dtype, a)} / {_number(dtype, b)}",
    _ATEN.div.Scalar: lambda dtype, a, b: f"{a} / {_number(dtype, b)}",
    _ATEN.reciprocal.default: lambda dtype, a: f"{_number(dtype, 1)} / {a}",
    _ATEN.sqrt.default: _function("sqrt"),
    _ATEN.rsqrt.default: lambda dtype, a: f"{_number(dtype, 1)} / std::sqrt({a})",
    _ATEN.pow.Tensor_Scalar: _power,
    _ATEN.pow.Tensor_Tensor: _power,
    _ATEN.pow.Scalar: _power,
    _ATEN.sigmoid.default: lambda dtype, a: f"{_number(dtype, 1)} / ({_number(dtype, 1)} + std::exp(-{a}))",
    _ATEN.sigmoid_backward.default: lambda dtype, g, a: f"{g} * {a} * ({_number(dtype, 1)} - {a})",
    _ATEN.tanh_backward.default: lambda dtype, g, a: f"{g} * ({_number(dtype, 1)} - {a} * {a})",
    _ATEN.softplus.default: lambda dtype, a, beta=1, most=20: (
        f"softplus({a}, {_number(dtype, beta)}, {_number(dtype, most)})"
    ),
    _ATEN.softplus_backward.default: lambda dtype, g, a, beta, most: (
        f"softplus_slope({g}, {a}, {_number(dtype, beta)}, {_number(dtype, most)})"
    ),
    _ATEN.sgn.default: lambda dtype, a: f"sign({a})",
    _ATEN.sign.default: lambda dtype, a: f"sign({a})",
    _ATEN.maximum.default: lambda dtype, a, b: f"larger({a}, {b})",
    _ATEN.minimum.default: lambda dtype, a, b: f"smaller({a}, {b})",
    _ATEN.xlogy.Tensor: lambda dtype, a, b: f"xlogy({a}, {b})",
    _ATEN.abs.default: _function("fabs"),
    **{getattr(_ATEN, name).default: _function(name) for name in _FUNCTIONS},
}


def _plus(sign: str) -> Callable[..., Value]:
    def both(dtype: Any, a: Value, b: Value, alpha: Any = 1) -> Value:
        (ar, ai), (br, bi) = a, b
        br, bi = (None if part is None else _scaled(dtype, alpha, part) for part in (br, bi))
        imaginary = ai if bi is None else f"{sign if sign == '-' else ''}{bi}" if ai is None else f"{ai} {sign} {bi}"
        return f"{ar} {sign} {br}", imaginary

    return both


def _product(dtype: Any, a: Value, b: Value) -> Value:
    if not isinstance(b, tuple):
        b = cast(b, None, dtype) if isinstance(b, complex) else (literal(b, dtype), None)
    (ar, ai), (br, bi) = a, b
    if bi is None:
        return f"{ar} * {br}", None if ai is None else f"{ai} * {br}"
    if ai is None:
        return f"{ar} * {br}", f"{ar} * {bi}"
    return f"{ar} * {br} - {ai} * {bi}", f"{ar} * {bi} + {ai} * {br}"


def _negative(part: str | None) -> str | None:
    return None if part is None else f"-{part}"


_PRODUCTS = (_ATEN.mul.Tensor, _ATEN.mul.Scalar)
_COMPLEX: dict[Any, Callable[..., Value]] = {
    _ATEN.add.Tensor: _plus("+"),
    _ATEN.sub.Tensor: _plus("-"),
    _ATEN.mul.Tensor: _product,
    _ATEN.mul.Scalar: _product,
    _ATEN.neg.default: lambda dtype, a: (f"-{a[0]}", _negative(a[1])),
    _ATEN._conj.default: lambda dtype, a: (a[0], _negative(a[1])),
    _ATEN.conj_physical.default: lambda dtype, a: (a[0], _negative(a[1])),
}
OPERATIONS = {*_COMPARISONS, *_TRUTH, _ATEN.where.self, _ATEN.complex.default, *CASTS, *_REAL, *_COMPLEX}
"""All that :func:`expression` may know."""
