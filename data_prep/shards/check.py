"""All that sharding would measure and refuse, without writing: ``python -m data_prep check --config CONFIG_OF_SHARD``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from rich.table import Table

from data_prep.contract import schema
from data_prep.contract.audit import Finding
from data_prep.contract.errors import StudyError
from data_prep.contract.progress import tracked
from data_prep.contract.terminal import Terminal
from data_prep.contract.urls import refuse_url
from data_prep.measure.trials import MEASURED_DTYPE
from data_prep.shards.cast import cast_eeg
from data_prep.shards.findings import refused
from data_prep.shards.measurement import Report, find_twins, measure_beforehand, report, where
from data_prep.shards.plan import check_source
from data_prep.shards.shard import read_trials
from data_prep.shards.write import ShardConfig

_MOST_FAULTS = 20
"""Trials that cannot be stored that are told one by one."""


def run(config: ShardConfig) -> int:
    """Print what was found, the worst first; exit status 1 if ``shard`` would refuse the study."""
    console = Terminal()
    found = check(config)
    table = Table("", "kind", "what was measured", title=where(config.reader), title_justify="left")
    table.columns[2].overflow = "fold"
    for each in found.findings:
        stops = refused([each], config.measure.allow) or each.kind == "not_storable"
        table.add_row("refused" if stops else each.level, each.kind, each.message)
    if table.row_count:
        console.print(table)
    stops = [each for each in found.findings if each.kind == "not_storable"] + refused(found.findings, config.measure.allow)
    lost = ", ".join(f"{count:,} {reason}" for reason, count in found.lost.items())
    console.print(
        f"{where(config.reader)}: {'would be refused' if stops else 'can be sharded'}{f'; left out: {lost}' if lost else ''}",
        soft_wrap=True,
    )
    return int(bool(stops))


def check(config: ShardConfig) -> Report:
    """Everything that ``shard`` would measure, in its order and by its functions.

    Raises
    ------
    StudyError
        The reader cannot open the study.
    """
    refuse_url(where(config.reader))
    source = config.reader.open()
    check_source(source)
    before = measure_beforehand(source, config.measure)
    twins = find_twins(source, config.measure)
    rows, lost, faults = [np.zeros(0, MEASURED_DTYPE)], Counter[str](), list[Finding]()
    dtype = np.dtype(schema.EEG_DTYPES[config.eeg_dtype])
    num_faults = 0
    for i in tracked(range(len(source.samples)), "samples measured"):
        try:
            kept = read_trials(source, i, config.measure, twins)
            if kept.plan is not None:
                cast_eeg(kept, kept.plan, dtype, source.facts)
        except StudyError as error:
            num_faults += 1
            if len(faults) < _MOST_FAULTS:
                faults.append(Finding(level="problem", kind="not_storable", message=str(error)))
            continue
        rows.append(kept.rows)
        lost.update(kept.lost)
    if num_faults > len(faults):
        faults.append(Finding(level="problem", kind="not_storable", message=f"and {num_faults - len(faults):,} samples more"))
    if num_faults == len(source.samples):
        return Report(findings=[*faults, *before.findings], levels={}, lost={}, images={})
    found = report(source, before, np.concatenate(rows), lost)
    return replace(found, findings=[*faults, *found.findings])
