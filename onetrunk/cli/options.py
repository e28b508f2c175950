"""What the commands share: options, the form of their help, and the group that holds them.

A command's result goes to stdout, everything else to stderr. Libraries are imported where they are needed, so that
`--help` and `ls` wait for none of them.
"""

from __future__ import annotations

import enum
from typing import Annotated

import typer

BackboneName = Annotated[str | None, typer.Option("--backbone", help="Name or fingerprint of a backbone.")]
Aliases = Annotated[
    list[str] | None, typer.Option("--alias", help="Point this alias at the new version; may be repeated.")
]
Parent = Annotated[str | None, typer.Option(help="The version of this store that it was made from, as a REF.")]
Force = Annotated[bool, typer.Option("--force", help="Move a protected alias too; rules on accuracy still apply.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
At = Annotated[str | None, typer.Option("--at", help="As it was at this time: ISO 8601, UTC by default.")]

PORT = 8265
REF_HELP = "TASK, TASK@ALIAS, TASK:NUMBER or TASK@sha256:DIGEST."


def example(*lines: str) -> str:
    """Format the examples under a command's help, each on its own line."""
    return "\b\nExamples:\n" + "\n".join(f"  onetrunk {line}" for line in lines)


def command_group(text: str | None = None) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


class Dtype(enum.StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


DtypeOption = Annotated[Dtype, typer.Option(help="auto: bfloat16 where the device multiplies it natively.")]


class Schedule(enum.StrEnum):
    STRETCH = "stretch"
    LEAST_WORK = "least-work"
    FIRST_COME = "first-come"


ScheduleOption = Annotated[
    Schedule,
    typer.Option(
        help="stretch: short work first, and no request waits long; least-work: it may; first-come: in order."
    ),
]


Device = Annotated[str, typer.Option(help="A torch device: cpu, cuda, cuda:1.")]
