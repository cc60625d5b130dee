"""``python -m launch.launcher '{launch config as JSON}'``: what :mod:`launch.supervise` starts, in a process group of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from data_prep.contract.cli import begin_process, ending, from_plain, leave, said_if_slow
from launch.config import LaunchConfig


def main(argv: Sequence[str]) -> int:
    """Exit status of the ranks that the config asks for; what ends them is said in one line."""
    config: LaunchConfig = from_plain(LaunchConfig, json.loads(argv[0]))

    def run() -> int:
        with said_if_slow(f"{config.trainer_command[0]}: loading libraries"):
            from launch.ranks import start
        return start(config)

    return ending(run, debug="--debug" in config.trainer_command)


if __name__ == "__main__":
    begin_process()
    leave(main(sys.argv[1:]))
