"""How a long command shows its progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from sls.progress import Progress


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], Callable[[Progress], None]]]:
    """Show a bar for each title on a terminal, and elsewhere a line for each stage's first and last step."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}"))
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def watch(title: str) -> Callable[[Progress], None]:
            bar = bars.add_task(title, state="waiting")

            def report(progress: Progress) -> None:
                state = describe_progress(progress)
                bars.update(bar, completed=progress.step, total=progress.steps, state=state)
                if not console.is_terminal and progress.step in (1, progress.steps):
                    console.print(f"{title}: {state}", soft_wrap=True)

            return report

        yield watch


@contextlib.contextmanager
def show_count(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of how many are done, on a terminal alone."""
    from rich.progress import Progress as Bars

    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def describe_progress(progress: Progress) -> str:
    parts = [f"{progress.stage} {progress.step}/{progress.steps}"]
    parts += [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    parts += [f"validation {progress.accuracy:.1%}"] if progress.accuracy is not None else []
    parts += [f"score {progress.score:.3f}"] if progress.score is not None else []
    return ", ".join([*parts, f"{progress.seconds_left:.0f} s left"])
