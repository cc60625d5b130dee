"""MLflow's client on a store that is there: an SQLite file is made once, whole, by whoever comes first, and follows its folder.

::

    mlflow.db  mlflow.db.lock  mlartifacts/EXPERIMENT/RUN/artifacts/...

MLflow itself makes its tables in the open, so that of two processes that begin together one finds half of them; and it writes absolute
paths of artifacts, which a folder that is moved or copied leaves behind. Every command of ours comes in by :func:`open_store`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.lock import first_come
from data_prep.contract.secrets import masked
from data_prep.contract.words import short
from trainer.training.tracking import ARTIFACTS, quiet_mlflow, sqlite_file, sqlite_uri

BESIDE = "eegvision.artifacts"
"""Tag of an experiment whose artifacts lie beside the database, wherever that is: its value is ``beside``."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""What MLflow's pages call model training."""
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's tables that say where artifacts lie."""
_OWN = re.compile(rf"(?P<root>file:///.*/{ARTIFACTS})(/\d+)?")


class DeletedExperimentError(CommandError):
    """Somebody has deleted the experiment; waiting does not help."""


def open_store(uri: str, timeout_seconds: int) -> Any:
    """MLflow's client for a tracking URI, tracking and registry alike; a database that is an SQLite file is made if it is missing.

    Parameters
    ----------
    timeout_seconds
        Longest wait for one answer of a server; one retry.
    """
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout_seconds)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    with quiet_mlflow():
        from mlflow import MlflowClient
    settle(uri)
    _forget_places()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def settle(uri: str) -> None:
    """Make the SQLite file of ``uri`` if it is missing, and let its artifacts be where it is; other stores see to that themselves.

    Raises
    ------
    CommandError
        What is there is no SQLite database.
    """
    database = sqlite_file(uri)
    if database is None:
        return
    if database.is_file() and not os.access(database.absolute().parent, os.W_OK):
        return  # to be read only
    database.parent.mkdir(parents=True, exist_ok=True)
    with first_come(database.with_name(f"{database.name}.lock")):
        _sweep(database)
        try:
            if not database.exists() or not database.stat().st_size:
                _make(database)
            _follow(database)
        except sqlite3.DatabaseError as error:
            raise CommandError(f"tracking_uri: {database}: {error}, expected an SQLite database of MLflow's") from error


def experiment_id(client: Any, name: str, uri: str) -> str:
    """The experiment of that name, made if missing, by whichever process comes first.

    Raises
    ------
    DeletedExperimentError
        Its name stays taken.
    """
    from mlflow.exceptions import MlflowException

    database = sqlite_file(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        root = None if database is None else artifacts_of(database).as_uri()
        tags = KIND if root is None else KIND | {BESIDE: "beside"}
        try:
            return str(client.create_experiment(name, artifact_location=root, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise DeletedExperimentError(
            f"mlflow.experiment: {name!r} is deleted in {masked(uri)}, expected one that is not: give another name, or bring it "
            f"back by `mlflow experiments restore --experiment-id {found.experiment_id}` with MLFLOW_TRACKING_URI set"
        )
    return str(found.experiment_id)


def living_run(client: Any, run_id: str) -> Any:
    """The run of that id; None: there is none any more, or it is deleted."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return found if found.info.lifecycle_stage == "active" else None


def said_of(error: Exception) -> str:
    """A fault of tracking for a line: of ours the sentence, of MLflow's and others' the kind as well."""
    return short(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}", 400)


def artifacts_of(database: Path) -> Path:
    """Folder of the artifacts that belong to an SQLite file."""
    return database.absolute().parent / ARTIFACTS


def _forget_places() -> None:
    # MLflow remembers by a run's id alone where its artifacts lie: in another store, or a moved one, it is another place.
    from mlflow.tracking._tracking_service import utils

    getattr(utils, "_artifact_repos_cache", {}).clear()


def _sweep(database: Path) -> None:
    """Take away what a kill has left of databases that were not whole; whoever makes one has the lock."""
    ours = re.compile(rf"\.{re.escape(database.name)}\.[0-9a-f]{{32}}\.new(-journal|-wal|-shm)?")
    for path in database.absolute().parent.iterdir():
        if ours.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def _make(database: Path) -> None:
    # Under another name until it is whole: a process that is killed meanwhile leaves no half of a database under this one.
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = database.absolute().with_name(f".{database.name}.{uuid.uuid4().hex}.new")
    try:
        store = SqlAlchemyStore(sqlite_uri(new), artifacts_of(database).as_uri())
        store.engine.dispose()
        os.replace(new, database)
    finally:
        new.unlink(missing_ok=True)


def _follow(database: Path) -> None:
    """Where the folder has been moved or copied, let what the database says of places say the present ones."""
    root = artifacts_of(database).as_uri()
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        try:
            for old in _left_behind(connection, root):
                with connection:
                    for table, column in _PLACES:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                            (root, len(old) + 1, old, len(old) + 1, f"{old}/"),
                        )
        except sqlite3.OperationalError as error:  # of another version of MLflow: it will say so itself
            logging.getLogger("mlflow").warning("%s: places of artifacts not looked at: %s", database, error)


def _left_behind(connection: sqlite3.Connection, root: str) -> list[str]:
    """Other places that the database takes for the folder beside it. Of an experiment without our tag only one that is no more."""
    query = (
        "SELECT DISTINCT artifact_location, EXISTS (SELECT 1 FROM experiment_tags AS t WHERE t.experiment_id = e.experiment_id "
        "AND t.key = ? AND t.value = 'beside') FROM experiments AS e WHERE artifact_location IS NOT NULL"
    )
    found = []
    for location, tagged in connection.execute(query, (BESIDE,)):
        match = _OWN.fullmatch(str(location))
        if match and match["root"] != root and (tagged or not Path(url2pathname(urlsplit(match["root"]).path)).is_dir()):
            found.append(match["root"])
    return list(dict.fromkeys(found))
