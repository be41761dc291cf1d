"""What a command says on stderr: lines exactly as they are, and tables; nothing of the libraries' own."""

import logging
import os
import warnings
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

LINES_SHOWN = 8
"""Of a list that may be long; a file has all."""


def open_console(*, quiet: bool = False) -> Console:
    """Stderr. A text is printed as it is: not wrapped, not coloured, its brackets no markup."""
    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)


def print_table(
    console: Console,
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Sequence[str] = (),
) -> None:
    """A title and a table. Numbers stay on one line; on a narrow terminal the texts are folded.

    Args:
        headings: of the columns. The first is of texts, the others are of numbers, aligned right.
        left: the headings of further columns of texts.
    """
    table = Table()
    for heading in headings:
        if heading in (headings[0], *left):
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(title, style="bold")
    console.print(table, soft_wrap=False)


def first_lines(lines: Sequence[str], more: str = "more") -> list[str]:
    """The first `LINES_SHOWN` lines, indented, and how many `more` there are."""
    left = len(lines) - LINES_SHOWN
    return [f"  {line}" for line in lines[:LINES_SHOWN]] + [f"  and {left:,} {more}"] * (left > 0)


def quiet_libraries() -> None:
    """Silence progress bars, tips and warnings that a user of latentkit cannot act on.

    To be called once more after Lightning was imported, which sets its loggers' levels itself.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    lightning = ("lightning", "lightning.pytorch", "lightning.fabric")
    for name in (*lightning, "torch", "transformers", "diffusers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "torch", "transformers", "diffusers", "huggingface_hub"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
