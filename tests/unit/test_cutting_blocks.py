"""Trials are cut some hundred at a time: how many changes no bit of what stays and of what is lost."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.studies.cutting import CuttingConfig, cut


@pytest.mark.parametrize("band_hz", [None, (1.0, 30.0)])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, band_hz: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(0)
    eeg_CT = 10 * rng.standard_normal((3, 4000))
    eeg_CT[1, 900:1000] = 4.0  # stuck
    eeg_CT[0, 2010] = 900.0  # loud
    onsets = np.array([3, *range(100, 3900, 61), 3990])
    config = CuttingConfig(
        band_hz=band_hz, tmin=-0.1, tmax=0.4, resample_hz=80.0, baseline_seconds=(-0.1, 0.0), reject_microvolts=200.0, rail_microvolts=800.0
    )
    found = []
    for at_once in (1, 7, 1000):
        monkeypatch.setattr("data_prep.studies.cutting._TRIALS_AT_ONCE", at_once)
        found.append(cut(eeg_CT.copy(), ["A", "B", "C"], 100.0, onsets, config, breaks=(2500,)))
    assert found[0].lost == found[2].lost
    assert min(found[0].lost[reason] for reason in ("incomplete", "across_a_break", "flat", "rejected")) > 0
    for each in found[1:]:
        np.testing.assert_array_equal(each.eeg_BCT, found[0].eeg_BCT)
        np.testing.assert_array_equal(each.onset_B, found[0].onset_B)
        assert each.quality_B == found[0].quality_B
    monkeypatch.undo()
    assert cut(eeg_CT.copy(), ["A", "B", "C"], 100.0, np.zeros(0, np.int64), config).eeg_BCT.shape == (0, 3, 40)
