"""What a secret is in a text, for all who refuse it in a config or mask it in what they write: passwords and tokens of URLs, above all.

Credentials come from files or the environment, which no config, command line, log or tracker holds. :func:`secrets_in` alone decides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, unquote_plus

MASK = "***"
_SLASHES = re.compile(r"(?://|(?<=[A-Za-z]{2}:)/(?!/))(?=(?P<rest>\S{0,8192}))")  # a path makes one slash of two
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):\Z")
_LONGEST_SCHEME = 32
_BARE = re.compile(r"[^\s/@:]+:(?P<secret>[^\s/@][^\s@]*)@[A-Za-z0-9.\-]+(:\d+)?(/\S*)?")
_BARE_WITH_PORT = re.compile(r"(?<![\w/:@.+\-])[\w.+\-]{1,64}:(?P<secret>[^\s/@]{6,200})@[A-Za-z0-9.\-]{1,253}:\d{2,5}\b")
_FIELD = re.compile(r"(?<=[?&;#])(?P<name>[^=&;#\s]+)=(?P<value>[^&;#\s]+)")
_INNER = re.compile(r"(?:^|[?&;#{\s])(?P<name>[\w.\-]+)\s*=\s*(?P<value>[^&;#\s]+)")
_QUERY = re.compile(r"(?<=[?&;])(?P<name>[\w.%\-]{1,64})=(?P<value>[^&;#\s\"')]+)")
"""Fields of a URL of which an error shows only the end."""
_ASSIGNED = re.compile(
    r"""(?<![\w.%])(?P<name>[A-Za-z_][\w.\-]{0,63})["']?\s?[:=]\s?["']?(?P<value>[^\s;,&"']{6,})|--(?P<flag>[\w.\-]{1,64})\s(?P<word>[^\s"']{6,})"""
)
_HEADER = re.compile(
    r"(?:\bauthorization\W{1,5}(?:\w{1,16}\s+)?|\bbearer\s+)(?P<secret>(?=[^\s\"',]{0,200}\d)[A-Za-z0-9+/=._~\-]{8,})", re.IGNORECASE
)
_COOKIE = re.compile(r"\bcookie[\"']?\s?[:=]\s?[\"']?(?P<secret>[\w.\-]{1,64}=[^\r\n\"']{6,4096})", re.IGNORECASE)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:hf|api_org)_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,}|sk-(?=[\w\-]{0,200}\d)[\w\-]{16,}|dapi[0-9a-f]{24,}"
    r"|xox[abprs]-[\w\-]{10,}|A[KS]IA[A-Z0-9]{16}|ey[\w\-]{10,}\.ey[\w\-]{10,}\.[\w\-]+|AIza[\w\-]{35}|npm_[A-Za-z0-9]{36}|nvapi-[\w\-]{20,}|(?:gsk|r8|sk_live|rk_live|dckr_pat)_[A-Za-z0-9_\-]{16,}"
    r"|xai-[A-Za-z0-9]{20,}|pypi-[\w\-]{20,}|hvs\.[\w\-]{20,}|ya29\.[\w\-.]{20,}|gl(?:dt|rt|cbt|oas)-[\w\-]{16,}|bot\d{6,12}:[\w\-]{30,}"
    r"|hooks\.slack\.com/services/(?:\w+/){2}\w{16,}|discord(?:app)?\.com/api/webhooks/\d+/[\w\-]{20,})"
)
"""Tokens that are known by their beginning: of hubs, of services, signed ones."""
_RANDOM = re.compile(r"(?=[^\s]*\d)(?=[^\s]*[A-Za-z])(?![\d.]+(?:e[+\-]?\d+)?\Z)[A-Za-z0-9_\-.~+/=]{8,}")
_NAMES = (
    *(
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "pass",
        "secret",
        "token",
        "key",
        "accesskeyid",
        "auth",
        "authorization",
        "signature",
        "sig",
    ),
    *("credential", "credentials", "jwt", "bearer", "cookie", "sessionid", "sas"),
)
"""Endings of the names of fields and variables that hold secrets, without case, points, hyphens and underscores."""
_IN_QUERIES = ("code", "otp", "assertion", "samlresponse", "ticket")
"""Names of fields of a URL that hold what may be exchanged for a token."""
_CERTAIN = (
    *("password", "passwd", "passphrase", "pwd", "secret", "apikey", "accesskey", "secretkey", "accountkey", "privatekey", "signingkey"),
    *("accesstoken", "authtoken", "refreshtoken", "sessiontoken", "privatetoken", "bearertoken"),
)
"""Endings of names that hold secrets in any text, not only in URLs."""
_NO_SECRET = ("sslkey", "partitionkey", "sortkey", "primarykey")
_USER_IS_TOKEN = ("http", "https", "ws", "wss")
"""Schemes whose user alone is as good as a password; elsewhere it is a name, a bucket or a container."""
_LOCAL = ("file", "sqlite")
_LEAST_CHARACTERS = 8
_SEGMENT = re.compile(r"""(?<=/)(?P<name>[\w.%\-]{2,64})(?=(?:/|=|%3D|%2F|:)(?P<value>[^/?#&;,\s"'<>)\]}|\\]{6,}))""", re.IGNORECASE)
"""A part of a path that names a secret, and the part after it: ``/token/SECRET``; that one is only looked at, it may name the next."""
_FILE = re.compile(
    r"(?i)[\w\-. ]+\.(jpe?g|png|webp|gif|tiff?|bmp|svg|pdf|mp4|np[yz]|pth?|pkl|[ct]sv|jsonl?|ya?ml|txt|md|html?|tar|gz|zip|fif|[ebg]df|set"
    r"|vhdr|vmrk|eeg|mat|h5|hdf5|xdf|cnt|mff|safetensors|gguf|parquet|py|js|css)"
)
"""What is named like a file, in a folder that is named like a secret."""


