"""The table: one for each model, ours beside every rival, with the target and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from contest.targets import CEILING, TARGETS, Results


def tables(rows: Sequence[tuple[str, str]], contenders: Sequence[str], results: Results) -> str:
    """Markdown. `rows` are (model, row) in their order; reasons for what is missing stand below as notes."""
    notes: dict[str, int] = {}
    made = []
    for model in dict.fromkeys(model for model, _ in rows):
        head = ["work", *contenders, "target", "reached"]
        lines = [head, ["---"] * len(head)]
        lines += [line(row, contenders, results, notes) for of, row in rows if of == model]
        made.append(f"\n### {model}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    made.append("".join(f"\n[{number}] {reason}  " for reason, number in notes.items()))
    return "\n".join(made)


def line(row: str, contenders: Iterable[str], results: Results, notes: dict[str, int]) -> list[str]:
    """The cells of one row."""
    found = [results.get(name, {}) for name in contenders]
    cells = [cell(figures.get(row, "not measured"), figures.get(CEILING + row), notes) for figures in found]
    target = TARGETS.get(row)
    verdicts = "; ".join(ratio.verdict(results, row) for ratio in target.ratios) if target else ""
    return [row, *cells, target.text if target else "", verdicts]


def cell(figure: float | str, ceiling: float | str | None, notes: dict[str, int]) -> str:
    """A figure, with its part of the ceiling of that time where there is one; or the number of the note on it."""
    if isinstance(figure, str):
        return figure if figure in {"", "-"} else f"[{notes.setdefault(figure, len(notes) + 1)}]"
    text = f"{figure:.3f}" if figure < 1 else f"{figure:.2f}" if figure < 10 else f"{figure:.1f}"
    return f"{text} ({figure / ceiling:.0%})" if isinstance(ceiling, float) else text
