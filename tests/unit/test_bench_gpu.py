"""Arithmetic of the GPU benchmark; ``--device cpu --shape tiny`` rehearses the rest of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.benchmarks import bench_gpu, gpu_llm
from tests.benchmarks.gpu_llm import SHAPES, make_items
from tests.benchmarks.gpu_sides import Measured, Setting, Transformers, dataset_rows

CPU = torch.device("cpu")


def test_parameters_are_those_of_the_model() -> None:
    assert sum(gpu_llm.matrix_parameters(SHAPES["8b"])) == 8_030_261_248  # Llama-3-8B's
    llm = gpu_llm.make_base(SHAPES["tiny"], CPU, four_bit=False)
    assert sum(gpu_llm.matrix_parameters(SHAPES["tiny"])) == sum(p.numel() for p in llm.parameters())
    assert {p.dtype for p in llm.parameters()} == {torch.bfloat16}


def test_flops_are_4_a_parameter_and_token_without_the_embedding_table() -> None:
    shape = SHAPES["8b"]
    layers, head, table = gpu_llm.matrix_parameters(shape)
    assert gpu_llm.flops(shape, 10) == 40 * (8_030_261_248 - table)
    assert gpu_llm.flops(shape, 10, 3) == 40 * layers + 12 * head


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA GeForce RTX 4090", 165e12), ("GPU 7", 5e12)]
)
def test_peak_is_by_the_cards_name_or_measured(monkeypatch: pytest.MonkeyPatch, name: str, peak: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(gpu_llm, "matmul_flops", lambda _: 5e12)
    found, source = gpu_llm.peak_flops(torch.device("cuda", 0))
    assert found == peak
    assert source.startswith("measured" if name == "GPU 7" else "data sheet")


def test_items_fill_their_rows() -> None:
    items = make_items(SHAPES["8b"], 4, seed=1)
    rows = items.build()
    assert rows.ids_ML.shape == (4, 2048)
    assert items.num_supervised == rows.num_tokens
    assert 0.95 < items.num_tokens / rows.ids_ML.numel() <= 1
    assert make_items(SHAPES["8b"], 4, seed=1).targets == items.targets


def test_both_sides_see_the_same_rows() -> None:
    items = make_items(SHAPES["tiny"], 2, seed=0)
    rows, theirs = items.build(), dataset_rows(items)
    assert len(theirs) == 2
    width = rows.ids_ML.shape[1]
    for position, label in zip(rows.target_T.tolist(), rows.label_T.tolist(), strict=True):
        row, column = divmod(position, width)
        if column + 1 < width:
            assert theirs[row]["labels"][column + 1] == label
    assert all(torch.equal(one["position_ids"], rows.position_ML[number]) for number, one in enumerate(theirs))


def measured(rows: int, memory: float = 0.0, *, seconds: float = 1.0, retried: bool = False) -> Measured:
    return Measured(rows=rows, seconds=seconds, tokens=1000, supervised=300, loss=1.0, memory_bytes=int(memory), retried=retried)


def card(capacity: float, base: float, row: Callable[[int], float], tight: int = 999) -> tuple[Callable[[int], Measured | None], list[int]]:
    tried: list[int] = []

    def measure(rows: int) -> Measured | None:
        tried.append(rows)
        used = base + row(rows)
        return None if used > capacity else measured(rows, used, retried=rows >= tight)

    return measure, tried


def test_the_largest_micro_batch_is_found_by_trial() -> None:
    measure, tried = card(100, 20, lambda rows: 10.0 * rows)
    assert gpu_llm.largest_rows(measure, 100, 64) == 7
    assert tried == [1, 2, 7]
    measure, tried = card(100, 20, lambda rows: 10.0 * rows + 2.0 * (rows > 4))  # more than two rows predict
    assert gpu_llm.largest_rows(measure, 101, 64) == 7
    measure, tried = card(100, 20, lambda rows: 10.0 * rows + rows**2)
    found = gpu_llm.largest_rows(measure, 100, 64)
    assert 20 + 10 * found + found**2 <= 100 < 20 + 10 * (found + 1) + (found + 1) ** 2
    assert gpu_llm.largest_rows(card(100, 20, lambda rows: 10.0 * rows, tight=6)[0], 100, 64) == 5
    assert gpu_llm.largest_rows(card(100, 0, lambda rows: float(rows))[0], 100, 16) == 16
    assert gpu_llm.largest_rows(card(35, 20, lambda rows: 10.0 * rows)[0], 35, 16) == 1
    with pytest.raises(RuntimeError, match="single row"):
        gpu_llm.largest_rows(card(25, 20, lambda rows: 10.0 * rows)[0], 25, 16)


def bench(tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> bench_gpu.Bench:
    monkeypatch.setattr(gpu_llm, "peak_flops", lambda _: (1e15, "data sheet of X"))  # no card is here to be asked
    options = bench_gpu.parse(["--device", device, "--output", str(tmp_path / "bench_gpu.json")])
    return bench_gpu.Bench(options, tmp_path)


def side(name: str, *, tokens_per_second: list[float], compiled: float = 0.0, fit: int = 99) -> type:
    """A trainer that runs at the given speeds, one a time that it is built, and when its layers are compiled at that one."""
    speeds = iter(tokens_per_second)

    class Side:
        attention = "sdpa"

        def __init__(self, shape: gpu_llm.Shape, setting: Setting, device: torch.device, folder: Path) -> None:
            self.speed = compiled if setting.compile else next(speeds)

        def measure(self, rows: int, warm: int, steps: int) -> Measured:
            if rows > fit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return measured(rows, 2**20 * rows, seconds=1000 / self.speed)

        def close(self) -> None:
            pass

    Side.name = name  # type: ignore[attr-defined]
    return Side


@pytest.mark.long
def test_rows_are_of_the_fastest_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench(tmp_path, "cpu", monkeypatch)
    ours = side("trainer", tokens_per_second=[300.0, 330.0], compiled=660.0)
    theirs = side(Transformers.name, tokens_per_second=[220.0, 200.0])
    found.sides = SimpleNamespace(Setting=Setting, Ours=ours, Transformers=theirs)  # type: ignore[assignment]

    def read(ending: str) -> dict[str, Any]:
        (row,) = (row for row in json.loads((tmp_path / "bench_gpu.json").read_text()) if ending in row["name"])
        return row

    found.side_by_side(False)  # two rounds: the faster one of each counts
    assert (read(": throughput (bf16)")["value"], read(": throughput (bf16)")["peer_value"]) == pytest.approx((330, 220))
    assert read("throughput over")["value"] == pytest.approx(1.5)
    assert read("largest micro-batch")["value"] == 2
    before = len(found.rows)
    found.compiled(False)
    assert len(found.rows) == before
    assert read("throughput over")["value"] == pytest.approx(3.0)
    assert read(": throughput (bf16, compiled layers)")["value"] == pytest.approx(660)

    slow = bench(tmp_path, "cpu", monkeypatch)
    ours = side("trainer", tokens_per_second=[300.0] * 9, compiled=100.0, fit=1)
    slow.sides = SimpleNamespace(Setting=Setting, Ours=ours, Transformers=side("peer", tokens_per_second=[220.0] * 9))  # type: ignore[assignment]
    slow.side_by_side(False)
    slow.compiled(False)
    assert read(": throughput (bf16)")["value"] == pytest.approx(300), "layers that are slower when compiled do not count"
    assert (read("largest micro-batch")["value"], read("largest micro-batch")["peer_value"]) == (1, 2)


def test_only_a_card_is_held_to_the_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds_a_share, holds in ((0.38, False), (0.42, True)):
        found = bench(tmp_path, "cuda", monkeypatch)
        seconds = 1000 * 4 * 7.505e9 / 1e15 / seconds_a_share
        found.results[False] = bench_gpu.Result(setting=Setting(), ours=measured(4, seconds=seconds), theirs=measured(2, seconds=seconds))
        found.compare(False)
        names = {row["name"].rsplit(": ", 1)[-1].split(",")[0]: row for row in found.rows}
        assert names["model FLOP utilisation"]["value"] == pytest.approx(seconds_a_share, rel=1e-3)
        assert (names["model FLOP utilisation"]["holds"], names["model FLOP utilisation"]["target"]) == (holds, 0.4)
        assert names[f"throughput over that of {Transformers.name}"]["holds"] is True


def test_a_part_that_fails_is_a_broken_promise_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench(tmp_path, "cuda", monkeypatch)

    def fail() -> None:
        raise RuntimeError("no kernel image")

    assert not found.attempt("part", 1.0, fail)
    assert found.rows[0]["holds"] is False
    assert "no kernel image" in (tmp_path / "bench_gpu.json").read_text()
    assert not found.attempt("long", 1e9, lambda: None)
    assert len(found.rows) == 1


def test_without_cuda_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_gpu.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: bench-gpu needs a CUDA device")
    assert error.count("\n") == 1


@pytest.mark.long
def test_a_tiny_model_is_tuned_by_transformers(tmp_path: Path) -> None:
    side = Transformers(SHAPES["tiny"], Setting(), CPU, tmp_path)
    found: Any = side.measure(1, 1, 2)
    assert (found.rows, found.tokens > 300, found.seconds > 0) == (1, True, True)
    side.close()
