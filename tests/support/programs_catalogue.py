"""The programs that nobody here wrote, and what is tried of each, as data.

``tests/programs/test_programs.py`` plays every entry in both directions, and the table in
``docs/programs.md`` is written from what it saw.
"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Service:
    """A program that serves. Words in braces are filled in (``test_programs.py``)."""

    ready: str
    """What it prints when it accepts connections."""
    words: tuple[str, ...]
    """What stands behind ``run``."""
    is_shared: bool = False
    """Whether one process a node serves all tests."""


@dataclass(frozen=True)
class Program:
    """A row of the table, and a test in each direction."""

    name: str
    service: str
    client: tuple[str, ...]
    """What runs on the other node."""
    checks: tuple[str, ...]
    """What the client has compared with what it expects, in its order."""
    distributions: tuple[str, ...] = ()
    """Packages that the row is about; none: the standard library."""
    notes: str = ""

    def missing(self) -> list[str]:
        """Which packages are not installed here."""
        present = {each.name.lower() for each in importlib.metadata.distributions()}
        return [each for each in self.distributions if each not in present]

    def versions(self) -> str:
        """Which versions are installed here."""
        if not self.distributions:
            return f"CPython {platform.python_version()}"
        return ", ".join(
            f"{each} {importlib.metadata.version(each)}" for each in self.distributions
        )


_UVLOOP = "under_uvloop.py"
_TLS = ("{tls_port}", "{certificate}")
_STREAMS = (
    *("client_asyncio_tls.py", "{name}", "{port}", "{certificate}"),
    *("{client_ipv4}", "{client_ipv6}"),
)
_STREAMS_CHECKS = (
    "2 MB and back over IPv4",
    "2 MB and back over IPv6",
    "the client's address",
    "10 connections at once",
)

SERVICES = {
    "web_aiohttp": Service(
        "serving",
        ("web_aiohttp.py", "{port}", "{tls_port}", "{certificate}", "{key}"),
        is_shared=True,
    ),
    "websockets": Service(
        "serving", ("server_websockets.py", "{port}", "{tls_port}", "{certificate}", "{key}")
    ),
    "flask": Service(
        "Running on http://",
        ("{bin}/flask", "--app", "web_wsgi", "run", "-h", "0.0.0.0", "-p", "{port}"),
    ),
    "flask_debug": Service(
        "Debugger PIN",
        (
            *("{bin}/flask", "--app", "web_wsgi", "run", "--debug"),
            *("-h", "0.0.0.0", "-p", "{port}"),
        ),
    ),
    **{
        f"gunicorn_{kind}": Service(
            "Booting worker",
            (
                "{bin}/gunicorn",
                "-w",
                "2",
                "-k",
                kind,
                *more,
                "-b",
                "0.0.0.0:{port}",
                "web_wsgi:app",
            ),
        )
        for kind, more in (("sync", ()), ("gthread", ("--threads", "4")), ("gevent", ()))
    },
    "uvicorn_asyncio": Service(
        "Uvicorn running on",
        (
            "{bin}/uvicorn",
            "--loop",
            "asyncio",
            "--host",
            "0.0.0.0",
            "--port",
            "{port}",
            "web_asgi:app",
        ),
    ),
    "uvicorn_uvloop": Service(
        "Uvicorn running on",
        (
            *("{bin}/uvicorn", "--loop", "uvloop"),
            *("--host", "0.0.0.0", "--port", "{port}", "web_asgi:app"),
        ),
    ),
    "uvicorn_workers": Service(
        "Application startup complete",
        (
            *("{bin}/uvicorn", "--loop", "uvloop", "--workers", "2"),
            *("--host", "0.0.0.0", "--port", "{port}", "web_asgi:app"),
        ),
    ),
    "uvloop_aiohttp": Service(
        "serving",
        (_UVLOOP, "web_aiohttp.py", "{port}", "{tls_port}", "{certificate}", "{key}"),
    ),
    "uvloop_streams": Service(
        "serving", (_UVLOOP, "server_asyncio_tls.py", "{port}", "{certificate}", "{key}")
    ),
    "paramiko": Service("serving", ("server_paramiko.py", "{port}", "{directory}")),
    "ftp": Service("serving", ("server_ftp.py", "{port}", "{directory}")),
    "redis": Service("serving", ("server_redis.py", "{port}")),
    "xmlrpc": Service("serving", ("server_xmlrpc.py", "{port}")),
    "managers": Service("serving", ("server_managers.py", "{port}")),
    "mqtt": Service("serving", ("server_mqtt.py", "{port}")),
    "dns": Service("serving", ("server_dns.py", "{port}")),
    "asyncio_tls": Service(
        "serving", ("server_asyncio_tls.py", "{port}", "{certificate}", "{key}")
    ),
}


def _web_client(
    name: str, script: str, distribution: str, *checks: str, notes: str = ""
) -> Program:
    client = (script, "{name}", "{port}", *_TLS)
    return Program(name, "web_aiohttp", client, checks, (distribution,), notes)


def _web_server(
    name: str, service: str, *distributions: str, processes: int = 1, notes: str = ""
) -> Program:
    client = ("client_stdlib.py", "{name}", "{port}", "{client_ipv4}", str(processes))
    checks: tuple[str, ...] = (
        "GET 2 MB",
        "POST 2 MB",
        "an answer in 50 chunks",
        "redirect",
        "8 threads",
        "the client's address",
    )
    if processes > 1:
        checks += (f"answers by {processes} processes",)
    return Program(name, service, client, checks, distributions, notes)


PROGRAMS = (
    _web_client(
        "requests",
        "client_requests.py",
        "requests",
        *("GET 2 MB", "POST 2 MB in chunks", "redirect", "keep-alive", "stream", "HTTPS"),
    ),
    _web_client(
        "urllib3",
        "client_urllib3.py",
        "urllib3",
        *("GET 2 MB", "POST 2 MB", "a pool of 8 threads", "chunks", "HTTPS"),
    ),
    _web_client(
        "httpx",
        "client_httpx.py",
        "httpx",
        *("GET 2 MB", "POST 2 MB", "stream", "keep-alive", "HTTPS"),
    ),
    _web_client(
        "httpx (asyncio)",
        "client_httpx_asyncio.py",
        "httpx",
        *("GET 2 MB", "POST 2 MB", "20 at once", "HTTPS"),
    ),
    _web_client(
        "aiohttp client",
        "client_aiohttp.py",
        "aiohttp",
        *("GET 2 MB", "POST 2 MB", "20 at once", "WebSocket", "HTTPS"),
    ),
    _web_server("aiohttp server", "web_aiohttp", "aiohttp"),
    Program(
        "websockets",
        "websockets",
        ("client_websockets.py", "{name}", "{port}", *_TLS, "{client_ipv4}", "{client_ipv6}"),
        ("echo of text and of 2 MB (asyncio)", "ping, close code", "TLS", "threads"),
        ("websockets",),
    ),
    _web_server("Flask development server", "flask", "flask", "werkzeug"),
    _web_server(
        "Flask development server (reloader)",
        "flask_debug",
        "flask",
        "werkzeug",
        notes="the listener is handed to a program that is executed anew",
    ),
    _web_server("gunicorn sync", "gunicorn_sync", "gunicorn", processes=2),
    _web_server("gunicorn gthread", "gunicorn_gthread", "gunicorn", processes=2),
    _web_server("gunicorn gevent", "gunicorn_gevent", "gunicorn", "gevent", processes=2),
    _web_server("uvicorn (asyncio)", "uvicorn_asyncio", "uvicorn"),
    _web_server("uvicorn (uvloop)", "uvicorn_uvloop", "uvicorn", "uvloop"),
    _web_server("uvicorn (uvloop, 2 workers)", "uvicorn_workers", "uvicorn", "uvloop", processes=2),
    Program(
        "uvloop: aiohttp client and server",
        "uvloop_aiohttp",
        (_UVLOOP, "client_aiohttp.py", "{name}", "{port}", *_TLS),
        ("GET 2 MB", "POST 2 MB", "20 at once", "WebSocket", "HTTPS"),
        ("uvloop", "aiohttp"),
    ),
    Program(
        "uvloop: asyncio.start_server with TLS",
        "uvloop_streams",
        (_UVLOOP, *_STREAMS),
        _STREAMS_CHECKS,
        ("uvloop",),
    ),
    Program(
        "paramiko",
        "paramiko",
        ("client_paramiko.py", "{name}", "{port}", "{client_ipv4}"),
        ("exec with stdin, stdout, stderr, exit status", "SFTP put and get of 50 MB", "SFTP list"),
        ("paramiko",),
        notes="both sides are paramiko",
    ),
    Program(
        "pyftpdlib and ftplib",
        "ftp",
        ("client_ftplib.py", "{name}", "{port}"),
        ("passive: STOR and RETR of 2 MB, NLST", "active: STOR and RETR of 2 MB, NLST"),
        ("pyftpdlib",),
        notes="in active mode the server connects to the client",
    ),
    Program(
        "redis-py",
        "redis",
        ("client_redis.py", "{name}", "{port}"),
        (
            "SET and GET of 100 kB",
            "a pipeline of 200",
            "publish and subscribe",
            "a blocking pop in a thread",
            "redis.asyncio",
        ),
        ("redis", "fakeredis"),
        notes="the server is fakeredis' `TcpFakeServer`, whose answers must fit into the socket's "
        "buffer: it writes to a non-blocking socket without waiting, on any network",
    ),
    Program(
        "XML-RPC",
        "xmlrpc",
        ("client_xmlrpc.py", "{name}", "{port}"),
        ("calls", "2 MB", "multicall", "fault"),
    ),
    Program(
        "multiprocessing.managers",
        "managers",
        ("client_managers.py", "{name}", "{port}"),
        (
            "a queue, 2 MB",
            "a call",
            "a pool of 2 processes (fork)",
            "a pool of 2 processes (spawn)",
            "a pool of 2 processes (forkserver)",
        ),
    ),
    Program(
        "paho-mqtt",
        "mqtt",
        ("client_mqtt.py", "{name}", "{port}"),
        ("a retained message", "QoS 0", "QoS 1", "QoS 2"),
        ("paho-mqtt", "amqtt"),
        notes="the broker is amqtt",
    ),
    Program(
        "dnspython",
        "dns",
        ("client_dnspython.py", "{name}", "{port}"),
        (
            "50 UDP queries",
            "truncation, then TCP",
            "a Resolver",
            "20 UDP queries at once (asyncio)",
        ),
        ("dnspython",),
        notes="the server is dnspython in a `socketserver.ThreadingUDPServer`",
    ),
    Program(
        "asyncio.start_server with TLS",
        "asyncio_tls",
        _STREAMS,
        _STREAMS_CHECKS,
    ),
)
