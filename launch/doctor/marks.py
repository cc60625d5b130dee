"""``python -m launch.doctor.marks``: whether the hosts see one folder: each leaves a mark there and looks for those of the others.

The mark lies beside the run folder, in the nearest folder that is there, and is taken away at the end, which is a SIGTERM: by then every
host has looked. It imports next to nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

ASKED = "EEGVISION_DOCTOR"
_STEP_SECONDS = 0.2
_LONGEST_SECONDS = 300.0


def main() -> int:
    """Leave the mark, say which are seen, wait until all have looked."""
    asked = json.loads(os.environ[ASKED])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    here = Path(os.path.abspath(asked["run"]))
    folder = next(found for found in (here, *here.parents) if found.is_dir())

    def mark(host: int) -> Path:
        return folder / f".eegvision-{asked['nonce']}-{host}"

    own = mark(asked["me"])
    try:
        own.touch(exist_ok=False)
        end = time.monotonic() + asked["seconds"]
        while True:
            os.listdir(folder)  # a network's file system may hold what it has listed
            seen = [host for host in range(asked["hosts"]) if mark(host).exists()]
            if len(seen) == asked["hosts"] or time.monotonic() > end:
                break
            time.sleep(_STEP_SECONDS)
        print(json.dumps({"folder": str(folder), "marks": seen}), flush=True)
        time.sleep(_LONGEST_SECONDS)
    except OSError as error:
        print(json.dumps({"folder": str(folder), "refused": f"{folder}: {error.strerror}"}), flush=True)
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