def secrets_in(text: str) -> list[tuple[int, int]]:
    """Where ``text`` holds secrets: first and last character + 1 of each, in order."""
    found: list[tuple[int, int]] = [match.span() for match in _TOKEN.finditer(text)]
    for pattern in (_HEADER, _COOKIE):
        found += [match.span("secret") for match in pattern.finditer(text)]
    found += [(begin.end(), text.find("-----END ", begin.end()) % (len(text) + 1)) for begin in _PRIVATE_KEY.finditer(text)]
    for slashes in _SLASHES.finditer(text):
        begin = slashes.start()
        scheme = _SCHEME.search(text[max(0, begin - _LONGEST_SCHEME) : begin])
        if scheme or text[begin - 1 : begin].strip() in ("", "'", '"', "=", "(", ","):
            found += _of_url(scheme["scheme"] if scheme else "", slashes["rest"], slashes.end())
    found += [match.span("secret") for match in _BARE_WITH_PORT.finditer(text)]
    found += [match.span("value") for match in _QUERY.finditer(text) if _is_secret(match["name"], match["value"])]
    for assigned in _ASSIGNED.finditer(text):
        name, value = ("name", "value") if assigned["name"] else ("flag", "word")
        if _holds_secret(assigned[name], assigned[value]):
            found.append(assigned.span(value))
    if match := _BARE.fullmatch(text.strip()):
        offset = len(text) - len(text.lstrip())
        found.append((match.start("secret") + offset, match.end("secret") + offset))
    return sorted(set(found))


def masked(text: str) -> str:
    """``text`` with ``***`` for every secret, those of this process's environment among them."""
    for value in _of_environment(os.environ):
        text = text.replace(value, MASK)
    pieces, end = [], 0
    for first, last in secrets_in(text):
        if first >= end:
            pieces += [text[end:first], MASK]
        end = max(end, last)
    return "".join([*pieces, text[end:]])


