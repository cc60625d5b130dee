"""``make bench``: every benchmark beside its peer, one table, and ``bench.json``.

``python -m tests.benchmarks loader retrieval`` runs some of them; the others keep their rows in ``bench.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.report import print_table, write_json

BENCHMARKS = ("retrieval", "loader", "preprocess", "shard", "exactness", "resume", "kills", "ranks", "simulated", "n170", "readme")
BY_NAME_ONLY = ("text",)
"""Too long for ``make bench``: they run when named (``make bench-text``)."""
OUTPUT = Path("bench.json")


def main(names: list[str]) -> int:
    """Run the named benchmarks (all if none), print their rows; exit status 1 if a target does not hold."""
    unknown = set(names) - {*BENCHMARKS, *BY_NAME_ONLY}
    if unknown:
        known = ", ".join((*BENCHMARKS, *BY_NAME_ONLY))
        print(f"error: no benchmark {', '.join(sorted(unknown))}: expected some of {known}", file=sys.stderr)
        return 2
    rows = {row["name"]: row for row in _earlier()} if names else {}
    for name in names or BENCHMARKS:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
            found = importlib.import_module(f"tests.benchmarks.bench_{name}").run(Path(folder))
        rows |= {row["name"]: row for row in found}
        write_json(list(rows.values()), OUTPUT)
    print_table(list(rows.values()))
    return 0 if all(row["holds"] is not False for row in rows.values()) else 1


def _earlier() -> list[dict]:
    return json.loads(OUTPUT.read_text()) if OUTPUT.is_file() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
