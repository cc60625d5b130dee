"""DeepSpeed's launcher of one host, as ``launch run`` becomes it: ``python -m tests.distributed.ranks RANKS PORT MODULE ARGUMENTS``.

DeepSpeed's runner, which would start it, imports torch, MLflow and the compiler for that alone, and so does it without us.
"""

from __future__ import annotations

import sys

from data_prep.contract.cli import leave
from launch.plan import HERE, Start, of_this_host
from launch.ranks import become
from tests.helpers.warm import ranks_are_forks
from trainer.distributed.lean_deepspeed import import_deepspeed

if __name__ == "__main__":
    ranks, port, module, *arguments = sys.argv[1:]
    import_deepspeed()
    argv = (sys.executable, "-m", *of_this_host(int(ranks), int(port)), "--module", module, *arguments)
    ranks_are_forks()
    leave(become(Start(host=HERE, argv=argv, environment={})))
