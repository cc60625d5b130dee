"""Recordings in the formats that laboratories have, small, each written by a library that we do not read with, or byte by byte.

All hold the same: noise of 10 µV, an impulse of 100 µV in the first channel at every onset, and onsets of ``left`` and ``right`` in turn.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.matlab_5 import save_eeglab_struct
from tests.helpers.matlab_73 import write_struct

CH_NAMES = ("Fz", "Cz", "Oz")
SFREQ = 250.0
SECONDS = 12
ONSETS = tuple(250 * second + 25 for second in range(1, SECONDS - 1))
"""Time points."""
NAMES = ("left", "right")
CODES = (1, 2)


def signal(seed: int = 0, *, n_chans: int = 3, sfreq: float = SFREQ, onsets: tuple[int, ...] = ONSETS) -> np.ndarray:
    """float64 (C, T), microvolts."""
    eeg_CT = np.random.default_rng(seed).normal(0, 10, (n_chans, round(SECONDS * sfreq)))
    eeg_CT[0, list(onsets)] = 100.0
    return np.round(eeg_CT, 2)


def shown(i: int) -> str:
    """Name of event ``i``."""
    return NAMES[i % 2]


def write_edf(
    file: Path,
    eeg_CT: np.ndarray,
    ch_names: tuple[str, ...] = CH_NAMES,
    sfreq: float = SFREQ,
    *,
    more: Any = (),
    bdf: bool = False,
    unit: str = "uV",
    marks: bool = True,
) -> Path:
    """EDF+ or BDF+ with annotations (``marks``), by edfio; ``more`` are signals besides."""
    import edfio

    signal_kind, file_kind = (edfio.BdfSignal, edfio.Bdf) if bdf else (edfio.EdfSignal, edfio.Edf)
    limits = {"physical_range": (-500.0, 500.0)}
    signals = [signal_kind(row, sfreq, label=name, physical_dimension=unit, **limits) for name, row in zip(ch_names, eeg_CT, strict=True)]
    notes = [edfio.EdfAnnotation(onset / SFREQ, None, shown(i)) for i, onset in enumerate(ONSETS if marks else ())]
    file_kind([*signals, *more], annotations=notes).write(file)
    return file


def write_brainvision(file: Path, eeg_CT: np.ndarray, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ) -> Path:
    """BrainVision by pybv: ``Stimulus/S  1`` and ``Stimulus/S  2``."""
    import pybv

    events = [{"onset": onset, "duration": 1, "description": CODES[i % 2], "type": "Stimulus"} for i, onset in enumerate(ONSETS)]
    pybv.write_brainvision(
        data=1e-6 * eeg_CT,
        sfreq=sfreq,
        ch_names=list(ch_names),
        fname_base=file.stem,
        folder_out=file.parent,
        events=events,
        unit="µV",
        fmt="binary_float32",
        overwrite=True,
    )
    return file.with_suffix(".vhdr")


def write_csv(file: Path, eeg_CT: np.ndarray, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ, *, scale: float = 1.0) -> Path:
    """Columns ``time``, the channels and ``stim``; ``scale`` multiplies the times."""
    codes = np.zeros(eeg_CT.shape[1], int)
    codes[list(ONSETS)] = [CODES[i % 2] for i in range(len(ONSETS))]
    lines = [",".join(("time", *ch_names, "stim"))]
    for point, row in enumerate(eeg_CT.T):
        lines.append(",".join((f"{scale * (1e6 + point / sfreq):.4f}", *(f"{value:.2f}" for value in row), str(codes[point]))))
    file.write_text("\n".join(lines) + "\n")
    return file


def eeglab_struct(
    eeg_CT: np.ndarray, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ, *, more: Sequence[dict[str, str]] = ()
) -> dict[str, Any]:
    """EEGLAB's structure: stimuli are of type ``square``, their side stands in a field of its own; ``more`` are other fields of theirs."""
    n_chans, n_times = eeg_CT.shape
    events = [{"type": "square", "side": shown(i), "latency": onset + 1.0, "urevent": i + 1} for i, onset in enumerate(ONSETS)]
    events += [{"type": "rt", "side": "", "latency": onset + 100.0, "urevent": 99} for onset in ONSETS[:3]]
    events = [event | (dict(more[i]) if i < len(more) else dict.fromkeys(more[0], "")) if more else event for i, event in enumerate(events)]
    places = [{"labels": name, "X": 0.1 * i, "Y": 0.02, "Z": 0.9} for i, name in enumerate(ch_names)]
    facts = {"setname": "s", "nbchan": n_chans, "trials": 1, "pnts": n_times, "srate": sfreq, "xmin": 0.0, "xmax": (n_times - 1) / sfreq}
    return {
        **facts,
        "data": eeg_CT.astype(np.float32),
        "event": events,
        "chanlocs": places,
        "epoch": [],
        "ref": "common",
        "icaweights": [],
        "icawinv": [],
    }


