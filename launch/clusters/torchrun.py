"""``torchrun``: torch's own launcher, one on each machine. It restarts ranks that fail, on fewer machines if need be (``min:max``)."""

from __future__ import annotations

from launch.clusters.job import Job
from launch.commands import going_on


def argv(job: Job, *, rendezvous: str, min_nodes: int, run: str) -> tuple[str, ...]:
    """Command line, the same on all machines; those that come first are numbered by the rendezvous.

    Parameters
    ----------
    rendezvous
        ``host:port`` of one of them; empty: this machine alone.
    min_nodes
        Fewest machines that go on without the others.
    run
        Names the rendezvous.
    """
    nodes = f"{min_nodes}:{job.nodes}" if min_nodes < job.nodes else str(job.nodes)
    meeting = (
        ("--nnodes", nodes, "--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous, "--rdzv-id", run)
        if rendezvous
        else ("--standalone", "--nnodes", "1")
    )
    options = ("--nproc-per-node", str(job.ranks_per_node), "--max-restarts", str(job.max_restarts))
    command = going_on(job.command) if job.max_restarts else job.command
    # Without the `--` behind -m torchrun takes `--run` for an abbreviation of its own options.
    return (job.python, "-m", "torch.distributed.run", *meeting, *options, "-m", "--", "trainer", *command)
