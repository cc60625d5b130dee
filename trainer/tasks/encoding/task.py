"""An encoding model from one pass: what a pass over the training samples sums, subject after subject, and what it leaves.

::

    samples of a subject -> this rank's share of a step -> exact sums -> joined on rank 0 at the subject's end -> a model -> export
                                                                \\-> added to those of all subjects -> the model of whoever has none

In memory are the sums of one subject, and where there are several those of all.

D: features of a flattened trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_prep.contract.closed_form import MAX_FEATURES, EncodingModel
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.ranking import retrieval_ranks
from data_prep.contract.version import code_version
from trainer import metrics
from trainer.artifacts.encoder_export import write_likelihood_export
from trainer.artifacts.guards import check_candidates, part_of
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.distributed.collectives import sum_on_rank_0
from trainer.distributed.world import World
from trainer.models.encoding.likelihood import OF_ALL
from trainer.models.encoding.rows import fold_of_samples, read_in_pieces, units_of
from trainer.models.encoding.sums import Key, RowSums, keys_of
from trainer.tasks.encoding.config import EncodingConfig
from trainer.tasks.keep import training_loader
from trainer.training import checkpoint
from trainer.training.lineage import Lineage
from trainer.training.task import DataTask, say

LEAST_ROWS = 16
"""A subject with fewer training samples has the model of all."""
_FITTED, _CURRENT, _OF_ALL = "fitted", "current", "all"


class EncodingTask(DataTask):
    """See :class:`trainer.training.data_pass.Summing`."""

    def __init__(self, config: EncodingConfig, world: World) -> None:
        super().__init__()
        self.config, self.world = config, world
        self.index = StudyIndex.open(Path(config.data.study), verify=config.data.verify)
        self.split = self.index.split(config.data.split)
        if self.index.manifest.class_level:
            raise CommandError(
                f"{self.index.root}: its stimuli are known by class only, expected images: use contrastive, or the lda baseline"
            )
        self.loader, kept = training_loader(self.index, config.data, 0)
        self.num_items = self.loader.num_items
        self.score_name = "mrr" if self.split.has("validation") else None
        self.validation = Loader(self.index, config.data.unfiltered(), "validation", seed=0) if self.score_name else None
        self.study = self.loader.identity
        self.remember_kept(kept)
        self._check_sizes()
        self.units, self.fold_N = units_of(self.loader), fold_of_samples(self.loader)
        subject_N = self.loader.item_subjects
        self.order = np.argsort(subject_N, kind="stable")
        self.subjects = self.loader.subjects.tolist()
        self.ends = np.cumsum([int((subject_N == subject).sum()) for subject in self.subjects])
        everyone = [key for number in range(len(self.subjects)) for key in self._keys(number)]
        self.of_all = RowSums(self.units, everyone) if len(self.subjects) > 1 and world.is_main else None
        self.fitted: dict[int, EncodingModel] = {}
        self._current: tuple[int, RowSums] | None = None

    def _check_sizes(self) -> None:
        loader = self.loader
        if (count := loader.n_chans * loader.n_times) > MAX_FEATURES:
            raise CommandError(
                f"{loader.index.root}: {loader.n_chans} channels x {loader.n_times} time points are {count} features of a trial, expected "
                f"at most {MAX_FEATURES}: choose some by data.select.channels, tmin and tmax, or shard at a lower rate"
            )
        check_candidates(part_of(loader), len(loader.stimuli), "stimuli")
        if self.validation is not None:
            check_candidates(part_of(self.validation), len(self.validation.stimuli), "stimuli")

    # ------------------------------------------------------------------------------------------------------- the pass

    def num_steps(self, seen: int) -> int:
        """Steps from so many samples on to the end; none holds samples of two subjects."""
        starts = np.maximum(np.concatenate([[0], self.ends[:-1]]), seen)
        return int(-(-np.maximum(self.ends - starts, 0) // self.config.train.global_batch_size).sum())

    def add(self, seen: int) -> int:
        """One step: samples of one subject, this rank's share of them; at the subject's end its model is solved."""
        number = int(np.searchsorted(self.ends, seen, side="right"))
        end = int(self.ends[number])
        stop = min(seen + self.config.train.global_batch_size, end)
        mine = np.array_split(self.order[seen:stop], self.world.size)[self.world.rank]
        sums = self._sums(number)
        sums.add_samples(self.loader, mine, self.fold_N)
        if stop == end:
            sum_on_rank_0(sums.arrays())
            checkpoint.on_rank_0(self.world, lambda: self._solve(number, sums), lost_seconds=self.config.train.timeout_seconds)
            self._current = None
        return stop

    def _keys(self, number: int) -> list[Key]:
        samples = self.order[int(self.ends[number - 1]) if number else 0 : int(self.ends[number])]
        return keys_of(self.loader, samples, self.fold_N)

    def _sums(self, number: int) -> RowSums:
        """Of the subject at work."""
        if self._current is None or self._current[0] != number:
            self._current = number, RowSums(self.units, self._keys(number))
        return self._current[1]

    def _solve(self, number: int, sums: RowSums) -> None:
        subject, last = self.subjects[number], number == len(self.subjects) - 1
        if self.of_all is not None:
            self.of_all.add(sums)
            if sums.count >= LEAST_ROWS:
                self.fitted[subject] = self._fit(sums, f"subject {self.index.manifest.tables.subjects[subject]}")
        if last:
            self.fitted[OF_ALL] = self._fit(self.of_all or sums, "all subjects")

    def _fit(self, sums: RowSums, whose: str) -> EncodingModel:
        say(self.world, f"solving the model of {whose}: {sums.count} samples")
        try:
            return sums.fit(most_directions=self.config.model.most_directions)
        except UserError as error:
            raise CommandError(f"{part_of(self.loader)}, {whose}: {error}") from error

    # ---------------------------------------------------------------------------------------------- what it leaves

    def saved(self) -> dict[str, np.ndarray]:
        """Sums of the subject at work and of all before it, and the models that are solved."""
        current = {} if self._current is None else self._current[1].arrays()
        sum_on_rank_0(current)
        if not self.world.is_main:
            return {}
        found = {f"{_CURRENT}.{name}": array for name, array in current.items()}
        if self.of_all is not None:
            found |= {f"{_OF_ALL}.{name}": array for name, array in self.of_all.arrays().items()}
        for subject, model in self.fitted.items():
            found |= {f"{_FITTED}.{subject}.{name}": np.ascontiguousarray(array) for name, array in vars(model).items()}
        return found

    def load(self, saved: Mapping[str, np.ndarray], seen: int) -> None:
        """Go on from what :meth:`saved` gave."""
        if current := _below(saved, _CURRENT):
            self._sums(int(np.searchsorted(self.ends, seen, side="right"))).load(current)
        if self.of_all is not None:
            self.of_all.load(_below(saved, _OF_ALL))
        arrays: dict[int, dict[str, np.ndarray]] = {}
        for name, array in _below(saved, _FITTED).items():
            subject, _, own = name.partition(".")
            arrays.setdefault(int(subject), {})[own] = array
        self.fitted = {subject: EncodingModel(**own) for subject, own in arrays.items()}

    def validate(self) -> dict[str, float]:
        """Each validation sample among the validation part's own images, by likelihood: top-1, top-5 and mean reciprocal rank."""
        loader = self.validation
        assert loader is not None
        gallery_GE = loader.gallery[loader.stimuli]
        ranks = []
        for subject in loader.subjects.tolist():
            model = self.fitted.get(subject, self.fitted[OF_ALL])
            samples = np.flatnonzero(loader.item_subjects == subject)
            for some, rows in read_in_pieces(loader, samples):
                scores_QG = model.log_likelihood(rows.eeg_ND, rows.count_N, gallery_GE)
                ranks.append(retrieval_ranks(scores_QG, loader.item_stimuli[some][:, None] == loader.stimuli))
        rank_Q = np.concatenate(ranks)
        return {
            "top1": float(metrics.recall_at(rank_Q, 1).mean()),
            "top5": float(metrics.recall_at(rank_Q, 5).mean()),
            "mrr": float(metrics.reciprocal_rank(rank_Q).mean()),
        }

    def export(self, output: Path, step: int) -> None:
        """Write the models with all that is needed to apply them to a trial."""
        # Nothing was chosen by validation trials.
        lineage = Lineage(step=step, git_revision=code_version(), started_from=self.started_from)
        write_likelihood_export(output, fitted=self.fitted, loader=self.loader, lineage=lineage, facts=self.facts())


def _below(saved: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{part}."): array for name, array in saved.items() if name.startswith(f"{part}.")}
