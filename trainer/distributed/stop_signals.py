"""Which signals ask a run to stop."""

from __future__ import annotations

import signal


def stop_signals(*others: signal.Signals) -> tuple[signal.Signals, ...]:
    """SIGTERM, SIGUSR1, by which SLURM tells that a job's time is nearly up, SIGHUP, which comes when a terminal or a connection goes, and
    ``others``; no SIGHUP under ``nohup``, which ignores it."""
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGUSR1, *hangup, *others)
