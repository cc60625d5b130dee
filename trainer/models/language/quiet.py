"""Libraries that load models, kept from talking: nothing while all goes well, one sentence where it does not."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from data_prep.contract.cli import first_sentence
from data_prep.contract.errors import CommandError, StudyError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries that load models keep their bars and advice to themselves."""
    names = ("transformers", "bitsandbytes", "peft", "accelerate", "kernels")
    levels = {name: logging.getLogger(name).level for name in names}
    from transformers.utils import logging as hf_logging

    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


@contextlib.contextmanager
def said_once(name: str) -> Iterator[None]:
    """Errors of transformers, which explain the hub in paragraphs, as one sentence about the base ``name``."""
    try:
        yield
    except (CommandError, StudyError):
        raise
    except BaseException as error:  # a damaged file can raise anything, and what is written in Rust no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        raise CommandError(f"base.name: {name} cannot be loaded: {first_sentence(error)}") from error
