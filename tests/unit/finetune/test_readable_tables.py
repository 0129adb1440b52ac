"""A benchmark's tables in a terminal: no figure is cut, and what does not fit is named."""

import io

import pytest
from rich.console import Console

from finetune.benchmark.command import readable
from finetune.benchmark.tables import TextTable

HEAD = ("model", "starts from", "accuracy", "95 % interval", "GMACs", "training (TMACs)")
ROW = ("VideoMAE, pretrained, fine-tuned", "VideoMAE (pretrain), frozen", "86.0 %", "82.2 to 89.2", "0.272", "0.974")


@pytest.mark.parametrize(("width", "columns"), [(40, 2), (80, 5), (120, 6), (160, 6)])
def test_a_table_fits_the_terminal(width: int, columns: int) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(readable(TextTable("Results", HEAD, (ROW, ROW), "A note."), width))
    printed = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(map(len, printed.splitlines())) <= width
    text = " ".join(printed.split())
    assert "A note." in text
    assert all(text.count(figure) == 2 for figure in ROW[2:columns])
    assert not any(figure in text for figure in ROW[columns:])
    assert ("The report has more columns" in text) == (columns < len(HEAD))
    assert all(head in text for head in HEAD[columns:])
