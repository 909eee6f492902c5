"""Two nodes, ``a`` and ``b``, in one native thread; this process is a program on ``a``."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nodes import Nodes
from static_pair import StaticPair

import ntmpatch

SUPPORT = str(Path(__file__).parents[1] / "support")

PREAMBLE = """
import sys
sys.path.insert(0, {support!r})
import ntmpatch
from ntmpatch.patch import Settings
ntmpatch.patch_all(gevent={gevent}, settings=Settings({path!r}, {domains!r}, {prefixes!r}))
"""


@pytest.fixture(scope="session")
def nodes(tmp_path_factory):
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), "a", "b")
    yield nodes
    nodes.stop()


@pytest.fixture
def patched(nodes):
    ntmpatch.patch_all(gevent=False, settings=nodes.settings("a"))
    yield nodes
    ntmpatch.unpatch_all()


@pytest.fixture
def program(nodes):
    """Start a program in a process of its own: ``program(code, node, gevent)`` is its Popen."""
    with contextlib.ExitStack() as stack:

        def start(code, *arguments, node="b", gevent=False):
            settings = nodes.settings(node)
            preamble = PREAMBLE.format(
                support=SUPPORT,
                gevent=gevent,
                path=settings.control_path,
                domains=settings.domains,
                prefixes=settings.prefixes,
            )
            process = subprocess.Popen(
                [sys.executable, "-c", preamble + textwrap.dedent(code), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.callback(process.stdin.close)
            stack.callback(process.stdout.close)
            return process

        yield start


@pytest.fixture
def pair(tmp_path):
    return StaticPair(tmp_path)


@pytest.fixture
def start(pair):
    """Start a program, with the node of a name to embed: its Popen."""
    processes = []

    def start(code, *flags, node="a"):
        process = subprocess.Popen(
            [sys.executable, *flags, "-c", textwrap.dedent(code)],
            env=pair.environment(node),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate of a.home.example: paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.home.example")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("a.home.example"), x509.DNSName("b.home.example")]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    certificate_path, key_path = directory / "cert.pem", directory / "key.pem"
    certificate_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(certificate_path), str(key_path)
