"""One way in for every command: YAML, then command-line overrides, into frozen dataclasses, with one-line errors.

``python -m data_prep`` and ``python -m trainer`` list their commands as :class:`Command` and call :func:`main`. A
command's config class and function are named, not imported, so ``--help`` of one does not load another's libraries.

Overrides win wherever they stand on the line; unknown keys, wrong types and contradictory values end the command with
``error: ...`` on stderr and status 2; anything else that a user can cause ends it with status 1, in one sentence. What is
ours to mend says so, with the file that has its traceback; ``--debug`` prints tracebacks of both.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import enum
import functools
import gc
import importlib
import io
import math
import os
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, _typehints, set_parsing_settings

from data_prep.contract.config_file import check_config_file
from data_prep.contract.errors import ConfigError, UserError, sentence_of, traceback_file
from data_prep.contract.limits import Limits, limits, use_limits
from data_prep.contract.output import keep_output, lost_output
from data_prep.contract.refusals import classes_of, in_our_words
from data_prep.contract.secrets import field_with_secret, masked, private
from data_prep.contract.terminal import visible
from data_prep.contract.trust import allow_classes, nothing_else_imported
from data_prep.contract.words import short

_SLOW_SECONDS = 3.0
_MOST_OF_A_PATH = 4096
_LEAST_FLOAT, _MOST_FLOAT = 2e-38, 3e38


def _forget_other_class(parser: Any, previous: Any, value: Any) -> None:
    # jsonargparse keeps fields that two classes share: naming another encoder would silently inherit the first one's dropout.
    if previous and previous.get("init_args") and previous["class_path"] != value["class_path"]:
        for key in list(vars(previous["init_args"])):
            del previous["init_args"][key]


# A free field (an override, an option of a library) that looks like a class is kept as it is, never built.
set_parsing_settings(docstring_parse_attribute_docstrings=True, instantiate_subclass_spec_in_any=False)
if hasattr(_typehints, "discard_init_args_on_class_path_change"):
    _typehints.discard_init_args_on_class_path_change = _forget_other_class
_bases: list[type] = []


def polymorphic(base: type[Any]) -> type[Any]:
    """Class decorator: a field of type ``base`` takes any subclass, as ``{class_path: NAME, init_args: {...}}``.

    NAME is the class's name where its module is imported, or a dotted import path (``my_lab.models.MyEncoder``).
    """
    _bases.append(base)
    set_parsing_settings(subclasses_enabled=list(_bases))
    return base


@dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand: ``config`` and ``run`` are ``module:name``; ``run(config)`` returns None or an exit status."""

    config: str
    run: str
    help: str
    prints: bool = False
    """Its result is what it prints: a standard output that cannot take it is then a failure."""
    first: str | None = None
    """Field whose value may stand right behind the command, without its name."""
    switches: tuple[str, ...] = ()
    """Fields that are true where their name alone stands on the line."""


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise _Refused(str(ex) if ex else message) from ex


class _Refused(ValueError):
    """The parser's own words."""


def first_sentence(said: object) -> str:
    """What a library says in paragraphs (an exception, a message), in one line: its first sentence."""
    text = " ".join(str(said).split()).split(". ")[0].rstrip(".") or type(said).__name__
    return text if len(text) <= 240 else text[:237] + "…"


