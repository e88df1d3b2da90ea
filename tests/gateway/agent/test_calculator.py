from __future__ import annotations

import operator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bainmarie.agent.tools.builtin.calculator import calculate
from bainmarie.agent.tools.tool import ToolFailed


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("173 * 29", "5017"),
        ("45 / 2", "22.5"),
        ("3 - 7", "-4"),
        ("-4", "-4"),
        ("10 / 5", "2"),
        ("1 / 3", "0.3333333333"),
        ("0.1 + 0.2", "0.3"),
        ("17 // 5", "3"),
        ("-17 % 5", "3"),
        ("2 ** 10", "1024"),
        ("2 ^ 10", "1024"),
        ("2 ** -1", "0.5"),
        ("6 × 7 ÷ 2 − 1", "20"),
        ("3 x 4", "12"),
        ("(17 + 5) * 3", "66"),
        ("10 ** 30 / 10", "1" + "0" * 29),
        ("sqrt(16) + abs(-2) + min(3, 1) + max(2, 5)", "12"),
        ("sqrt(2)", "1.4142135624"),
        ("round(2.567, 2)", "2.57"),
        ("round(7 / 2)", "4"),
        ("1 / 30000", "3.33333333333e-05"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        (" 2 + 2 ", "4"),
    ],
)
def test_values(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("1 / 0", "^division by zero$"),
        ("5 % 0", "^division by zero$"),
        ("0 ** -1", "^division by zero$"),
        ("9 ** 9 ** 9", "^the result is too large.$"),
        ("1e9999", "^the result is too large.$"),
        ("10 ** 2500 * 10", "^the result is too large.$"),
        ("1 + " * 400 + "1", "^the expression is too long.$"),
        ("sqrt(-1)", "no real value"),
        ("(-8) ** 0.5", "no real value"),
        ("", "cannot read"),
        ("two plus two", "cannot read"),
        ("__import__('os').system('true')", "cannot read"),
        ("(1).real", "cannot read"),
        ("True + 1", "cannot read"),
        ("'a' * 3", "cannot read"),
        ("[1][0]", "cannot read"),
        ("1 if 1 else 2", "cannot read"),
        ("exp(1)", "there is no function 'exp'"),
        ("min()", "min does not take 0"),
        ("(" * 400 + "1" + ")" * 400, "cannot read"),
    ],
)
def test_what_it_refuses(expression, said):
    with pytest.raises(ToolFailed, match=said):
        calculate(expression)


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.integers(-(10**40), 10**40),
    st.sampled_from([("+", operator.add), ("-", operator.sub), ("*", operator.mul)]),
    st.integers(0, 10**40),
)
def test_whole_numbers_are_exact(left, sign, right):
    assert calculate(f"{left} {sign[0]} {right}") == str(sign[1](left, right))


@settings(max_examples=60, deadline=None, database=None)
@given(st.decimals(-1000, 1000, places=3), st.decimals(0, 1000, places=3))
def test_decimals_are_exact(left, right):
    assert Fraction(calculate(f"{left} + {right}")) == Fraction(left) + Fraction(right)