def write_eeglab(
    file: Path,
    eeg_CT: np.ndarray,
    ch_names: tuple[str, ...] = CH_NAMES,
    sfreq: float = SFREQ,
    *,
    more: Sequence[dict[str, str]] = (),
    fdt: bool = False,
) -> Path:
    """A ``.set`` as MATLAB 5 saves it; with ``fdt`` its numbers lie in a file of their own."""

    content = eeglab_struct(eeg_CT, ch_names, sfreq, more=more)
    if fdt:
        file.with_suffix(".fdt").write_bytes(eeg_CT.T.astype("<f4").tobytes())
        content["data"] = f"{file.stem}.fdt"
    return save_eeglab_struct(file, content, ("event", "chanlocs"))


def write_fif(file: Path, eeg_CT: np.ndarray, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ) -> Path:
    """FIF with a date, a first sample that is not 0, annotations and a stim channel with an offset bit while nothing happens."""
    import mne

    stim_T = np.full(eeg_CT.shape[1], 64.0)
    for i, onset in enumerate(ONSETS):
        stim_T[onset : onset + 20] = 64 + CODES[i % 2]
    info = mne.create_info([*ch_names, "STI 014"], sfreq, ["eeg"] * len(ch_names) + ["stim"], verbose="error")
    raw = mne.io.RawArray(np.vstack([1e-6 * eeg_CT, stim_T]), info, first_samp=1000, verbose="error")
    raw.set_meas_date(1_600_000_000)
    onset = [point / sfreq + 1000 / sfreq for point in ONSETS]
    raw.set_annotations(mne.Annotations(onset, 0.0, [shown(i) for i in range(len(ONSETS))], orig_time=raw.info["meas_date"]))
    raw.save(file, verbose="error")
    return file


# ------------------------------------------------------------------------------------------------------------- XDF