def begin_process() -> None:
    """What a process does first that was started as a command.

    Modules of a user's own (import paths in configs) are found in the present folder, but none of them takes the place of one of ours,
    here or in child processes. No output that is or gets lost costs a result: :func:`data_prep.contract.output.keep_output`.
    """
    keep_output()
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def leave(status: int) -> NoReturn:
    """What such a process does last: threads are waited for, exit functions run and open files are written out as ever.

    But memory is given back whole: Python would take it apart object by object, which takes a second or two with torch, and ends with
    SIGABRT when a thread of gloo, which outlives its group while a deepspeed engine stands, lets go of a tensor meanwhile.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for found in gc.get_objects():
        if issubclass(type(found), (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
            with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it any more
                found.flush()
    os._exit(status)


def main(prog: str, description: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Parse ``argv``, run the command, return the exit status (0 success, 1 failure, 2 bad configuration)."""
    arguments, debug = _pop_flag(list(sys.argv[1:] if argv is None else argv), "--debug")
    # The deepspeed launcher puts --local_rank=N before the subcommand; RANK and LOCAL_RANK are in the environment as well.
    while arguments and arguments[0].startswith(("--local_rank", "--local-rank")):
        flag = arguments.pop(0)
        os.environ.setdefault("LOCAL_RANK", flag.split("=", 1)[1] if "=" in flag else arguments.pop(0))
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, commands))
        print(f"usage: {prog} COMMAND --config FILE.yaml [--field value ...]\n\n{description}\n")
        print("\n".join(f"  {name:<{width}}  {command.help}" for name, command in commands.items()))
        print(f"\n{prog} COMMAND --help lists a command's fields; --print_config prints them as YAML; --debug shows tracebacks.")
        return 0 if arguments else 2

    def run() -> int | None:
        name = arguments.pop(0)
        if name not in commands:
            raise ConfigError(f"unknown command {name!r}: expected one of {', '.join(commands)}")
        command = commands[name]
        with said_if_slow(f"{name}: loading libraries"):
            action = _load(command.run)  # first: what a package registers, its config may name
            config = parse(_load(command.config), _spelled_out(command, arguments), prog=f"{prog} {name}")
        status: int | None = action(config)
        if command.prints and not status and (lost := lost_output()):
            raise UserError(f"standard output: {sentence_of(lost)}, expected one that takes what {name} prints")
        return status

    return ending(run, debug=debug)


def ending(action: Callable[[], int | None], *, debug: bool = False) -> int:
    """Exit status of a command's ``action``; what ends it is said in one line."""
    try:
        return action() or 0
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return _fail(error, debug=debug)


def _spelled_out(command: Command, arguments: Sequence[str]) -> list[str]:
    """``fetch things-meg --list`` as ``fetch --study things-meg --list true``."""
    words = list(arguments)
    if command.first is not None and words and not words[0].startswith("-"):
        words.insert(0, f"--{command.first}")
    spelled: list[str] = []
    for word, after in zip(words, [*words, "--"][1:], strict=True):
        spelled.append(word)
        if word.removeprefix("--") in command.switches and word.startswith("--") and after.startswith("-"):
            spelled.append("true")
    return spelled


