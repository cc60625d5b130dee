"""A secret in any URL is refused in configs and in nothing that is written or printed; what is none stays as it is."""

from __future__ import annotations

import json
import logging
import random
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from data_prep.contract import cli
from data_prep.contract.errors import ConfigError, set_traceback_folder
from data_prep.contract.secrets import field_with_secret, masked, masked_values, secrets_in
from data_prep.contract.terminal import Terminal
from trainer.distributed.library_log import LibraryLog
from trainer.evaluate.text.judge import JudgeConfig
from trainer.serve.command import ServeConfig
from trainer.serve.config import RegisterConfig
from trainer.training.run_folder import RunFolder
from trainer.training.tracking import MlflowConfig

ROOT = Path(__file__).parents[2]
LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def with_secret(draw: random.Random) -> tuple[str, str]:
    """A URI and the secret in it, as it is spelled there."""
    secret = "S3" + "".join(draw.choice(LETTERS + "-_.~!$*") for _ in range(draw.randrange(6, 40)))
    if draw.random() < 0.3:
        secret = quote(secret + draw.choice("@/:?# ü%"), safe="")
    host = draw.choice(["host", "10.0.0.1", "[::1]", "tracker.example.org"]) + draw.choice(["", ":5000"])
    path = draw.choice(["", "/", "/a/b.c", "/api/2.0/x@y"])
    scheme = draw.choice(["http", "https", "HTTPS", "postgresql+psycopg2", "mysql", "s3", "ftp", "git+https", "redis", "jdbc:mysql", "hf"])
    user = draw.choice(["me", "first.last", "", "a%40b"])
    name = draw.choice(
        ["token", "access_token", "api_key", "apikey", "key", "password", "PWD", "sig", "X-Amz-Signature", "client-secret", "auth"]
    )
    kind = draw.randrange(9)
    if kind == 0:
        return f"{scheme}://{user}:{secret}@{host}{path}", secret
    if kind == 1:
        return f"{draw.choice(['http', 'https', 'git+https'])}://{secret}@{host}{path}", secret
    if kind == 2:
        return f"{scheme}://{host}{path}?a=b{draw.choice('&;')}{name}={secret}{draw.choice(['', '&c=d', '#x'])}", secret
    if kind == 3:
        return f"{scheme}://{host}{path}#{name}={secret}", secret
    if kind == 4:
        inner = quote(f"http://me:{secret}@{host}", safe="")
        return f"https://{host}/go?to={inner}", quote(secret, safe="")
    if kind == 5:
        web, part = draw.choice(["http", "https", "HTTPS", "git+https", "wss"]), draw.choice(PARTS)
        before, after = draw.choice(["a", "api/v1", "accounts", "api/projects"]), draw.choice(["", "/", "/b/c", "?page=2", "#x"])
        return f"{web}://{host}/{before}/{part}{draw.choice(['/', '/', '='])}{secret}{after}", secret
    if kind == 6:
        drawn = "".join(draw.choice(LETTERS) for _ in range(12)) + "x7"
        return (
            f"{draw.choice(['s3', 'gs', 'abfss', 'ftp', 'redis'])}://{host}/a/{draw.choice(PARTS)}/{drawn}{draw.choice(['', '/b'])}",
            drawn,
        )
    if kind == 7:
        field = draw.choice(
            ["code", "sig", "X-Amz-Signature", "X-Amz-Credential", "X-Goog-Signature", "se%63ret", "key", "otp", "SAMLResponse"]
        )
        return f"{scheme}://{host}{path}?a=b&{field}={secret}{draw.choice(['', '&c=d', '#x'])}", secret
    return f"filecache::{scheme}://{user}:{secret}@{host}{path}", secret


