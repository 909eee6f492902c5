"""``ntmpatch run --check``: what would be run and patched, and which node it would use.

Nothing is changed: no state is made, no token used, no program or node started.
"""

from __future__ import annotations

import importlib.machinery
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from ntmpatch.base.errors import ConfigError, NtmpatchError
from ntmpatch.cli.console import print_facts, print_json
from ntmpatch.cli.control import NodeControl
from ntmpatch.cli.exits import EX_NOT_EXECUTABLE, EX_NOT_FOUND, CommandError, line_of
from ntmpatch.cli.hook import HOOK_DIRECTORY, interpreter_identity
from ntmpatch.cli.identity import missing_identity
from ntmpatch.cli.target import Target, resolve_target
from ntmpatch.cli.up import describe
from ntmpatch.runtime.settings import load_settings
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.runtime.settings import NodeSettings


def check_run(
    words: Sequence[str],
    token: str | None,
    config: str | None,
    state: str | None,
    *,
    gevent: bool,
    as_json: bool,
) -> None:
    """Print the facts; raises the first thing that would keep the run from working."""
    obstacles: list[NtmpatchError | OSError] = []

    def attempt(part: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        try:
            return part()
        except (NtmpatchError, OSError) as error:
            obstacles.append(error)
            return None

    target: Target | None = None

    def program() -> dict[str, Any]:
        nonlocal target
        target = resolve_target(words)
        return describe_program(target)

    facts: dict[str, Any] = {"program": attempt(program)}
    if target is not None:
        facts["patching"] = describe_patching(target, gevent=gevent)
        if target.remark:
            obstacles.append(CommandError(target.remark, EX_NOT_EXECUTABLE))
    facts["node"] = attempt(lambda: describe_node(token, config, state))
    facts = {name: part for name, part in facts.items() if part is not None}
    if as_json:
        reasons = [line_of(error) for error in obstacles]
        print_json({"works": not obstacles, "obstacles": reasons, **facts})
    else:
        print_facts({"works": "no" if obstacles else "yes", **facts})
    if obstacles:
        sys.stdout.flush()
        raise obstacles[0]


def describe_program(target: Target) -> dict[str, Any]:
    """What would be executed; CommandError if that cannot be."""
    if not os.access(target.executable, os.X_OK):
        raise CommandError(f"{target.executable}: cannot be executed", EX_NOT_EXECUTABLE)
    words = target.arguments[1:]
    if target.interpreter == target.executable and words[:1] == ("-m",):
        _find_module(words[1])
    return {"executable": target.executable, "argv": list(target.arguments)}


def _find_module(name: str) -> None:
    """CommandError unless there is such a module; of a package's, only the package is looked for.

    To look further, Python imports the package, which would run it.
    """
    top = name.partition(".")[0]
    paths = [os.getcwd(), *sys.path]
    if not (
        top in sys.builtin_module_names
        or importlib.machinery.FrozenImporter.find_spec(top)
        or importlib.machinery.PathFinder.find_spec(top, paths)
    ):
        raise CommandError(f"{name}: no such module", EX_NOT_FOUND)


def describe_patching(target: Target, *, gevent: bool) -> dict[str, Any]:
    """Who would be patched, by what, and what that stands in front of."""
    is_python = bool(target.interpreter)
    return {
        "patched": is_python and not target.remark,
        "children": "Python ones of the same environment",
        "interpreter": target.interpreter or None,
        "environment": interpreter_identity(),
        "hook": str(HOOK_DIRECTORY),
        "gevent": gevent,
        "shadowed_sitecustomize": shadowed_sitecustomize(),
    }


def shadowed_sitecustomize() -> str | None:
    """The sitecustomize that the hook stands in front of, and runs."""
    hook = str(HOOK_DIRECTORY)
    paths = [path for path in sys.path if not path or os.path.abspath(path) != hook]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", paths)
    return spec.origin if spec is not None else None


def describe_node(token: str | None, config: str | None, state: str | None) -> dict[str, Any]:
    """Which node the program would use, and how; NtmpatchError if it would find none."""
    settings = load_settings(token=token, config=config, state=state, create=False)
    from ntmpatch.runtime.node import is_served  # noqa: PLC0415 (heavy)

    facts = {"state": str(settings.state.path.absolute())}
    if is_served(settings.control_path):
        return {"use": "attach to the one that runs", **facts, **_running(settings)}
    if settings.has_identity:
        _check_ports(settings)
        return {"use": "start one in the program", **facts, **_identity(settings)}
    if settings.token is None:
        raise ConfigError(missing_identity(settings))
    _check_ports(settings)
    return {
        "use": "enrol with the token, then start one in the program",
        **facts,
        "fqdn": settings.token.fqdn or None,
        "account_servers": [str(endpoint) for endpoint in settings.token.endpoints],
    }


def _running(settings: NodeSettings) -> dict[str, Any]:
    with NodeControl(settings.control_path) as node:
        report = msgspec.json.decode(node.ask(local.Status(), local.Report).json)
        return {**describe(node.welcome), "pid": report["pid"]}


def _identity(settings: NodeSettings) -> dict[str, Any]:
    """The name in the identity; ConfigError if it is damaged."""
    if settings.static is not None:
        assert settings.private_key
        return {"fqdn": settings.static.fqdn or None, "enrolled": False}
    from ntmpatch.base.errors import UntrustedError  # noqa: PLC0415 (rarely needed)
    from ntmpatch.crypto.certificate import verify_by_any_untrusted  # noqa: PLC0415 (heavy)
    from ntmpatch.signalling.enrolled import EnrolmentState  # noqa: PLC0415 (heavy)

    enrolment = EnrolmentState.decode(settings.enrolment or b"")
    try:
        certificate = verify_by_any_untrusted(
            enrolment.certificate, enrolment.trusted_keys, time.time()
        )
    except UntrustedError:
        # It has expired, perhaps: the node asks the account server for another.
        return {"fqdn": None, "enrolled": True}
    return {"fqdn": certificate.fqdn, "enrolled": True}


def _check_ports(settings: NodeSettings) -> None:
    """OSError, with the place as its file name, if a port of the configuration is taken."""
    from ntmpatch.runtime.interfaces import usable  # noqa: PLC0415 (as above)

    for end in usable(settings.binds):
        family = socket.AF_INET6 if end.is_ipv6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if end.is_ipv6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((end.host, end.port))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(end)) from None