@contextlib.contextmanager
def said_if_slow(line: str) -> Iterator[None]:
    """Context that prints ``line`` to stderr should it last: on a busy machine libraries take their time. One rank says it."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    timer = threading.Timer(_SLOW_SECONDS, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _fail(error: Exception, *, debug: bool) -> int:
    """Say what ended a command, in one line; exit status."""
    if debug:
        sys.stderr.write(masked("".join(traceback.format_exception(error))))
    said = sentence_of(error)
    if said is None:
        kept = masked("".join(traceback.format_exception(error)))
        try:
            where = traceback_file() or Path(tempfile.mkstemp(prefix="eegvision-", suffix=".txt")[1])
            where.parent.mkdir(parents=True, exist_ok=True)
            with open(where, "w", encoding="utf-8", errors="backslashreplace", opener=private) as file:
                file.write(kept)
            place = f"its traceback is in {where}"
        except OSError:  # a full disk may be what went wrong in the first place
            place = "its traceback could not be written: run again with --debug"
        said = f"internal, not your fault: {first_sentence(f'{type(error).__name__}: {error}')}; {place}"
    print(f"error: {visible(masked(_one_line(said)))}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, ConfigError) else 1


def parse(config_class: type[Any], arguments: Sequence[str], *, prog: str = "") -> Any:
    """Build ``config_class`` from ``--config FILE`` and ``--field value`` overrides.

    Raises
    ------
    ConfigError
        One line naming the field.
    """
    parser = _Parser(prog=prog, description=(config_class.__doc__ or "").strip(), exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with the fields below")
    parser.add_argument("--trust", type=str, default="", help="import paths whose classes exports may name, with commas between")
    parser.add_class_arguments(Limits, "file_limits")
    parser.set_defaults({f"file_limits.{name}": value for name, value in dataclasses.asdict(limits()).items()})
    parser.add_class_arguments(config_class)
    parser.set_defaults(_plain_defaults(config_class))
    try:
        words = _config_first(arguments)
        use_limits(_limits_on_the_line(words))  # the config's own file is read first
        for name in _config_files(words):
            check_config_file(name)
        namespace = parser.parse_args(words)
        allow_classes(namespace.trust.split(","))
        use_limits(Limits(**vars(namespace.file_limits)))
        fields = {k: v for k, v in vars(parser.instantiate_classes(namespace)).items() if k not in ("config", "trust", "file_limits")}
        config = config_class(**fields)
    except UserError as error:
        raise ConfigError(masked(_one_line(str(error)))) from error
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(masked(in_our_words(config_class, str(error)))) from error
    _refuse_what_is_no_choice(config)
    _refuse_empty(config)
    plain = to_plain(config)
    _refuse_secrets(plain)
    _refuse_what_is_no_number(plain)
    return config


def _plain_defaults(config_class: type[Any]) -> dict[str, Any]:
    """Lists that a field holds by default, as YAML holds them: of objects the parser knows no words, ``--print_config`` would lose them."""
    hints = get_type_hints(config_class)
    made = {f.name: f.default_factory() for f in dataclasses.fields(config_class) if f.default_factory is not dataclasses.MISSING}
    return {name: to_plain(value, hints[name]) for name, value in made.items() if isinstance(value, list)}


def _refuse_empty(config: Any, dotted: str = "") -> None:
    """An empty text is a value where it is the default; elsewhere a shell's unset variable, and as a path the present folder."""
    for each in dataclasses.fields(config):
        value, name = getattr(config, each.name, None), f"{dotted}{each.name}"
        if value == "" and each.default in (dataclasses.MISSING, None) and each.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{name}: is empty, expected a text{' or null' if each.default is None else ''}")
        if dataclasses.is_dataclass(value):
            _refuse_empty(value, f"{name}.")


def _refuse_what_is_no_choice(config: Any, dotted: str = "") -> None:
    """Where a class is to be chosen, its base does nothing, and null, which the parser lets pass in data files, neither."""
    hints = get_type_hints(type(config))
    for each in dataclasses.fields(config):
        value, name = getattr(config, each.name, None), f"{dotted}{each.name}"
        if value is None and hints[each.name] in _bases:
            raise ConfigError(f"{name}: null, expected {classes_of(hints[each.name])}")
        for one in value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, Mapping) else [value]:
            if type(one) in _bases:
                raise ConfigError(f"{name}: {type(one).__name__} is the base of what can stand here, expected {classes_of(type(one))}")
            if dataclasses.is_dataclass(one) and not isinstance(one, type):
                _refuse_what_is_no_choice(one, f"{name}.")


def _refuse_long_paths(plain: Any, name: str = "") -> None:
    """The parser takes an import path apart at every dot, for each dot anew: a file's of a megabyte would keep it for hours."""
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            _refuse_long_paths(value, f"{name}.{short(key)}" if name else short(key))
    elif isinstance(plain, (list, tuple)):
        for value in plain:
            _refuse_long_paths(value, name)
    elif isinstance(plain, str) and (longest := max(map(len, re.findall(r"[\w.]+", plain)), default=0)) > _MOST_OF_A_PATH:
        raise ConfigError(f"{name}: {short(plain)!r} holds a name of {longest:,} characters, expected at most {_MOST_OF_A_PATH:,}")


def _refuse_secrets(plain: Any) -> None:
    """A config is written down, shown and handed to children on their command lines."""
    if (field := field_with_secret(plain)) is not None:
        raise ConfigError(f"{field}: holds a password or token, expected none: credentials come from the environment or a file")


