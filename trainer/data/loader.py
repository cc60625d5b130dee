"""From shards on disk to batches in host memory.

A batch of the training stream, walked through::

    positions [start, stop)  --Order-->  items  --grouping-->  repetitions  --index-->  (tar, byte offset) of each
      --read from the tars-->  (R, C, T) float16  --selected channels, times-->  HostBatch
      --Loader.prepare, on the device-->  Batch: float32, transformed, repetitions averaged, normalised

An *item* is what the order permutes: a sample (its repetitions are averaged), or with ``repetitions: each`` a single
repetition. Any contiguous slice of the stream can be had at any time (:meth:`Loader.batch`), so ranks, micro-batches and
restarts need no coordination; :meth:`Loader.batches` adds a thread that gathers ahead.

Shapes: R repetitions in a batch, B items, C channels, T time points, E embedding.
"""

from __future__ import annotations

import contextlib
import copy
import tarfile
from collections.abc import Iterator

import numpy as np
import torch

from data_prep.contract.errors import CommandError, StudyError
from trainer.data import random
from trainer.data.batch import Batch, HostBatch, Transform, prepare
from trainer.data.config import DataConfig
from trainer.data.finite import first_not_finite
from trainer.data.grouping import Grouping
from trainer.data.index import StudyIndex
from trainer.data.order import Order, rank_slices
from trainer.data.place import Places, transform_groups
from trainer.data.prefetch import Prefetched
from trainer.data.select import select_channels, select_fraction, select_rows, select_times

_DRAW = random.word("draw of repetitions")
_EVALUATION_DRAW = random.word("draw of repetitions for evaluation")


