"""A path of commands that goes on where it stopped: each step knows whether its result is there already."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.contract.errors import CommandError
from data_prep.contract.terminal import Terminal
from launch.configs import configs
from launch.quickstart.relay import call


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the path; ``done`` tells whether its result is there."""

    title: str
    argv: tuple[str, ...]
    done: Callable[[], bool]


def python(module: str, command: str, yaml: str | None, *overrides: str) -> tuple[str, ...]:
    """``python -m MODULE COMMAND --config configs/YAML OVERRIDES``."""
    return ("python", "-m", module, command, *(["--config", str(configs() / yaml)] if yaml else []), *overrides)


def run_steps(steps: Sequence[Step], console: Terminal) -> None:
    """Run what is missing, printing every command.

    Raises
    ------
    CommandError
        A command failed: its title and status.
    """
    for number, step in enumerate(steps, start=1):
        console.rule(f"{number}/{len(steps)} {step.title}", align="left")
        if step.done():
            console.print("already there")
            continue
        console.print(f"$ {shlex.join(step.argv)}", style="dim", soft_wrap=True)
        sys.stdout.flush()  # redirected, our line would come after what the child says
        status = call([sys.executable, *step.argv[1:]], step.title)
        if status:
            raise CommandError(f"{step.title}: the command above ended with status {status}")
