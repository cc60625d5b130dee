"""Readers of studies, one file a format; importing the package lets configs name each by its class name alone."""

from data_prep.studies import muse, things

__all__ = ["muse", "things"]