def _refuse_what_is_no_number(plain: Any, name: str = "") -> None:
    """``.nan`` is above no limit and below none, so that a check against one lets everything pass; what is infinite has null; and what
    32 bits cannot hold is 0 or infinite once it meets a tensor."""
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ConfigError(f"{name}: is {plain}, expected a number")
    if isinstance(plain, float) and plain and not _LEAST_FLOAT <= abs(plain) <= _MOST_FLOAT:
        raise ConfigError(f"{name}: is {plain}, expected 0 or a number of {_LEAST_FLOAT:.1g} to {_MOST_FLOAT:.1g}, which 32 bits hold")
    for key, inner in plain.items() if isinstance(plain, Mapping) else enumerate(plain) if isinstance(plain, list) else ():
        _refuse_what_is_no_number(inner, f"{name}.{key}" if name else str(key))


def from_plain(config_class: type[Any], plain: Mapping[str, Any]) -> Any:
    """Rebuild a config from :func:`to_plain`'s output, as saved beside every result.

    It imports no class of a stranger's, see :mod:`data_prep.contract.trust`.
    """
    key: Any = config_class  # a class is hashable, which mypy does not see
    parser = _plain_parser(key, tuple(_bases))
    _refuse_long_paths(plain)
    try:
        with nothing_else_imported(_bases):
            namespace = parser.parse_object(dict(plain))
            config = config_class(**vars(parser.instantiate_classes(namespace)))
        _refuse_what_is_no_choice(config)
        return config
    except UserError as error:
        raise ConfigError(masked(_one_line(str(error)))) from error
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(masked(in_our_words(config_class, str(error)))) from error


@functools.lru_cache(maxsize=64)
def _plain_parser(config_class: type[Any], _known: tuple[type, ...]) -> _Parser:
    """Made once for a class and the bases known then: it takes longer to make than to ask."""
    parser = _Parser(exit_on_error=False)
    parser.add_class_arguments(config_class)
    return parser


def to_plain(config: Any, declared: Any = None) -> Any:
    """A config as plain YAML-able values; a subclass in a field of its base class becomes ``class_path`` + ``init_args``."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = get_type_hints(type(config))
        fields = {f.name: to_plain(getattr(config, f.name), hints[f.name]) for f in dataclasses.fields(config) if f.init}
        if declared is None or declared is type(config) or type(config) in getattr(declared, "__args__", ()):
            return fields
        return {"class_path": f"{type(config).__module__}.{type(config).__qualname__}", "init_args": fields}
    # The last argument of dict[str, X], list[X] or tuple[X, ...] says whether an item stands where its base class is declared.
    item = next((a for a in reversed(get_args(declared)) if a is not Ellipsis), None)
    if isinstance(config, Mapping):
        return {str(k): to_plain(v, item) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(v, item) for v in config]
    if isinstance(config, enum.Enum):
        return config.name
    return os.fspath(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """The resolved config as YAML; ``--config`` reads it back."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)


def _config_first(arguments: Sequence[str]) -> list[str]:
    # jsonargparse applies arguments in order, so a --config after an override would silently undo it.
    first, rest = [], []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == "--config" and queue:
            first += [word, queue.pop(0)]
        elif word.startswith("--config="):
            first.append(word)
        else:
            rest.append(word)
    return first + rest


def _limits_on_the_line(words: Sequence[str]) -> Limits:
    """Those raised by ``--file_limits.NAME NUMBER``; what is no number is the parser's to refuse."""
    found: dict[str, int] = {}
    for word, following in pairwise([*words, ""]):
        name, _, value = word.removeprefix("--file_limits.").partition("=")
        if word.startswith("--file_limits.") and hasattr(Limits, name) and (value or following).isdecimal():
            found[name] = int(value or following)
    return Limits(**{**dataclasses.asdict(limits()), **found})


def _config_files(words: Sequence[str]) -> Iterator[str]:
    for word, following in pairwise([*words, None]):
        if word == "--config":
            yield following or ""
        elif word is not None and word.startswith("--config="):
            yield word.removeprefix("--config=")


def _pop_flag(arguments: list[str], flag: str) -> tuple[list[str], bool]:
    return [a for a in arguments if a != flag], flag in arguments


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
