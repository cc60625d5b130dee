"""``eegvision COMMAND``: every command of the three rooms under one name, wherever it is installed.

``python -m data_prep``, ``python -m trainer`` and ``python -m launch`` stay for launchers and for whoever prefers them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from data_prep.__main__ import COMMANDS as DATA_COMMANDS
from data_prep.contract.cli import Command, begin_process, main
from launch.__main__ import COMMANDS as LAUNCH_COMMANDS
from launch.__main__ import one_value
from trainer.__main__ import COMMANDS as TRAINER_COMMANDS

PREFIXED = ("run", "plan", "status", "stop", "logs")
"""Commands of ``launch`` whose names say too little alone: ``eegvision launch run``."""
INIT = Command(config="launch.configs:InitConfig", run="launch.configs:init", help="lay the configs out in a folder of yours")


def commands() -> dict[str, Command]:
    """All commands by the name they have here."""
    own = {f"launch {name}" if name in PREFIXED else name: command for name, command in LAUNCH_COMMANDS.items()}
    return {"init": INIT, **DATA_COMMANDS, **TRAINER_COMMANDS, **own}


def run(argv: Sequence[str] | None = None) -> int:
    """The console script; returns the exit status."""
    begin_process()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["launch"] and len(arguments) > 1:
        arguments = [" ".join(arguments[:2]), *arguments[2:]]
    if arguments[:1] in (["launch run"], ["launch plan"], ["doctor"]):
        arguments = one_value(arguments)
    if arguments[:1] == ["init"] and len(arguments) == 2 and not arguments[1].startswith("-"):
        arguments = ["init", "--folder", arguments[1]]
    description = "From recordings to shards, models and served answers; begin with `eegvision quickstart`."
    return main("eegvision", description, commands(), arguments)
