"""``python -m launch``: start training on this machine or several, look at runs and stop them, check the machine."""

import json
import sys

from data_prep.contract.cli import Command, begin_process, leave, main

COMMANDS = {
    "run": Command(
        config="launch.config:LaunchConfig",
        run="launch.supervise:run",
        help="start a trainer command on several ranks: -- contrastive --config ...",
    ),
    "plan": Command(
        config="launch.config:LaunchConfig",
        run="launch.supervise:show",
        help="print what run would start on each host",
        prints=True,
    ),
    "status": Command(
        config="launch.look:StatusConfig",
        run="launch.look:status",
        help="how a run stands: hosts, step, checkpoint, restarts",
        prints=True,
        first="run",
    ),
    "stop": Command(
        config="launch.look:StopConfig",
        run="launch.look:stop",
        help="let a run save and end on every host",
        first="run",
    ),
    "logs": Command(
        config="launch.look:LogsConfig",
        run="launch.look:logs",
        help="the last lines of what was said on each rank",
        prints=True,
        first="run",
    ),
    "doctor": Command(
        config="launch.doctor.config:DoctorConfig",
        run="launch.doctor.command:run",
        help="check this machine, or every host of a hostfile for a training: -- contrastive --config ...",
        prints=True,
        switches=("json",),
    ),
    "scaling": Command(
        config="launch.scaling:ScalingConfig",
        run="launch.scaling:run",
        help="a model of how training scales, from 1 GPU to 1,024: see launch/SCALING.md",
        prints=True,
    ),
    "quickstart": Command(
        config="launch.quickstart.quickstart:QuickstartConfig",
        run="launch.quickstart.quickstart:run",
        help="the whole path once, one table at the end",
    ),
    "quickstart-text": Command(
        config="launch.quickstart.quickstart_text:QuickstartTextConfig",
        run="launch.quickstart.quickstart_text:run",
        help="EEG to text once, from a simulated study to a registered model and a page of captions",
    ),
    "compare-bases": Command(
        config="launch.compare_bases.plan:CompareBasesConfig",
        run="launch.compare_bases.command:run",
        help="train and score several base models alike",
    ),
}


def one_value(argv: list[str]) -> list[str]:
    """Turn ``... -- contrastive --config X`` into one value of the launch config."""
    if "--" not in argv:
        return argv
    cut = argv.index("--")
    return [*argv[:cut], f"--trainer_command={json.dumps(argv[cut + 1 :])}"]


if __name__ == "__main__":
    begin_process()
    leave(main("python -m launch", __doc__ or "", COMMANDS, one_value(sys.argv[1:])))