def masked_values(value: Any) -> Any:
    """JSON-able values with every text in them masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {masked(str(name)): MASK if _holds_secret(str(name), inner) else masked_values(inner) for name, inner in value.items()}
    return [masked_values(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def field_with_secret(value: Any, name: str = "") -> str | None:
    """Dotted name of the first field of nested plain values whose text holds a secret; None: no field does."""
    if isinstance(value, str):
        return (name or "the value") if secrets_in(value) else None
    if isinstance(value, Mapping):
        items: Any = value.items()
    else:
        items = enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in items:
        if secrets_in(str(key)):
            return name or "the value"
        if isinstance(value, Mapping) and _holds_secret(str(key), inner):
            return f"{name}.{key}" if name else str(key)
        listed = not isinstance(value, Mapping)
        if found := field_with_secret(inner, name if listed else f"{name}.{key}" if name else str(key)):
            return found
    return None


def private(path: str, flags: int) -> int:
    """Opener of a file that only its owner reads: what libraries and tracebacks say is not ours to vouch for."""
    return os.open(path, flags, 0o600)


def _of_url(scheme: str, rest: str, offset: int) -> Iterator[tuple[int, int]]:
    user_end = _user_end(rest)
    if user_end:
        user, colon, _ = rest[:user_end].partition(":")
        if colon and user_end > len(user) + 1:
            yield offset + len(user) + 1, offset + user_end
            if scheme.lower().split("+")[-1] in _USER_IS_TOKEN and len(user) >= 20:
                yield offset, offset + len(user)
        elif not colon and ":" in unquote(user):  # a%3Ab@
            yield offset, offset + user_end
        elif user and scheme.lower().split("+")[-1] in _USER_IS_TOKEN:
            yield offset, offset + len(user)
    for match in _FIELD.finditer(rest):
        if _is_secret(match["name"], match["value"]):
            yield offset + match.start("value"), offset + match.end("value")
    path = re.split(r"[?#]", rest, maxsplit=1)[0]
    for match in () if scheme.lower() in _LOCAL else _SEGMENT.finditer(path, max(user_end, path.find("/"), 0)):
        if _is_secret_segment(scheme.lower().split("+")[-1] in _USER_IS_TOKEN, match["name"], match["value"]):
            yield offset + match.start("value"), offset + match.end("value")


def _user_end(rest: str) -> int:
    """Characters of ``user:password`` before the ``@``; 0: there is none. A password may hold what should have been escaped."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return authority.rindex("@")
    _, colon, after = authority.partition(":")
    if colon and "@" in rest and not after.isdigit():
        return rest.rindex("@")
    return 0


def _is_secret_segment(on_the_web: bool, name: str, value: str) -> bool:
    """Whether ``name/value`` in a path is a secret: a folder of a store may be named like one, and a file in it is none."""
    words = re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", unquote(name))
    last, whole = words[-1].lower().removesuffix("s"), "".join(words).lower().removesuffix("s")
    if last not in _NAMES and not whole.endswith(_CERTAIN):
        return False
    inner = unquote(value)
    return not _FILE.fullmatch(inner) and (_looks_drawn(inner) or (on_the_web and words[-1].lower() == last))


def _looks_drawn(text: str) -> bool:
    return len(text) >= _LEAST_CHARACTERS and bool(re.search(r"\d", text) and re.search(r"[A-Za-z]", text))


def _is_secret(name: str, value: str) -> bool:
    inner = unquote_plus(value)
    if _names_a_secret(unquote_plus(name)) or re.sub(r"[\W_]", "", unquote_plus(name)).lower() in _IN_QUERIES:
        return True
    if inner == value:
        return False
    return bool(secrets_in(inner)) or any(_names_a_secret(match["name"]) for match in _INNER.finditer(inner))


def _names_a_secret(name: str) -> bool:
    plain = re.sub(r"[\W_]", "", name).lower()
    return plain.endswith(_NAMES) and not plain.endswith(_NO_SECRET)


def _holds_secret(name: str, value: Any) -> bool:
    """Whether a field of that name and value is one outside of URLs: where names such as ``token`` or ``key`` mean much else."""
    if not isinstance(value, str) or not value or value[0] in "$<{[*(/":  # a variable, a placeholder, a special token, a folder
        return False
    plain = re.sub(r"[\W_]", "", name).lower()
    if plain.endswith(_CERTAIN):
        return value.lower() not in ("none", "null", "true", "false")
    return plain.endswith("token") and bool(_RANDOM.fullmatch(value))


def _of_environment(environment: Mapping[str, str]) -> list[str]:
    found = [
        value
        for name, value in environment.items()
        if len(value) >= _LEAST_CHARACTERS and not value.startswith("/") and _names_a_secret(name)
    ]
    for value in environment.values():
        if "://" in value:
            found += [value[first:last] for first, last in secrets_in(value) if last - first >= _LEAST_CHARACTERS]
    return sorted(set(found), key=len, reverse=True)