class Loader:
    """One part of a split as a random-access stream of batches.

    Attributes
    ----------
    num_items, num_samples, num_repetitions : int
        Items of a data pass, and samples and repetitions behind them.
    n_chans, n_times, sfreq, tmin, ch_names, positions
        Of a prepared batch: after the selection, Hz and seconds; ``positions`` in metres or None.
    num_subjects, embedding_dim : int
        Rows of the manifest's table of subjects (ids in a batch point into it), and E.
    gallery : np.ndarray
        The study's embedding table, float32 (n_stimuli, E).
    stimuli, subjects, concepts : np.ndarray
        Distinct stimulus, subject and concept ids of the part, ascending.
    order : Order
    split_hash, fingerprint : str
    transform : Transform or None

    Parameters
    ----------
    kept
        Which items of the training part to keep, bool: what ``select.keep`` other than ``all`` needs, and
        :func:`trainer.tasks.keep.training_loader` asks its encoder for.

    Raises
    ------
    CommandError, StudyError
        One sentence naming the field or file.
    """

    def __init__(self, index: StudyIndex, config: DataConfig, part: str, seed: int, *, kept: np.ndarray | None = None) -> None:
        if config.select.keep != "all" and (part != "train" or kept is None):
            raise CommandError(
                f"data.select.keep: {config.select.keep} is a choice of training alone, part {part!r} is read whole here: expected all"
            )
        self.index, self.config, self.part, self.seed = index, config, part, seed
        # Columns of their own: a look-up in a structured array copies every field of every row.
        self._subject, self._stimulus, self._concept = (np.ascontiguousarray(index.samples[n]) for n in ("subject", "stimulus", "concept"))
        self.split_hash: str = index.split(config.split).hash
        self.fingerprint: str = index.manifest.fingerprint
        self.gallery = index.embedding(config.embedding)
        self.embedding_dim = self.gallery.shape[1]
        self._select_signal()
        self._places = self._place(self._select_rows())
        self._group()
        self._keep_fraction()
        if kept is not None:
            self._thin(kept, "data.select.keep")
        self._count()
        self._transforms: dict[str, Transform] = {}

    @property
    def item_stimuli(self) -> np.ndarray:
        """Stimulus of every item: (num_items,)."""
        stimuli: np.ndarray = self._stimulus[self._items.sample_N]
        return stimuli

    @property
    def item_concepts(self) -> np.ndarray:
        """Concept of every item: (num_items,)."""
        concepts: np.ndarray = self._concept[self._items.sample_N]
        return concepts

    @property
    def identity(self) -> dict[str, str]:
        """Hashes by which another run, or another answer, is known to be of the same data."""
        manifest = self.index.manifest
        return {
            "fingerprint": manifest.fingerprint,
            "trials_hash": manifest.trials_hash,
            "split_hash": self.split_hash,
            "embedding_sha256": manifest.embedding(self.config.embedding).sha256,
        }

    @property
    def item_subjects(self) -> np.ndarray:
        """Subject of every item: (num_items,)."""
        subjects: np.ndarray = self._subject[self._items.sample_N]
        return subjects

    @property
    def sample_counts(self) -> np.ndarray:
        """Repetitions of every sample of the part: (num_samples,)."""
        return self._samples.count_N

    @property
    def most_repetitions(self) -> int:
        """Repetitions of the sample that has most of them in the part."""
        return int(self._samples.count_N.max())

    @property
    def rows(self) -> np.ndarray:
        """Rows of the study's table of repetitions behind the items, ascending: int64 (num_repetitions,)."""
        return self._places.row

    def narrowed(self, keep: np.ndarray, why: str) -> Loader:
        """The same part without some of its items; ``keep`` is a bool an item, ``why`` begins the error where none is left."""
        narrow = copy.copy(self)
        narrow._thin(keep, why)
        narrow._count()
        return narrow

    # ---------------------------------------------------------------------------------------------------- batches

    def batch(self, start: int, stop: int) -> HostBatch:
        """Items at positions [start, stop) of the training stream, which never ends."""
        return _whole(self._stream(start, stop))

    def _stream(self, start: int, stop: int) -> HostBatch:
        items, data_pass = self.order.items(start, stop), self.order.data_passes(start, stop)
        draw = self.config.random_mean_k if self.config.repetitions == "random_mean" else None
        return self._gather(self._items, items, data_pass, draw, (self.seed, _DRAW))

    def batches(
        self,
        samples_seen: int,
        *,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_size: int | None = None,
        ahead: int = 2,
        pin: bool = False,
    ) -> Prefetched[HostBatch]:
        """One rank's micro-batches of the endless stream from ``samples_seen`` on, gathered ahead by a thread.

        Parameters
        ----------
        samples_seen
            Position at which the next step begins: 0, or what a checkpoint says.
        global_batch_size, rank, world_size, micro_batch_size
            See :func:`rank_slices`; without a micro-batch size a rank's whole share is one batch.
        ahead
            Batches kept ready.
        pin
            Put batches in page-locked memory (with a GPU only).

        Returns
        -------
        Prefetched
            An iterator; close it (or use ``with``) to end its thread. What goes wrong in the thread is raised by ``next``, except what
            is wrong with the numbers: that is the batch's ``fault``, so that ranks which have good ones can learn of it.
        """
        sizes = {"global_batch_size": global_batch_size, "rank": rank, "world_size": world_size, "micro_batch_size": micro_batch_size}
        rank_slices(samples_seen, **sizes)  # type: ignore[arg-type]  # refuse contradicting sizes here, not in the thread

        def stream() -> Iterator[HostBatch]:
            position = samples_seen
            while True:
                for start, stop in rank_slices(position, **sizes):  # type: ignore[arg-type]
                    host = self._stream(start, stop)
                    yield host.pin() if pin else host
                position += global_batch_size

        return Prefetched(stream(), ahead=ahead)

    def sequential(
        self, batch_size: int, *, repetitions: int | None = None, draw: int | None = None, single_trials: bool = False
    ) -> Iterator[HostBatch]:
        """The part once through, in the study's order, for evaluation: an item is a sample whatever the training items are.

        Parameters
        ----------
        batch_size
            Items a batch; the last may be smaller.
        repetitions
            Average this many repetitions of each sample (all, where it has fewer); None: all.
        draw
            None takes the first ``repetitions``; a number takes a random choice without replacement, another for every number.
        single_trials
            Make every repetition an item of its own instead.
        """
        if batch_size < 1:
            raise CommandError(f"batch_size is {batch_size}, expected at least 1")
        if repetitions is not None and repetitions < 1:
            raise CommandError(f"repetitions is {repetitions}, expected at least 1 or None")
        grouping = Grouping.singly(self._sample_R) if single_trials else self._samples
        for start in range(0, len(grouping), batch_size):
            items = np.arange(start, min(start + batch_size, len(grouping)), dtype=np.int64)
            words = None if draw is None else (self.seed, _EVALUATION_DRAW, draw)
            yield _whole(self._gather(grouping, items, np.zeros(len(items), np.int64), repetitions, words))
        self.index.settle()

    def samples_batch(self, samples: np.ndarray) -> HostBatch:
        """Samples of the part by number (0 ... ``num_samples`` - 1, in the study's order), all repetitions averaged, for evaluation."""
        samples = np.asarray(samples, np.int64)
        return _whole(self._gather(self._samples, samples, np.zeros(len(samples), np.int64), None, None))

    def trials_batch(self, trials: np.ndarray) -> HostBatch:
        """Single repetitions of the part by number (0 ... ``num_repetitions`` - 1, in the study's order), each an item of its own."""
        trials = np.asarray(trials, np.int64)
        return self._gather(Grouping.singly(self._sample_R), trials, np.zeros(len(trials), np.int64), None, None)

    @property
    def subject_of_repetitions(self) -> np.ndarray:
        """Row of the manifest's subjects of each repetition of the part: (``num_repetitions``,)."""
        found: np.ndarray = self.index.table.subject[self._places.row]
        return found

    def prepare(self, host: HostBatch, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        """Move a batch of this loader to ``device`` and apply its transform, averaging and normalisation there."""
        return prepare(host, device, transform=self._transform_on(device), normalise=self.config.normalise, non_blocking=non_blocking)

    def repetitions(self, host: HostBatch) -> torch.Tensor:
        """The repetitions of a batch, transformed, neither averaged nor normalised: float32 (R, C, T) on the CPU."""
        eeg_RCT = host.repetitions_RCT.to(torch.float32)
        transform = self._transform_on("cpu")
        return eeg_RCT if transform is None else transform(eeg_RCT, host.group_R)

    def _transform_on(self, device: torch.device | str) -> Transform | None:
        if self.transform is None:
            return None
        return self._transforms.get(str(device)) or self._transforms.setdefault(str(device), self.transform.to(device))

    def fault_of(self, batch: Batch) -> str:
        """What of a prepared batch is not finite, in a sentence that names the sample; empty: nothing. Waits for the device."""
        for what, values in (("EEG", batch.eeg_BCT), ("embedding", batch.target_BE)):
            if (place := first_not_finite(values)) is not None:
                done = " after transform, average and normalisation" if what == "EEG" else ""
                return f"{self.name_sample(int(batch.sample_B[place[0]]))}: {what} is not finite{done}"
        return ""

    # ------------------------------------------------------------------------------------------- what there is to load

    def _select_signal(self) -> None:
        signal, select = self.index.signal, self.config.select
        channels, self._times = select_channels(select, signal), select_times(select, signal)
        self.ch_names = [signal.ch_names[c] for c in channels]
        self.positions = None if signal.positions is None else [signal.positions[c] for c in channels]
        self.n_chans, self.n_times = len(channels), self._times.stop - self._times.start
        self.sfreq, self.tmin = float(signal.sfreq), signal.tmin + self._times.start / signal.sfreq
        self.transform: Transform | None = None
        if self.config.transform is not None:
            path = self.index.root / "transforms" / f"{self.config.transform}.npz"
            self.transform = Transform.read(path, split_hash=self.split_hash, channels=channels, n_chans=signal.n_chans)
        # A transform mixes all stored channels, so it also makes the choice among them, on the device.
        everything = self.transform is not None or channels == list(range(signal.n_chans))
        self._channels = None if everything else np.asarray(channels)
        self._dtype = signal.eeg_dtype
        self._shape = (signal.n_chans, signal.n_times)
        self._repetition_bytes = signal.repetition_bytes

    def _select_rows(self) -> np.ndarray:
        index, config = self.index, self.config
        rows = index.rows(config.split, self.part)
        if not len(rows):
            raise StudyError(f"split {config.split!r} of {index.root} has no part {self.part!r}")
        rows = select_rows(config.select, index.table, index.manifest.tables, rows, thin=self.part == "train")
        if not len(rows):
            raise CommandError(f"data.select leaves no trials in part {self.part!r} of split {config.split!r}")
        return rows

    def _place(self, rows: np.ndarray) -> Places:
        part = f"part {self.part!r} of split {self.config.split!r}"
        group = transform_groups(self.index, self.transform, rows, name=self.config.transform or "", part=part)
        return Places.of(self.index, rows, group)

    def _group(self) -> None:
        self._sample_R = self.index.table.sample[self._places.row]
        self._seen_R = np.zeros(len(self._places), bool)
        self._samples = Grouping.by_sample(self._sample_R)
        self._items = Grouping.singly(self._sample_R) if self.config.repetitions == "each" else self._samples

    def _keep_fraction(self) -> None:
        fraction = self.config.select.fraction
        if fraction == 1 or self.part != "train":
            return
        each = self.config.repetitions == "each"
        keep = select_fraction(self.config.select, self._places.row if each else self._items.sample_N)
        self._thin(keep, f"data.select.fraction {fraction}")

    def _count(self) -> None:
        index = self.index
        self.num_items, self.num_samples, self.num_repetitions = len(self._items), len(self._samples), len(self._places)
        self.num_subjects = len(index.manifest.tables.subjects)
        self.stimuli = np.unique(index.samples["stimulus"][self._samples.sample_N])
        self.subjects = np.unique(index.samples["subject"][self._samples.sample_N])
        self.concepts = np.unique(index.samples["concept"][self._samples.sample_N])
        per_shard = np.bincount(index.samples["shard"][self._items.sample_N], minlength=len(index.manifest.shards))
        self.order = Order(
            seed=self.seed, shard_items=per_shard.tolist(), split_hash=self.split_hash, block_shards=self.config.block_shards
        )

    def _thin(self, keep: np.ndarray, why: str) -> None:
        if keep.shape != (len(self._items),):
            raise CommandError(f"{why}: a choice of shape {keep.shape} among {len(self._items)} items, expected one for each")
        if not keep.any():
            raise CommandError(f"{why} leaves none of {len(keep)} items")
        self._places = self._places.take(self._items.rows(np.flatnonzero(keep)))
        self._group()

    # ---------------------------------------------------------------------------------------------------------- gather

    def _gather(
        self, grouping: Grouping, items: np.ndarray, data_pass: np.ndarray, most: int | None, words: tuple[int, ...] | None
    ) -> HostBatch:
        # ``most`` repetitions of each item: the first, or with hash words a random choice.
        count = grouping.count_N[items]
        if most is not None and (count > most).any():
            rows, count = grouping.choose(items, data_pass, most, words)
        else:
            rows = grouping.rows(items)
        sample = grouping.sample_N[items]
        stimulus = self._stimulus[sample]
        eeg = self._read(rows)
        return HostBatch(
            repetitions_RCT=eeg,
            counts_B=_ids(count),
            group_R=_ids(self._places.group[rows]),
            item_B=_ids(items),
            data_pass_B=_ids(data_pass),
            sample_B=_ids(sample),
            subject_B=_ids(self._subject[sample]),
            stimulus_B=_ids(stimulus),
            concept_B=_ids(self._concept[sample]),
            embedding_BE=torch.from_numpy(self.gallery[stimulus]),
            equal_count=int(count[0]) if len(count) and (count == count[0]).all() else 0,
            fault=self._fault(eeg, rows),
        )

    def _fault(self, eeg_RCT: torch.Tensor, rows: np.ndarray) -> str:
        """What of the EEG is not finite. Looked for once in each repetition where hashes tell of a file that changes later."""
        if self.index.watched and self._seen_R[rows].all():
            return ""
        if (place := first_not_finite(eeg_RCT)) is None:
            self._seen_R[rows] = True
            return ""
        row, channel, time = int(self._places.row[rows[place[0]]]), place[1], place[2]
        table = self.index.table
        channel = channel if self._channels is None else int(self._channels[channel])
        where = f"channel {self.index.signal.ch_names[channel]}, time point {self._times.start + time}"
        return f"{self.name_sample(int(table.sample[row]))}, repetition {int(table.repetition[row])}: EEG is not finite (first at {where})"

    def name_sample(self, sample: int) -> str:
        """Tar, key, subject and stimulus of a sample, for sentences. It reads the tar's headers: for what ends a run only."""
        entry, tables = self.index.samples[sample], self.index.manifest.tables
        path, who = self.index.tar_path(int(entry["shard"])), f"subject {tables.subjects[int(entry['subject'])]}"
        key = f"sample {sample}"
        with contextlib.suppress(OSError, tarfile.TarError), tarfile.open(path) as tar:
            key = next((m.name.partition(".")[0] for m in tar if m.offset_data <= entry["eeg_offset"] < m.offset_data + m.size), key)
        return f"{path}: {key} ({who}, stimulus {tables.stimuli[int(entry['stimulus'])].id})"

    def _read(self, rows: np.ndarray) -> torch.Tensor:
        shards, offsets, repetitions = self._places.runs(rows, self._repetition_bytes)
        eeg = self.index.read(shards, offsets, repetitions * self._repetition_bytes).view(self._dtype).reshape(len(rows), *self._shape)
        selected = eeg[:, :, self._times] if self._channels is None else eeg[:, self._channels, self._times]
        return torch.from_numpy(np.ascontiguousarray(selected))


def _whole(host: HostBatch) -> HostBatch:
    if host.fault:
        raise StudyError(host.fault)
    return host


def _ids(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))
