"""Arithmetic of the GPU benchmark; ``--device cpu --shape tiny`` rehearses the rest of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
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
    monkeypatch.setattr(gpu_llm, "peak_flops", lambda _: (1e15, "data sheet of X"))
    options = bench_gpu.parse(["--device", device, "--output", str(tmp_path / "bench_gpu.json")])
    return bench_gpu.Bench(options, tmp_path)


def test_rows_are_of_the_fastest_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench(tmp_path, "cuda", monkeypatch)
    slow = 1000 * 4 * 7.505e9 / 1e15 / 0.38
    found.results[False] = bench_gpu.Result(setting=Setting(), ours=measured(4, 2**30, seconds=slow), theirs=measured(2, seconds=slow))
    found.compare(False)
    names = {row["name"].rsplit(": ", 1)[-1].split(",")[0]: row for row in found.rows}
    assert names["model FLOP utilisation"]["value"] == pytest.approx(0.38, rel=1e-3)
    assert names["model FLOP utilisation"]["holds"] is False
    assert names[f"throughput over that of {Transformers.name}"]["holds"] is True
    monkeypatch.setattr(found, "again", lambda kind, setting, rows: measured(rows, seconds=slow / 2))
    found.compiled(False)
    assert len(found.rows) == len(names)
    (utilisation,) = (row for row in found.rows if "model FLOP utilisation" in row["name"])
    assert (utilisation["holds"], utilisation["target"]) == (True, 0.4)
    assert any("compiled layers" in row["name"] for row in found.rows)


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


def test_a_tiny_model_is_tuned_by_transformers(tmp_path: Path) -> None:
    side = Transformers(SHAPES["tiny"], Setting(), CPU, tmp_path)
    found: Any = side.measure(1, 1, 2)
    assert (found.rows, found.tokens > 300, found.seconds > 0) == (1, True, True)
    side.close()
