"""``python -m launch.check_child '{launch config as JSON}' FD``: the one process of ``launch run`` that needs the trainer's libraries.

It writes what :func:`launch.check.facts` found as JSON to the file descriptor FD, and ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from data_prep.contract.cli import begin_process, ending, from_plain, leave, said_if_slow
from launch.config import LaunchConfig


def main(argv: Sequence[str]) -> int:
    """Exit status; what is refused is said in one line."""
    config: LaunchConfig = from_plain(LaunchConfig, json.loads(argv[0]))

    def run() -> int:
        with said_if_slow(f"{config.trainer_command[0]}: loading libraries"):
            from launch.check import check, facts, num_ranks, parse_trainers
        command, ranks = parse_trainers(config), num_ranks(config)
        check(command, ranks=ranks, restarted=bool(config.max_restarts))
        with os.fdopen(int(argv[1]), "w", encoding="utf-8") as found:
            json.dump(facts(command, ranks=ranks), found)
        return 0

    return ending(run, debug="--debug" in config.trainer_command)


if __name__ == "__main__":
    begin_process()
    leave(main(sys.argv[1:]))
