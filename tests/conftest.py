"""What tests of several rooms use."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# What is drawn is the same each time; `make fuzz` looks further.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
# No test waits for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Rows of image encoders are kept for the next run: of the tests, in a folder that is theirs alone.
if "EEGVISION_EMBED_CACHE" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="eegvision-tests-")
    os.environ["EEGVISION_EMBED_CACHE"] = _CACHE.name

LONGEST_FIRST = (
    "distributed/test_text_training.py",
    "distributed/test_training.py",
    "integration/test_readme.py",
    "integration/test_seed_layouts.py",
    "integration/test_quickstart.py",
    "distributed/test_start.py",
    "integration/test_workers.py",
    "integration/test_compare_bases.py",
    "integration/test_tracking.py",
    "distributed/test_kills.py",
)
"""Files that keep a worker for a minute or so: begun last, one of them would leave the other workers without work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The same order for every worker; what is not in the list stays in its own, behind."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    _keep_what_is_imported()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    done = yield
    if nextitem is not None and nextitem.path != item.path:
        _keep_what_is_imported()
    return done


def pytest_unconfigure() -> None:
    gc.unfreeze()


def _keep_what_is_imported() -> None:
    """Let the collector pass over what libraries have made so far: with torch and transformers it takes a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def hangups_are_heard() -> Iterator[None]:
    """SIGHUP as a shell leaves it, for this process and those it starts: the suite may run under ``nohup``, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def interrupts_are_heard() -> Iterator[None]:
    """SIGINT as Python has it in a shell's foreground: a suite in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
