"""``python -m launch doctor``: findings as a table or as JSON, and an exit status that is not 0 when one of them is bad."""

from __future__ import annotations

import json
import os
import sys

from rich.table import Table
from rich.text import Text

from data_prep.contract.errors import UserError
from data_prep.contract.secrets import masked
from data_prep.contract.terminal import Terminal, visible
from data_prep.contract.words import listed
from launch.doctor import host
from launch.doctor.config import DoctorConfig
from launch.doctor.facts import Seen
from launch.doctor.findings import Context, Finding, findings, grouped
from launch.doctor.gather import Gathering
from launch.hostfile import Host, read_hostfile
from launch.plan import HERE, Surroundings

_STYLES = {"ok": "", "warn": "yellow", "bad": "red"}


def run(config: DoctorConfig) -> int:
    """Look, print, and end with status 1 if anything is bad."""
    found = look(config)
    groups = grouped(found)
    every = len({finding.host for finding in found})
    if config.json:
        rows = [{"check": one.check, "hosts": hosts, "level": one.level, "found": one.found, "do": one.do} for one, hosts in groups]
        print(masked(json.dumps(rows, indent=1)))
    else:
        several = bool(config.hostfile)
        table = Table("check", *(["hosts"] if several else []), "found", "", "what to do")
        for one, hosts in groups:
            who = ["all" if len(hosts) == every and every > 1 else listed(hosts, 4)] if several else []
            level = Text(visible(one.level), style=_STYLES[one.level])
            table.add_row(one.check, *who, one.found, level, one.do)
        Terminal(soft_wrap=False).print(table)
    return 1 if any(finding.level == "bad" for finding in found) else 0


def look(config: DoctorConfig) -> list[Finding]:
    """Of this machine alone, or of every host for a command."""
    if not config.hostfile and not config.trainer_command:
        return findings([_this_machine(config)], Context(config=config, environ=os.environ))
    hosts = read_hostfile(config.hostfile) if config.hostfile else (Host(name=HERE, slots=config.num_processes),)
    around = Surroundings.here(config.python or sys.executable)
    seen, bandwidth = Gathering(config, hosts, around).run()
    environ = {**around.environ, **config.environment}
    return findings(seen, Context(config=config, environ=environ, bandwidth=bandwidth, python=around.python, folder=around.folder))


def _this_machine(config: DoctorConfig) -> Seen:
    here = Seen(name=HERE, slots=1)
    for name, find in (("machine", lambda: host.machine(config.folder)), ("GPUs", host.gpus)):
        try:
            here.parts[name] = find()
        except (UserError, ImportError, OSError, RuntimeError) as error:
            here.refused[name] = str(error)
    return here