PARTS = (
    "token",
    "tokens",
    "access_token",
    "Token",
    "api-key",
    "apikey",
    "api_keys",
    "key",
    "secret",
    "auth",
    "jwt",
    "password",
    "accessToken",
    "to%6Ben",
)
CASES = [with_secret(random.Random(seed)) for seed in range(600)]
HARMLESS = (
    *(
        "http://127.0.0.1:5000",
        "https://host/path@2x.png",
        "sqlite:////data/a@b/mlflow.db",
        "postgresql://reader@db/mlflow",
        "ssh://git@host/x",
    ),
    *(
        "s3://bucket/key=1/part?versionId=3",
        "abfss://container@account.dfs.core.windows.net/x",
        "models:/name@candidate",
        "a // b",
        "//share/x",
    ),
    *(
        "https://host:5000/a@b",
        "http://[::1]:5000/",
        "databricks://profile",
        "http://host/?monkeys=3&page=2",
        "basic sentences of one line",
    ),
    *("file:///a%20b?x#y", "me@example.org", "12:30", "the token of a class", "authorization of the board", "sk-learn", "bearer of news"),
    *("loss_per_token=1.25e-05", "pad_token: <|reserved_12|>", "password=$PASSWORD", "C:/Users/me@work/x:y"),
    *(
        "https://host/images/key/key_01b.jpg",
        "s3://bucket/things/key/monkey_dance",
        "file:///data/token/sub-01_eeg.fif",
        "s3://b/tokens/v1",
    ),
    *("https://host/monkey/business", "https://host/compass/direction", "https://host/docs/tokens/overview", "https://host/api?codec=flac"),
    *("models:/token/12", "https://host/turkey/abc123def", "https://host/a?barcode_kind=ean&status=200", "hf://datasets/me/passkeys"),
    *("http://host/?token=", "my_lab.models:MyEncoder", "configs//a.yaml", "postgresql://h/db?sslmode=require&sslkey=/etc/client.key"),
)


def test_every_generated_secret_is_found_and_masked_and_nothing_of_it_stays() -> None:
    for uri, secret in CASES:
        for text in (uri, f"Max retries for url: '{uri}' (refused)", f"a={uri}", f"<{uri}>, then"):
            assert secrets_in(text), text
            assert secret not in masked(text), text
        assert masked(masked(uri)) == masked(uri)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert secrets_in(text) == []
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abc123def456",
        "{'authorization': 'Basic dXNlcjpzZWNyZXQ5'}",
        f"repo hf_{'a1' * 12} is not there",
        f"ghp_{'x9' * 15}",
        "me:pass-word1@host:5000/x",
        "//me:pass-word1@host/x",
        "HTTPSConnectionPool(host='h', port=443): Max retries exceeded with url: /api/2.0?token=pass-word1 (Caused by",
        "host=db user=me password=pass-word1",
        "Server=db;Uid=sa;Pwd=pass-word1;",
        "AccountName=a;AccountKey=pass-word1",
        "MLFLOW_TRACKING_PASSWORD=pass-word1 python -m trainer",
        "['--api-key', 'x'] --api-key pass-word1 --token=pass-word1",
        "{'password': 'pass-word1'}",
        '{"x-api-key": "pass-word1"}',
        "X-Api-Key: pass-word1",
        "no answer from me:pass-word1@host:5000/x yet",
        "no answer from https:/me:pass-word1@host",
        f"AIza{'x9' * 17}y",
        f"nvapi-{'aB3_' * 12}",
        f"gsk_{'aB3' * 16}",
        f"xai-{'aB3' * 20}",
        f"r8_{'aB3' * 12}",
        f"pypi-AgEIcHlwaS5vcmc{'aB3' * 20}",
        f"hvs.{'aB3' * 20}",
        f"ya29.a0{'aB3' * 20}",
        f"sk_live_{'aB3' * 8}",
        f"dckr_pat_{'aB3' * 9}",
        f"glrt-{'aB3' * 7}",
        f"https://hooks.slack.com/services/T00000000/B00000000/{'X9' * 12}",
        f"https://api.telegram.org/bot123456789:{'aB3' * 11}/sendMessage",
        "Cookie: session=pass-word1; theme=dark",
        "{'Set-Cookie': 'id=pass-word1; Path=/'}",
        *(f"-----BEGIN {kind}PRIVATE KEY-----\npass-word1\nMIIE\n-----END {kind}PRIVATE KEY-----" for kind in ("", "RSA ", "OPENSSH ")),
        "key: |\n  -----BEGIN EC PRIVATE KEY-----\n  pass-word1 and cut",
    ],
)
def test_secrets_outside_of_urls_with_a_scheme(text: str) -> None:
    assert "***" in masked(text)
    assert "pass-word1" not in masked(text)
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize("name", ["password", "storage.secret_key", "x-api-key", "access_token"])
def test_a_field_whose_name_says_so_is_refused_and_masked(name: str) -> None:
    value = {"judge": {"extra": [{name: "plain word"}]}}
    assert field_with_secret(value) == f"judge.extra.{name}"
    assert "plain word" not in str(masked_values(value))
    for none in ("$PASSWORD", "", None, 3, "<|end|>"):
        assert field_with_secret({name: none}) is None


