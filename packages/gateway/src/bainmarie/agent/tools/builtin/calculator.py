"""calculator(expression): exact arithmetic, and nothing else of the language it is parsed with.

Numbers are fractions, so `0.1 + 0.2` is `0.3` and `10 ** 30 / 10` has all its digits. Operators: + - * / // % ** and
parentheses; also written × ÷ − ^ and ` x ` with spaces around it. Functions: sqrt, abs, round, min, max. Whole results
are written in full, others with at most ten decimals, or twelve digits where they are below 0.0001.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from bainmarie.agent.tools.tool import Arguments, Tool, ToolFailed

TOOL = Tool(
    name="calculator",
    description="Calculate an arithmetic expression, such as (17 + 5) * 3.",
    parameters={
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "Numbers, + - * / // % ** and parentheses."}},
        "required": ["expression"],
        "additionalProperties": False,
    },
    idempotent=True,
    annotations={"readOnlyHint": True},
)

MAX_CHARACTERS = 1000
MAX_BITS = 8192
"""Of a numerator or a denominator at any step: under 2,500 digits, and each step stays in microseconds."""

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_WRITTEN = str.maketrans({"×": "*", "÷": "/", "−": "-"})


async def call(arguments: Arguments) -> str:
    return calculate(str(arguments["expression"]))


def calculate(expression: str) -> str:
    """The value, written out. ToolFailed on anything that is not arithmetic, or too large."""
    if len(expression) > MAX_CHARACTERS:
        raise ToolFailed("the expression is too long.")
    text = re.sub(r"\s[xX]\s", " * ", expression.translate(_WRITTEN)).replace("^", "**").strip()
    try:
        return _written(_value(ast.parse(text, mode="eval").body, text))
    except ZeroDivisionError as error:
        raise ToolFailed("division by zero") from error
    except OverflowError as error:
        raise ToolFailed("the result is too large.") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolFailed(f"cannot read {expression!r}") from error


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            # From the text, not from the float: 0.1 is a tenth here.
            return _bounded(_number(ast.get_source_segment(text, node) or ""))
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, text)
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand, text)
        case ast.BinOp(op=ast.Pow()):
            return _bounded(_power(_value(node.left, text), _value(node.right, text)))
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return _bounded(Fraction(_OPERATORS[type(node.op)](_value(node.left, text), _value(node.right, text))))
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return _bounded(_function(name, [_value(argument, text) for argument in node.args]))
    raise ToolFailed(f"cannot read {ast.get_source_segment(text, node) or text!r}")


def _number(text: str) -> Fraction:
    if len(text) > 400 or re.search(r"[eE][+-]?\d{4}", text):
        raise OverflowError
    return Fraction(int(text, 0)) if re.match(r"0[xXoObB]", text) else Fraction(text)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator == 1:
        size = max(abs(base.numerator), base.denominator).bit_length()
        if abs(base) != 1 and base != 0 and size * abs(exponent.numerator) > MAX_BITS:
            raise OverflowError
        return Fraction(base ** (exponent.numerator if abs(base) != 1 else exponent.numerator % 2))
    if base < 0:
        raise ToolFailed("a broken power of a negative number has no real value.")
    return Fraction(float(base) ** float(exponent))


def _function(name: str, values: list[Fraction]) -> Fraction:
    match name, values:
        case "sqrt", [value]:
            return _square_root(value)
        case "abs", [value]:
            return abs(value)
        case "round", [value]:
            return Fraction(round(value))
        case "round", [value, Fraction(denominator=1) as digits] if abs(digits) <= 100:
            return Fraction(round(value, digits.numerator))
        case "min", [_, *_]:
            return min(values)
        case "max", [_, *_]:
            return max(values)
        case (("sqrt" | "abs" | "round" | "min" | "max"), _):
            raise ToolFailed(f"{name} does not take {len(values)} such numbers.")
    raise ToolFailed(f"there is no function {name!r}: only sqrt, abs, round, min, max.")


def _square_root(value: Fraction) -> Fraction:
    if value < 0:
        raise ToolFailed("the square root of a negative number has no real value.")
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top == value.numerator and bottom * bottom == value.denominator:
        return Fraction(top, bottom)
    return Fraction(math.sqrt(value))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise OverflowError
    return value


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    number = float(value)
    if abs(number) < 1e-4:
        return f"{number:.12g}"
    return repr(round(number, 10)).removesuffix(".0")
