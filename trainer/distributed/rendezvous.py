"""Where the ranks of one host meet: a port that is held from the moment it is chosen."""

from __future__ import annotations

import os
import socket
from typing import Any

from data_prep.contract.errors import CommandError, port_is_taken


def free_port() -> int:
    """A TCP port of this host that nobody uses now; someone else may be quicker to take it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def hold_meeting_place(port: int) -> Any:
    """Serve the store in which the ranks that this process starts find each other; torch is imported here.

    The ranks are told by their environment, as torch's own launcher does, that they need not serve it themselves.

    Parameters
    ----------
    port
        TCP port; 0: any free one.

    Returns
    -------
    torch.distributed.TCPStore
        It serves as long as it is held; ``port`` is the one that was taken.

    Raises
    ------
    CommandError
        The port is in use.
    """
    import torch.distributed

    try:
        store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        if not port_is_taken(error):
            raise
        raise CommandError(f"master_port: {port} is in use by another program: choose another one, or 0 for any that is free") from error
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    return store
