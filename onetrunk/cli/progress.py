"""How a long command shows its progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from onetrunk.many.fit_job import Checked, FitJob, FitOutcome
    from sls.progress import Progress

FAILED = "failed"  # the state of an outcome, whose file loads torch


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
def show_many(console: Console, count: int) -> Iterator[Callable[[FitJob, Progress | Checked | FitOutcome], None]]:
    """Show a bar for the whole and one for each task that is being tuned; elsewhere a line as each is done."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    from onetrunk.many.fit_job import Checked, FitOutcome

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}"))
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        whole = bars.add_task(f"{count} tasks", total=count, state="")
        running: dict[str, TaskID] = {}
        done: list[FitOutcome] = []

        def say(line: str) -> None:
            bars.console.print(line, soft_wrap=True, highlight=False, markup=False)

        def watch(job: FitJob, event: Progress | Checked | FitOutcome) -> None:
            if isinstance(event, Checked | FitOutcome) and job.task in running:
                bars.remove_task(running.pop(job.task))
            if isinstance(event, Checked):
                for note in event.notes:
                    say(f"{job.task}: data: {note}")
                return
            if isinstance(event, FitOutcome):
                done.append(event)
                failed = sum(one.state == FAILED for one in done)
                bars.update(whole, completed=len(done), state=f"{failed} failed" if failed else "")
                say(f"{job.task}: {describe_outcome(event)} ({len(done)} of {count})")
                return
            if job.task not in running:
                running[job.task] = bars.add_task(job.task, state="")
            state = describe_progress(event)
            bars.update(running[job.task], completed=event.step, total=event.steps, state=state)

        yield watch


def describe_outcome(outcome: FitOutcome) -> str:
    if outcome.state == FAILED:
        return f"failed: {outcome.problem}"
    accuracy = "" if outcome.accuracy is None else f", accuracy {outcome.accuracy:.1%}"
    settings = f", {outcome.choice}" if outcome.choice else ""
    again = ", tuned before" if outcome.resumed else f", {outcome.seconds:.0f} s"
    return f"{outcome.state}, depth {outcome.depth} of {outcome.blocks}{accuracy}{settings}{again}"


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
