"""Readers of studies, one file a format; importing the package lets configs name each by its class name alone."""

from data_prep.studies import (
    arrays,
    bdd,
    bids,
    eeg_clip,
    eegcvpr40,
    epochs,
    mindbigdata,
    mindbigdata_imagenet,
    mne,
    muse,
    things,
    things_raw,
)

__all__ = [
    "arrays",
    "bdd",
    "bids",
    "eeg_clip",
    "eegcvpr40",
    "epochs",
    "mindbigdata",
    "mindbigdata_imagenet",
    "mne",
    "muse",
    "things",
    "things_raw",
]