def write_xdf(
    file: Path, eeg_CT: np.ndarray, *, nominal: float = SFREQ, effective: float = SFREQ, jump_at: int | None = None, jump: float = 5.0
) -> Path:
    """XDF byte by byte: an EEG stream after one without samples, and markers; clocks jump by ``jump`` seconds at a point on request."""
    times_T = 100.0 + np.arange(eeg_CT.shape[1]) / effective
    if jump_at is not None:
        times_T[jump_at:] += jump
    chunks = [b"XDF:", _chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>")]
    labels = "".join(f"<channel><label>{name}</label><unit>microvolts</unit><type>EEG</type></channel>" for name in CH_NAMES)
    described = f"<desc><channels>{labels}</channels></desc>"
    for number, name, kind, count, rate, form, desc in (
        (1, "Empty", "EEG", 3, nominal, "float32", ""),
        (2, "Events", "Markers", 1, 0, "string", ""),
        (3, "Amplifier", "EEG", 3, nominal, "float32", described),
    ):
        text = f"<?xml version='1.0'?><info><name>{name}</name><type>{kind}</type><channel_count>{count}</channel_count>"
        text += f"<nominal_srate>{rate}</nominal_srate><channel_format>{form}</channel_format><uid>{number}</uid>{desc}</info>"
        chunks.append(_chunk(2, struct.pack("<I", number) + text.encode()))
    rows = b"".join(b"\x08" + struct.pack("<d", time) + row.astype("<f4").tobytes() for time, row in zip(times_T, eeg_CT.T, strict=True))
    chunks.append(_chunk(3, struct.pack("<I", 3) + b"\x04" + struct.pack("<I", len(times_T)) + rows))
    marks = b""
    for i, onset in enumerate(ONSETS):
        marks += b"\x08" + struct.pack("<d", times_T[onset]) + b"\x01" + bytes([len(shown(i))]) + shown(i).encode()
    chunks.append(_chunk(3, struct.pack("<I", 2) + b"\x01" + bytes([len(ONSETS)]) + marks))
    for number in (1, 2, 3):
        chunks.append(_chunk(6, struct.pack("<I", number) + b"<?xml version='1.0'?><info/>"))
    file.write_bytes(b"".join(chunks))
    return file


def _chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<I", len(content) + 2) + struct.pack("<H", tag) + content


# ------------------------------------------------------------------------------------- formats with a layout of their own


def write_eeglab_73(file: Path, eeg_CT: np.ndarray, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ) -> Path:
    """A ``.set`` as MATLAB 7.3 saves it."""
    return write_struct(file, "EEG", eeglab_struct(eeg_CT, ch_names, sfreq))


def write_neuroscan(
    file: Path, eeg_CT: np.ndarray, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ, *, wide: bool = False
) -> Path:
    """Neuroscan CNT byte by byte, 16 or 32 bits, 0.01 µV a step, event table of type 1 (MNE counts from the point after)."""
    n_chans, n_times = eeg_CT.shape
    head = bytearray(900)
    head[:12] = b"Version 3.0\0"
    head[225:243] = b"01/02/20\0\0" + b"10:11:12"
    struct.pack_into("<H", head, 370, n_chans)
    struct.pack_into("<H", head, 376, round(sfreq))
    width = 4 if wide else 2
    table = 900 + 75 * n_chans + n_chans * n_times * width
    struct.pack_into("<i", head, 864, n_times)
    struct.pack_into("<i", head, 886, table)
    struct.pack_into("<f", head, 890, n_times / sfreq)
    electrodes = b""
    for name in ch_names:
        electrode = bytearray(75)
        electrode[: len(name)] = name.encode()
        struct.pack_into("<f", electrode, 59, 1.0)  # sensitivity
        struct.pack_into("<f", electrode, 71, 0.01 * 204.8)  # calibration
        electrodes += bytes(electrode)
    data = np.round(eeg_CT.T * 100).astype("<i4" if wide else "<i2").tobytes()
    events = b"".join(
        struct.pack("<HBbi", CODES[i % 2], 0, 0, 900 + 75 * n_chans + (onset + 1) * n_chans * width) for i, onset in enumerate(ONSETS)
    )
    file.write_bytes(bytes(head) + electrodes + data + struct.pack("<Bii", 1, len(events), 0) + events)
    return file


def write_gdf(file: Path, eeg_CT: np.ndarray, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ) -> Path:
    """GDF 2.20 byte by byte: float32 signals in records of a second, event table of mode 1."""
    n_chans, n_times = eeg_CT.shape
    rate = round(sfreq)
    head = bytearray(256)
    head[:8] = b"GDF 2.20"
    struct.pack_into("<H", head, 184, 1 + n_chans)
    struct.pack_into("<q", head, 236, n_times // rate)
    struct.pack_into("<II", head, 244, 1, 1)
    struct.pack_into("<H", head, 252, n_chans)
    columns = [
        b"".join(name.encode().ljust(16, b"\0") for name in ch_names),
        bytes(80 * n_chans),
        b"uV\0\0\0\0" * n_chans,
        struct.pack("<H", 4275) * n_chans,  # microvolts
        *(struct.pack("<d", limit) * n_chans for limit in (-500.0, 500.0, -500.0, 500.0)),
        bytes((64 + 4 + 4 + 4 + 4) * n_chans),
        struct.pack("<I", rate) * n_chans,
        struct.pack("<I", 16) * n_chans,  # float32
        bytes(32 * n_chans),
    ]
    records = eeg_CT.astype("<f4").reshape(n_chans, -1, rate).transpose(1, 0, 2).tobytes()
    count = struct.pack("<I", len(ONSETS))[:3]
    points = np.array(ONSETS, "<u4") + 1
    events = (
        b"\x01"
        + count
        + struct.pack("<f", sfreq)
        + points.tobytes()
        + np.array([CODES[i % 2] for i in range(len(ONSETS))], "<u2").tobytes()
    )
    file.write_bytes(bytes(head) + b"".join(columns) + records + events)
    return file


def write_mff(folder: Path, eeg_CT: np.ndarray, sfreq: float = SFREQ) -> Path:
    """An EGI ``.mff`` folder by mffpy: channels E1, E2 ... of a HydroCel net, of which only the first ones move."""
    import datetime

    import mffpy
    from mffpy.bin_writer import BinWriter

    start = datetime.datetime(2020, 2, 1, 10, 11, 12, 1000, tzinfo=datetime.UTC)
    whole_CT = np.random.default_rng(9).normal(0, 10, (33, eeg_CT.shape[1]))
    whole_CT[: len(eeg_CT)] = eeg_CT
    signals = BinWriter(sampling_rate=round(sfreq), data_type="EEG")
    signals.add_block(whole_CT.astype(np.float32))
    writer = mffpy.Writer(str(folder))
    writer.addxml("fileInfo", recordTime=start)
    writer.add_coordinates_and_sensor_layout("HydroCel GSN 32 1.0")
    writer.addbin(signals)
    events = [
        {"beginTime": start + datetime.timedelta(seconds=onset / sfreq), "duration": 4000, "code": shown(i)}
        for i, onset in enumerate(ONSETS)
    ]
    writer.addxml("eventTrack", filename="Events_ECI.xml", name="ECI", trackType="EVNT", events=events)
    writer.write()
    return folder


def write_ant(file: Path, eeg_CT: np.ndarray, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ) -> Path:
    """ANT CNT by the amplifier maker's own library, without triggers."""
    from antio.libeep import pyeep

    channels = pyeep.create_channel_info()
    for name in ch_names:
        pyeep.add_channel(channels, name, "ref", "uV")
    handle = pyeep.write_cnt(str(file), round(sfreq), channels, 0)
    pyeep.add_samples(handle, eeg_CT.T.astype(np.float32).ravel().tolist(), len(ch_names))
    pyeep.close(handle)
    pyeep.close_channel_info(channels)
    return file
