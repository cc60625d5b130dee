"""Tables that pandas and polars save as Parquet, as text by column like those of any other form.

They are read in a process of their own, ``python -m data_prep.studies.parquet FILE OUT``, which a damaged one may end.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short
from data_prep.studies.continuous import one_line
from data_prep.studies.cut_files import cell_text
from data_prep.studies.recording_child import run_reader, status_of

MOST_CELLS = 2**27
"""A file may say more than its bytes hold, and cells become texts."""


def is_parquet(file: Path) -> bool:
    """By its first bytes, whatever its name."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def read_parquet(file: Path) -> dict[str, list[str]]:
    """Columns of ``file``; those that hold no text, number, date or truth value are left out.

    Raises
    ------
    StudyError
        A damaged file, one of more cells than a table of trials has, a column twice, or none.
    """
    with tempfile.TemporaryDirectory(prefix="table-") as folder:
        out = Path(folder) / "columns.json"
        try:
            run_reader(file, "Parquet", __name__, [str(file), str(out)], uses=("pyarrow.parquet",))
        except ImportError as error:
            raise StudyError(f"{file}: Parquet needs pyarrow, which is not here: pip install pyarrow, or save the table as CSV") from error
        found: dict[str, list[str]] = json.loads(out.read_text())
    return found


# --------------------------------------------------------------------------------------------------------- in the child


def columns_of(file: Path) -> dict[str, list[str]]:
    """What :func:`read_parquet` returns, read in this process."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, memory_map=False) as opened:
            names = list(opened.schema_arrow.names)
            cells = opened.metadata.num_rows * len(names)
            if cells > MOST_CELLS:
                raise StudyError(f"{file}: says that it holds {cells:,} cells, expected a table of at most {MOST_CELLS:,}")
            if len(set(names)) != len(names):
                raise StudyError(f"{file}: its columns are {listed(names)}, expected names that differ")
            plain = [name for name in names if not pyarrow.types.is_nested(opened.schema_arrow.field(name).type)]
            table = opened.read(columns=plain, use_threads=False)
            columns = {name: [cell_text(value) for value in table.column(name).to_pylist()] for name in plain}
    except (StudyError, MemoryError):
        raise
    except Exception as error:
        raise StudyError(f"{file}: not a whole Parquet file ({short(one_line(error), 160)})") from error
    if not plain:
        raise StudyError(f"{file}: its columns are {listed(names)}, expected at least one of texts or numbers")
    return columns


def main(file: str, out: str) -> int:
    """Exit status; what was wrong stands on stderr, in one line."""

    def leave(path: Path) -> None:
        Path(out).write_text(json.dumps(columns_of(path)))

    return status_of(Path(file), leave)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
