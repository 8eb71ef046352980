"""How a gradient report prints: as a table in a terminal, as HTML in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanin._report import GradientReport

# From the strongest finding to none.
ORDER = ("wrong", "suspicious", "inconclusive", "correct", "unchecked")

HEAD = (
    "array",
    "shape",
    "relative error",
    "|analytic|",
    "|numeric|",
    "wrong entries",
    "verdict",
)
ENTRY_HEAD = ("entry", "analytic", "numeric", "relative", "rounding")
DIRECTION_HEAD = ("direction", "analytic", "numeric", "relative", "verdict")


def show(index: tuple[int, ...]) -> str:
    """Return an index as it is written."""
    return "[" + ", ".join(map(str, index)) + "]" if index else "its value"


def _rows(report: GradientReport, limit: int) -> tuple[list[list[str]], int]:
    records = list(report.blocks.values())
    if len(records) > limit:
        worst_first = sorted(
            range(len(records)),
            key=lambda i: (ORDER.index(records[i].verdict), i),
        )
        records = [records[i] for i in sorted(worst_first[:limit])]
    rows = [
        [
            record.name,
            "x".join(map(str, record.shape)) or "scalar",
            f"{record.relative_error:.1e}",
            f"{record.analytic_norm:.3g}",
            f"{record.numeric_norm:.3g}",
            str(record.n_wrong),
            record.verdict,
        ]
        for record in records
    ]
    return rows, len(report.blocks) - len(rows)


def _entry_rows(report: GradientReport, k: int = 5) -> list[list[str]]:
    if report.ok or not report._deterministic:
        return []
    return [
        [
            f"{record.name}{show(record.index)}" if record.index else record.name,
            f"{record.analytic:.8g}",
            f"{record.numeric:.8g}",
            f"{record.relative:.1e}",
            f"{record.error_estimate:.0e}",
        ]
        for record in report.worst(k)
    ]


def _direction_rows(report: GradientReport, k: int = 5) -> list[list[str]]:
    """Return those that do not agree; the foot counts the others, too."""
    return [
        [
            f"random {i}",
            f"{record.analytic:.8g}",
            f"{record.numeric:.8g}",
            f"{record.relative:.1e}",
            record.verdict,
        ]
        for i, record in enumerate(report.directions)
        if record.verdict != "correct"
    ][:k]


def foot(report: GradientReport) -> str:
    """Return the last line: how much was done."""
    checked = f"{report.n_checked} entries"
    if report.n_checked != report.n_total:
        checked = f"{report.n_checked} of {report.n_total} entries"
    n = len(report.directions)
    if n:
        checked += f" and {n} random direction{'s' if n > 1 else ''}"
    return (
        f"{checked}, {report.n_evaluations} evaluations, {report.elapsed:.3g} s, "
        f"eps {report.eps:g}, relative error {report.relative_error:.2g}"
    )


def as_text(report: GradientReport) -> str:
    """Return the report as lines of text."""
    rows, left = _rows(report, 40)
    lines = [report.summary, "", *table(HEAD, rows)]
    if left:
        lines.append(f"... and {left} more arrays")
    for head, found in (
        (ENTRY_HEAD, _entry_rows(report)),
        (DIRECTION_HEAD, _direction_rows(report)),
    ):
        if found:
            lines += ["", *table(head, found)]
    if report.diagnosis:
        lines += ["", *(f"- {sentence}" for sentence in report.diagnosis[:20])]
        if len(report.diagnosis) > 20:
            lines.append(f"- ... and {len(report.diagnosis) - 20} more findings")
    return "\n".join([*lines, "", foot(report)])


def as_html(report: GradientReport) -> str:
    """Return the report as HTML."""
    import html  # for notebooks; not paid for at import

    rows, left = _rows(report, 100)
    parts = [f"<p><b>{html.escape(report.summary)}</b></p>"]
    parts.append(html_table(HEAD, rows))
    if left:
        parts.append(f"<p>... and {left} more arrays</p>")
    for head, found in (
        (ENTRY_HEAD, _entry_rows(report)),
        (DIRECTION_HEAD, _direction_rows(report)),
    ):
        if found:
            parts.append(html_table(head, found))
    if report.diagnosis:
        items = "".join(f"<li>{html.escape(s)}</li>" for s in report.diagnosis)
        parts.append(f"<ul>{items}</ul>")
    parts.append(f"<p>{html.escape(foot(report))}</p>")
    return "\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of text with a head, the first and last column to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if j == 0 or j == len(widths) - 1 else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    lines.insert(1, "-" * len(max(lines, key=len)))
    return lines


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the same as HTML."""
    import html

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{line(head, 'th')}</tr></thead>"
    return f"<table>{top}<tbody>{body}</tbody></table>"
