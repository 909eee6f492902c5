"""Run one of CPython's own test modules on sockets of this interpreter, as they are or as ours.

``python suite.py MODULE --mode plain|patched|virtual --report FILE``. ``patched`` runs it with the
surface in place and a node at hand, on ordinary addresses. ``virtual`` moves it to the node's own
addresses: every 127.0.0.1 and ::1 in the tests' sources becomes the node's virtual address, and
``localhost`` is a name of the node. Which tests passed, failed or were skipped goes into FILE.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import faulthandler
import importlib.abc
import importlib.machinery
import importlib.util
import json
import re
import signal
import subprocess
import sys
import tempfile
import traceback
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEST_TIMEOUT = 60
"""Seconds that one test may take before it is interrupted."""

VIRTUAL = {"127.0.0.1": "198.18.0.1", "::1": "fd12:3456:789a::1"}
_IPV4 = re.compile(r"(?<![\d.])127\.0\.0\.1(?![\d.])")
_IPV6 = re.compile(r"^(\[?)::1(\]?)$|(?<=\[)::1(?=\])")


class HungError(BaseException):
    """A test took too long. Not an Exception, so that what it waits in does not catch it."""


UNMOVED = {"testStringToIPv6", "testIPv6toString"}
"""Tests that convert addresses, and open no socket."""


class Moved(ast.NodeTransformer):
    """The tests' sources with virtual addresses in place of those of the loopback interface."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node if node.name in UNMOVED else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str):
            node.value = _moved(node.value)
        elif isinstance(node.value, bytes):
            with contextlib.suppress(UnicodeDecodeError):
                node.value = _moved(node.value.decode("ascii")).encode("ascii")
        return node


def _moved(text: str) -> str:
    text = _IPV4.sub(VIRTUAL["127.0.0.1"], text)
    return _IPV6.sub(lambda match: match[0].replace("::1", VIRTUAL["::1"]), text)


class MovingLoader(importlib.machinery.SourceFileLoader):
    """Compiles from the moved source; nothing is cached on disk."""

    def get_code(self, fullname: str):
        path = self.get_filename(fullname)
        tree = Moved().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec")


class MovingFinder(importlib.abc.MetaPathFinder):
    """For all modules of the package ``test``."""

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith("test."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return None
        spec.loader = MovingLoader(spec.loader.name, spec.loader.path)
        return spec


class Result(unittest.TestResult):
    """What became of each test, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, list[str]] = {}

    def startTest(self, test):  # noqa: N802 (of the interface)
        super().startTest(test)
        self._note(test, "passed", "")
        signal.alarm(TEST_TIMEOUT)
        faulthandler.dump_traceback_later(TEST_TIMEOUT + 20, exit=True)
        print(test.id(), file=sys.stderr, flush=True)

    def stopTest(self, test):  # noqa: N802
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)

    def _note(self, test, outcome: str, why: str) -> None:
        name = test.id() if test is not None else "unknown"
        if outcome == "passed" or self.outcomes.get(name, ["passed"])[0] == "passed":
            self.outcomes[name] = [outcome, why]

    def addError(self, test, err):  # noqa: N802
        self._note(test, "failed", _words_of(err))

    def addFailure(self, test, err):  # noqa: N802
        self._note(test, "failed", _words_of(err))

    def addSkip(self, test, reason):  # noqa: N802
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test, err):  # noqa: N802, ARG002
        self._note(test, "passed", "")

    def addUnexpectedSuccess(self, test):  # noqa: N802
        self._note(test, "failed", "unexpected success")

    def addSubTest(self, test, subtest, err):  # noqa: N802
        if err is not None:
            self._note(test, "failed", f"{subtest.id()}: {_words_of(err)}")


def _words_of(err) -> str:
    return "".join(traceback.format_exception(*err))[-3000:]


def _interrupt(*_: object) -> None:
    raise HungError(f"took more than {TEST_TIMEOUT} s")


@contextlib.contextmanager
def node():
    """A node in a process of its own; the path of its control socket."""
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "node.py"), directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
            process.communicate()


def run(module: str, only: list[str]) -> Result:
    from test import support  # noqa: PLC0415 (behind the patching)

    support.use_resources = {"cpu": None, "walltime": None}
    if module == "test.test_socketserver":
        support.use_resources["network"] = None  # by which it means the loopback interface
    support.verbose = 0
    signal.signal(signal.SIGALRM, _interrupt)
    if only:
        suite = unittest.defaultTestLoader.loadTestsFromNames([f"{module}.{each}" for each in only])
    else:
        suite = unittest.defaultTestLoader.loadTestsFromName(module)
    result = Result()
    suite.run(result)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("only", nargs="*", help="such as GeneralModuleTests.test_repr")
    parser.add_argument("--mode", choices=["plain", "patched", "virtual"], required=True)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.mode != "plain":
            path = stack.enter_context(node())
            import ntmpatch  # noqa: PLC0415 (not in the way of a plain run)
            from ntmpatch.patch import Settings  # noqa: PLC0415

            is_virtual = options.mode == "virtual"
            ntmpatch.patch_all(
                gevent=False,
                settings=Settings(
                    control_path=path,
                    domains=("home.example",),
                    prefixes=("198.18.0.0/15", "fd12:3456:789a::/48"),
                    names=("localhost",) if is_virtual else (),
                ),
            )
            if is_virtual:
                sys.meta_path.insert(0, MovingFinder())
        result = run(options.module, options.only)
        options.report.write_text(json.dumps(result.outcomes, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
