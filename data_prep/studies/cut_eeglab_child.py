"""A process of its own that reads cut trials of EEGLAB: ``python -m data_prep.studies.cut_eeglab_child FILE FOLDER``.

What scipy or HDF5 do with a damaged file ends this process, not the one that shards a study.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.studies.cut_eeglab import describe
from data_prep.studies.recording_child import status_of


def main(file: str, folder: str) -> int:
    """Exit status; what was wrong stands on stderr, in one line."""
    return status_of(Path(file), lambda path: describe(path, Path(folder)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