def test_long_texts_cost_no_time() -> None:
    for text in ("a" * 300_000, "/" * 20_000, "a:" * 100_000, "http" * 50_000, "?a=b" * 50_000, "cookie:a" * 40_000):
        assert masked(text) == text


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Nested."""

    remote: str = ""
    """A URL."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A config with addresses in it."""

    inner: Inner = field(default_factory=Inner)
    """Nested."""
    words: list[str] = field(default_factory=list)
    """A child's arguments."""


def test_a_config_refuses_it_wherever_it_stands_and_the_refusal_does_not_hold_it() -> None:
    for uri, secret in CASES[::50]:
        ways = [
            ({"inner": {"remote": uri}}, "inner.remote"),
            ({"inner": {"extra": {"a": {"b": [uri]}}}}, "inner.extra.a.b"),
            ({"words": ["contrastive", "--mlflow.tracking_uri", uri]}, "words"),
            ({"words": [f"--mlflow.tracking_uri={uri}"]}, "words"),
        ]
        for plain, name in ways:
            arguments = [f"--{key}={json.dumps(value)}" for key, value in plain.items()]
            with pytest.raises(ConfigError, match=f"{name}: holds a password or token") as error:
                cli.parse(Outer, arguments)
            assert secret not in str(error.value)
        with pytest.raises(ConfigError) as error:
            cli.parse(Outer, [f"--{uri}", "x"])
        assert secret not in str(error.value)


def test_trackers_and_judges_refuse_it() -> None:
    for uri, secret in CASES[::4]:
        makers: list[Any] = [
            lambda uri: MlflowConfig(tracking_uri=uri),
            lambda uri: ServeConfig(model_uri="models:/x/1", tracking_uri=uri),
            lambda uri: RegisterConfig(run="x", name="x", tracking_uri=uri),
        ]
        for make in makers:
            with pytest.raises(ValueError, match="holds a password or token") as error:
                make(uri)
            assert secret not in str(error.value)
        with pytest.raises(ValueError, match="judge") as error:
            JudgeConfig(endpoint=uri, model="m")
        assert secret not in masked(str(error.value))


def test_no_file_of_a_run_and_no_line_holds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "from-the-environment")
    log, folder = LibraryLog(), RunFolder(tmp_path)
    log.open(folder.logs / "rank-0.log")
    said = [*CASES[::5], ("401 for 'from-the-environment'", "from-the-environment")]
    for uri, _ in said:
        folder.event("fault", message=f"no answer: {uri}", facts={"tried": [uri]})
        log.handle(logging.makeLogRecord({"msg": f"GET {uri}", "levelno": logging.ERROR, "levelname": "ERROR"}))
        Terminal(stderr=True, soft_wrap=True).print(f"warning: {uri}")
        set_traceback_folder(tmp_path)
        for debug in (True, False):
            assert cli.ending(lambda uri=uri: (_ for _ in ()).throw(RuntimeError(f"cannot reach {uri}")), debug=debug) == 1  # type: ignore[misc]
    log.end()
    set_traceback_folder(None)
    output = capsys.readouterr()
    written = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    for uri, secret in said:
        assert secret not in output.out + output.err, uri
        for path, text in written.items():
            assert secret not in text, path
    for path in (folder.logs / "rank-0.log", tmp_path / "errors" / "rank-0.txt"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_launch_is_refused_before_a_child_has_it_on_its_line(tmp_path: Path) -> None:
    uri, secret = "http://me:S3cretWord@127.0.0.1:9", "S3cretWord"
    for command in ("plan", "run"):
        argv = [sys.executable, "-m", "launch", command, "--", "contrastive", "--run", str(tmp_path / "run"), "--mlflow.tracking_uri", uri]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("error: trainer_command: holds a password or token")
        assert secret not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
