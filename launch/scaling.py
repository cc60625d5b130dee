"""A model of how training scales with the number of GPUs: pure arithmetic, printed by ``python -m launch scaling``; see ``SCALING.md``.

A step is computing, comparing each row with the whole batch, gathering embeddings, exchanging gradients (and, at ZeRO 3, weights), and
waiting for the slowest; reading goes on beside it. A run is steps, checkpoints, and what is repeated after an interruption. It is a model:
what in it was measured, fitted or assumed stands with each constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FLOAT_BYTES = 4
SAMPLE_BYTES = 4 * 17 * 100 * 2
"""Of a sample of THINGS-EEG2 as it is read: four repetitions of 17 channels and 100 points, float16."""
STATE_BYTES = 16
"""Of a checkpoint, a trained parameter: weight, the copy that is updated, AdamW's two states."""
HOURS_BETWEEN_FAILURES = 16_384 * 54 * 24 / 419
"""Of one GPU, with all that belongs to it: 419 unexpected interruptions of 16,384 GPUs in 54 days (Llama 3, arXiv:2407.21783)."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """What a step takes on one device: ``fixed + sample * b + pair * b * G``, of b rows of its own among G of all."""

    fixed_seconds: float
    sample_seconds: float
    pair_seconds: float = 3.6e-11
    """Assumed: 12 x 512 operations at 300 TFLOP/s, and 40 bytes of logits at 2.5 TB/s."""

    def seconds(self, batch: float) -> float:
        """Of what does not depend on other ranks."""
        return self.fixed_seconds + self.sample_seconds * batch


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained."""

    name: str
    parameters: float
    """Trained, float32."""
    compute: ComputeConfig
    batch: int
    """Of one GPU, or of all (:attr:`grows` false)."""
    grows: bool
    """Whether the global batch grows with the GPUs."""
    dim: int = 512
    """Of the embeddings that are gathered; 0: none are."""
    tensors: int = 3
    """Times that they are sent: EEG and images forward, the gradient of EEG back."""
    small_collectives: int = 8
    """Sums of a few numbers a step: batch norm's statistics, token counts, the gradient's norm."""
    sample_bytes: float = SAMPLE_BYTES
    study_bytes: float = 16_540 * SAMPLE_BYTES
    """One that a node's memory holds is read from there after the first pass."""
    frozen_bytes: float = 0.0
    stage: Literal[1, 2, 3] = 1
    overlapped: bool = False
    """Whether gradients travel beside the backward pass (``zero.overlap_comm``)."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Machines and what lies between them."""

    gpus_per_node: int = 8
    memory_bytes: float = 1e12
    """Of a node, for shards that were read before; assumed."""
    inside_bytes_a_second: float = 0.8 * 450e9
    """Bus bandwidth of a rank within a node; assumed: four fifths of NVLink's 450 GB/s each way (H100)."""
    between_bytes_a_second: float = 0.8 * 8 * 50e9
    """Of a node to the others; assumed: four fifths of 8 x 400 Gbit/s (DGX H100)."""
    inside_seconds: float = 1e-5
    """Latency of a small collective, by doubling of ranks within a node; assumed."""
    between_seconds: float = 2e-5
    """The same between nodes; assumed."""
    disk_bytes_a_second: float = 33_287 * SAMPLE_BYTES
    """Of a node, shards from its disk: measured (README, *Measured*: 33,287 samples/s, 2 x Intel Xeon)."""
    memory_bytes_a_second: float = 328_394 * SAMPLE_BYTES
    """Of a rank, shards that lie in the node's memory already: measured (the same: 328,394 samples/s, one process)."""
    write_bytes_a_second: float = 1e9
    """Of all ranks together, into the run folder; assumed."""
    waiting_share: float | None = None
    """Waiting for the slowest, as a share of a step's computing, times (sqrt(nodes) - 1); null: as fitted by :func:`fitted_waiting`."""
    hours_between_failures: float = HOURS_BETWEEN_FAILURES
    """Of one GPU; see there."""
    restart_seconds: float = 50.0
    """From a loss to the next new step; measured (README, *Several hosts*: the power of a host), on three small hosts."""

    def __post_init__(self) -> None:
        for name in ("gpus_per_node", "inside_bytes_a_second", "between_bytes_a_second", "disk_bytes_a_second", "write_bytes_a_second"):
            if not getattr(self, name) > 0:
                raise ValueError(f"cluster.{name}: {getattr(self, name)}, expected a positive number")
        if not self.hours_between_failures > 0:
            raise ValueError(f"cluster.hours_between_failures: {self.hours_between_failures}, expected a positive number")


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of one step, by what they go to."""

    computing: float
    comparing: float
    gathering: float
    exchanging: float
    waiting: float
    reading: float
    """Beside all of the others."""
    samples: int
    """Of all GPUs."""

    @property
    def seconds(self) -> float:
        """Of the whole."""
        return max(self.computing + self.comparing + self.gathering + self.exchanging + self.waiting, self.reading)

    @property
    def samples_a_second(self) -> float:
        """Of all GPUs."""
        return self.samples / self.seconds


def collective_seconds(cluster: ClusterConfig, gpus: int, nbytes: float, *, times: float = 1.0, overlapped: bool = False) -> float:
    """Of sending ``times`` times the share (W - 1) / W of a tensor past each rank's link, in a ring.

    A ring over nodes passes each node's cards once, so that their whole bandwidth is the ring's.
    """
    if gpus == 1:
        return 0.0
    nodes = math.ceil(gpus / cluster.gpus_per_node)
    bandwidth = cluster.inside_bytes_a_second if nodes == 1 else min(cluster.inside_bytes_a_second, cluster.between_bytes_a_second)
    latency = cluster.inside_seconds * math.log2(min(gpus, cluster.gpus_per_node)) + cluster.between_seconds * math.log2(nodes)
    return latency + (0.0 if overlapped else times * (gpus - 1) / gpus * nbytes / bandwidth)


def step(work: Work, cluster: ClusterConfig, gpus: int) -> Step:
    """One optimizer step of so many GPUs."""
    own = work.batch if work.grows else work.batch / gpus
    every = own * gpus
    nodes = math.ceil(gpus / cluster.gpus_per_node)
    computing = work.compute.seconds(own)
    gathering = sum(collective_seconds(cluster, gpus, every * work.dim * FLOAT_BYTES) for _ in range(work.tensors if work.dim else 0))
    gathering += work.small_collectives * collective_seconds(cluster, gpus, 8)
    exchanging = collective_seconds(cluster, gpus, FLOAT_BYTES * work.parameters, times=2, overlapped=work.overlapped)
    if work.stage == 3:  # all weights, forward and backward
        exchanging += collective_seconds(cluster, gpus, FLOAT_BYTES * work.parameters + work.frozen_bytes, times=2)
    on_node = min(gpus, cluster.gpus_per_node)
    kept = work.study_bytes <= cluster.memory_bytes
    reads = cluster.memory_bytes_a_second if kept else cluster.disk_bytes_a_second / on_node
    share = fitted_waiting() if cluster.waiting_share is None else cluster.waiting_share
    return Step(
        computing=computing,
        comparing=work.compute.pair_seconds * own * every if work.dim else 0.0,
        gathering=gathering,
        exchanging=exchanging,
        waiting=share * (math.sqrt(nodes) - 1) * computing,
        reading=own * work.sample_bytes / reads,
        samples=round(every),
    )


@dataclass(frozen=True, kw_only=True)
class Interruptions:
    """What they cost a run."""

    hours_between: float
    checkpoint_every_seconds: float
    lost_share: float
    """Of all time: checkpoints, steps that are repeated, restarts."""


def interruptions(parameters: float, cluster: ClusterConfig, gpus: int) -> Interruptions:
    """With the interval at which checkpoints and repeated steps cost the same: the root of 2 x checkpoint x time between (Young 1974)."""
    between = cluster.hours_between_failures * 3600 / gpus
    write = STATE_BYTES * parameters / cluster.write_bytes_a_second + 1.0  # and a second to hash, to seal, to meet
    every = math.sqrt(2 * write * between)
    lost = write / every + (every / 2 + cluster.restart_seconds) / between
    return Interruptions(hours_between=between / 3600, checkpoint_every_seconds=every, lost_share=lost)


# ---------------------------------------------------------------------------------------------------------- what others have published


@dataclass(frozen=True, kw_only=True)
class Published:
    """Samples a second by GPUs, as others measured them, and what is known of their runs."""

    name: str
    source: str
    gpus: tuple[int, ...]
    samples_a_second: tuple[float, ...]
    batch: int
    """Of one GPU."""
    parameters: float
    dim: int
    cluster: ClusterConfig

    @property
    def work(self) -> Work:
        """As ours: what a node of theirs computes is taken from their first figure."""
        seconds = self.batch * self.gpus[0] / self.samples_a_second[0]
        compute = ComputeConfig(fixed_seconds=0.0, sample_seconds=seconds / self.batch)
        return Work(
            name=self.name,
            parameters=self.parameters,
            compute=compute,
            batch=self.batch,
            grows=True,
            dim=self.dim,
            tensors=4,
            overlapped=True,
        )

    def efficiencies(self) -> Iterator[tuple[int, float]]:
        """(GPUs, share of linear scaling from the first figure)."""
        for gpus, found in zip(self.gpus, self.samples_a_second, strict=True):
            yield gpus, found / gpus / (self.samples_a_second[0] / self.gpus[0])

    def predicted(self, cluster: ClusterConfig) -> Iterator[tuple[int, float]]:
        """The same by the model."""
        first = step(self.work, cluster, self.gpus[0]).samples_a_second / self.gpus[0]
        for gpus in self.gpus:
            yield gpus, step(self.work, cluster, gpus).samples_a_second / gpus / first


_NDR200 = ClusterConfig(gpus_per_node=4, inside_bytes_a_second=0.8 * 450e9, between_bytes_a_second=0.8 * 4 * 25e9)
_A100 = ClusterConfig(inside_bytes_a_second=0.8 * 300e9, between_bytes_a_second=0.8 * 8 * 25e9)
_H100 = ClusterConfig()
_CLAP = "github.com/LAION-AI/open-clap-scaling"
_NEMO = "docs.nvidia.com/nemo-framework/user-guide/latest/multimodalmodels/visionlanguagefoundation/clip/perf.html"
CLAP_TINY = Published(
    name="CLAP, HTSAT-tiny, GH200",
    source=_CLAP,
    gpus=(4, 8, 16, 32, 64, 128, 256, 512),
    samples_a_second=(2495, 4966, 9865, 19572, 38512, 75008, 146767, 278833),
    batch=616,
    parameters=156e6,  # RoBERTa-base 125 M and HTS-AT 31 M, by their papers
    dim=512,
    cluster=_NDR200,
)
"""The one that waiting is fitted to."""
PUBLISHED = (
    CLAP_TINY,
    Published(
        name="CLAP, HTSAT-base, GH200",
        source=_CLAP,
        gpus=(4, 8, 16, 32, 64, 128, 256, 512),
        samples_a_second=(2153, 4244, 8379, 16701, 32502, 64691, 124245, 232876),
        batch=416,
        parameters=200e6,  # assumed
        dim=512,
        cluster=_NDR200,
    ),
    Published(
        name="NeMo CLIP g/14, DGX A100",
        source=_NEMO,
        gpus=(8, 16, 32, 64, 128),
        samples_a_second=(559, 1115, 2190, 4407, 8633),
        batch=80,  # assumed: open_clip's for this model
        parameters=1.37e9,
        dim=1024,
        cluster=_A100,
    ),
    Published(
        name="NeMo CLIP g/14, DGX H100",
        source=_NEMO,
        gpus=(8, 16, 32, 64, 128),
        samples_a_second=(935, 1795, 3502, 6771, 13829),
        batch=80,
        parameters=1.37e9,
        dim=1024,
        cluster=_H100,
    ),
    Published(
        name="open_clip ViT-L/14, global batch 86,016",
        source="github.com/LAION-AI/scaling-laws-openclip, trained_models_info.csv at 652b1e7",
        gpus=(768, 1024),
        samples_a_second=(60327.9, 79116.3),
        batch=84,
        parameters=428e6,
        dim=768,
        cluster=replace(_A100, gpus_per_node=4, between_bytes_a_second=0.8 * 4 * 25e9),
    ),
)


def fitted_waiting() -> float:
    """:attr:`ClusterConfig.waiting_share`, by least squares on the steps of :data:`CLAP_TINY`: the only constant that is fitted."""
    above = below = 0.0
    alone = replace(CLAP_TINY.cluster, waiting_share=0.0)
    first = step(CLAP_TINY.work, alone, CLAP_TINY.gpus[0])
    for gpus, found in zip(CLAP_TINY.gpus, CLAP_TINY.samples_a_second, strict=True):
        own = step(CLAP_TINY.work, alone, gpus)
        unexplained = CLAP_TINY.batch * gpus / found - first.computing - (own.seconds - first.seconds)
        basis = (math.sqrt(gpus / CLAP_TINY.cluster.gpus_per_node) - 1) * own.computing
        above, below = above + basis * unexplained, below + basis * basis
    return above / below


# ------------------------------------------------------------------------------------------------------------------------ what is printed

TSCONV = ComputeConfig(fixed_seconds=0.010, sample_seconds=1e-6)
"""Assumed, as no GPU was measured: 10 ms of kernels that are started, and 4.85 MFLOP (measured) a sample at 5 TFLOP/s."""
ENCODER = ComputeConfig(fixed_seconds=0.020, sample_seconds=2.6e-4)
"""Assumed: 86 M parameters, 200 tokens, 6 operations each, at 400 TFLOP/s (two fifths of an H100's bf16)."""
ADAPTER = ComputeConfig(fixed_seconds=0.030, sample_seconds=1.0e-2, pair_seconds=0.0)
"""Assumed: 8 B frozen parameters, 128 tokens a caption, 4 operations each, at 400 TFLOP/s."""


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """What the tables are made for; your own constants come from ``python -m tests.benchmarks.bench_scaling`` and ``launch doctor``."""

    compute: ComputeConfig = TSCONV
    """Of ``things_tsconv`` on one device."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Yours; the default is a cluster of DGX H100."""


def works(compute: ComputeConfig = TSCONV) -> tuple[Work, ...]:
    """What the tables are about."""
    caption = Work(
        name="LoRA on 8 B parameters (bf16), 8 captions a GPU, ZeRO 2",
        parameters=42e6,
        compute=ADAPTER,
        batch=8,
        grows=True,
        dim=0,
        frozen_bytes=16e9,
        stage=2,
    )
    return (
        Work(name="`things_tsconv`, global batch 1,024", parameters=415_433, compute=compute, batch=1024, grows=False),
        Work(name="`things_tsconv`, 1,024 samples a GPU", parameters=415_433, compute=compute, batch=1024, grows=True),
        Work(
            name="an encoder of 86 M parameters, 256 samples a GPU, 2 TB of shards",
            parameters=86e6,
            compute=ENCODER,
            batch=256,
            grows=True,
            study_bytes=2e12,
        ),
        caption,
        replace(caption, name="the same at ZeRO 3", stage=3),
    )


def tables(config: ScalingConfig) -> str:
    """All tables, as Markdown."""
    parts = [table_of_steps(work, config.cluster) for work in works(config.compute)]
    return "\n\n".join([*parts, table_of_interruptions(config.cluster), table_of_published(PUBLISHED)])


def table_of_steps(work: Work, cluster: ClusterConfig) -> str:
    """A row for each number of GPUs."""
    one = step(work, cluster, 1).samples_a_second
    rows = []
    for gpus in GPUS:
        found = step(work, cluster, gpus)
        parts = (found.computing, found.comparing, found.gathering, found.exchanging, found.waiting, found.reading)
        times = [f"{seconds * 1e3:.2f}" for seconds in (found.seconds, *parts)]
        rows.append([f"{gpus:,}", *times, f"{found.samples_a_second:,.0f}", f"{100 * found.samples_a_second / gpus / one:.0f} %"])
    head = ["GPUs", "step, ms", "computing", "comparing", "gathering", "exchanging", "waiting", "reading", "samples/s", "of linear"]
    return f"**{work.name}**\n\n{_markdown(head, rows)}"


def table_of_interruptions(cluster: ClusterConfig) -> str:
    """For a small and a large model."""
    rows = []
    for gpus in GPUS:
        small, large = (interruptions(parameters, cluster, gpus) for parameters in (415_433, 86e6))
        row = [f"{gpus:,}", f"{small.hours_between:,.0f} h"]
        for found in (small, large):
            row += [f"{found.checkpoint_every_seconds / 60:.0f} min", f"{100 * found.lost_share:.2f} %"]
        rows.append(row)
    head = ["GPUs", "between interruptions", "0.4 M: a checkpoint every", "time lost", "86 M: a checkpoint every", "time lost"]
    return f"**Interruptions**\n\n{_markdown(head, rows)}"


def table_of_published(published: Sequence[Published]) -> str:
    """Share of linear scaling, published and by the model."""
    rows = []
    for one in published:
        for (gpus, found), (_, model) in zip(one.efficiencies(), one.predicted(one.cluster), strict=True):
            if gpus > one.gpus[0]:
                rows.append([one.name, f"{gpus:,}", f"{100 * found:.1f} %", f"{100 * model:.1f} %", f"{100 * (model - found):+.1f}"])
    return f"**Held against published figures**\n\n{_markdown(['run', 'GPUs', 'published', 'model', 'difference'], rows)}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(map(str, row))} |" for row in rows)]
    return "\n".join(lines)


def run(config: ScalingConfig) -> None:
    """``python -m launch scaling``: print the tables."""
    print(tables(config))
