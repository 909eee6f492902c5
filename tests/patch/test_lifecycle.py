"""A program's beginning and end: what is loaded, what is still sent, and that nothing is said."""

from __future__ import annotations

import signal

import pytest

OURS = {"ntmpatch", "ntmpatch.base", "ntmpatch.base.errors", "ntmpatch.patch"} | {
    f"ntmpatch.patch.{name}"
    for name in (
        "addressing apply classes entry kinds naming node settings surface".split()  # noqa: SIM905
    )
}


def test_what_is_loaded_before_the_first_virtual_socket(start):
    program = start(
        """
        import sys
        import socket, threading, ipaddress, tomllib  # what an ordinary program has, or is small
        before = set(sys.modules)
        import ntmpatch
        assert {name for name in set(sys.modules) - before} == {"ntmpatch"}
        ntmpatch.patch_all(gevent=False)
        a = socket.create_server(("127.0.0.1", 0))
        b = socket.create_connection(a.getsockname())
        socket.getaddrinfo("localhost", 80)
        print(*sorted(set(sys.modules) - before))
        """
    )
    output, errors = program.communicate(timeout=60)
    assert errors == ""
    loaded = set(output.split())
    assert {name for name in loaded if name.startswith("ntmpatch")} == OURS
    # Besides: what the state holds is JSON, and a look-up of the system's encodes names.
    others = {name.partition(".")[0] for name in loaded - OURS}
    small = {"_json", "atexit", "contextlib", "encodings", "importlib", "json"}
    assert others <= small | {"stringprep", "unicodedata"}


BLOCKED = """
import atexit, os, sys, threading
import ntmpatch
ntmpatch.patch_all(gevent={gevent})
import socket
HERE = "a.pair.example"
listener = socket.create_server((HERE, 0))
client = socket.create_connection(listener.getsockname())
connection, _ = listener.accept()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((HERE, 0))
everywhere = socket.create_server(("", 0))
asked = threading.Barrier(6)
def block(function, *arguments):
    asked.wait()
    function(*arguments)
for function, *arguments in (
    (client.recv, 1), (connection.recv, 1), (listener.accept,), (everywhere.accept,),
    (datagrams.recvfrom, 1),
):
    threading.Thread(target=block, args=(function, *arguments), daemon=True).start()
asked.wait()
print("ends")
"""


@pytest.mark.parametrize("flags", ["", "-Werror", "-Xdev", "-Xdev -Werror"])
@pytest.mark.parametrize("gevent", [False, True])
def test_a_program_with_daemons_in_socket_calls_ends_without_a_word(start, flags, gevent):
    program = start(BLOCKED.format(gevent=gevent), *flags.split())
    assert program.communicate(timeout=60) == ("ends\n", "")
    assert program.returncode == 0


@pytest.mark.parametrize("flags", ["", "-Xdev -Werror"])
def test_the_nodes_threads_have_ended_when_the_program_has(start, flags):
    program = start(
        """
        import atexit, os, time
        def count():
            # A thread that Python has seen the end of may have a moment to live.
            while len(os.listdir("/proc/self/task")) > 1:
                time.sleep(0.001)
            print("one")
        atexit.register(count)  # before ours, so it is called after
        import ntmpatch
        ntmpatch.patch_all(gevent=False)
        import socket
        with socket.create_server(("a.pair.example", 0)):
            print(len(os.listdir("/proc/self/task")))
        """,
        *flags.split(),
    )
    assert program.communicate(timeout=60) == ("2\none\n", "")
    assert program.returncode == 0


def test_the_programs_own_handlers_may_still_talk(start):
    program = start(
        """
        import atexit
        import ntmpatch
        ntmpatch.patch_all(gevent=False)
        import socket
        @atexit.register
        def talk():
            connection.sendall(b"said")
            print(client.recv(10), socket.gethostbyname("a.pair.example"))
        with socket.create_server(("a.pair.example", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            connection, _ = listener.accept()
        """
    )
    assert program.communicate(timeout=60) == ("b'said' 198.18.0.1\n", "")


RECEIVER = """
import ntmpatch
ntmpatch.patch_all(gevent=False)
import socket
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("b.pair.example", 4000))
with socket.create_server(("b.pair.example", 4000)) as listener:
    print("listens", flush=True)
    connection, _ = listener.accept()
size = 0
while data := connection.recv(1 << 20):
    size += len(data)
datagrams.settimeout(30)
print(size, sum(len(datagrams.recv(100)) for _ in range(20)))
"""


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "undefined"])
def test_what_was_written_arrives_after_the_program_has_ended(start, ending):
    receiver = start(RECEIVER, node="b")
    assert receiver.stdout.readline() == "listens\n"
    sender = start(
        f"""
        import ntmpatch
        ntmpatch.patch_all(gevent=False)
        import socket
        stream = socket.create_connection(("b.pair.example", 4000))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for _ in range(20):
            datagrams.sendto(bytes(10), ("b.pair.example", 4000))
        stream.sendall(bytes(3_000_000))
        {ending}
        """
    )
    # The end of file is one in order, as the kernel makes it of a socket whose process ends.
    assert receiver.communicate(timeout=60) == ("3000000 200\n", "")
    sender.communicate(timeout=60)
    assert sender.returncode == {"": 0, "raise SystemExit(3)": 3}.get(ending, 1)


def test_nobody_who_reads_does_not_keep_a_program_from_ending(start):
    receiver = start(RECEIVER, node="b")
    assert receiver.stdout.readline() == "listens\n"
    sender = start(
        """
        import ntmpatch
        ntmpatch.patch_all(gevent=False)
        import socket
        stream = socket.create_connection(("b.pair.example", 4000))
        print("connected", flush=True)
        input()
        stream.sendall(bytes(100_000))
        """
    )
    assert sender.stdout.readline() == "connected\n"
    receiver.send_signal(signal.SIGKILL)
    receiver.wait()
    assert sender.communicate("\n", timeout=60) == ("", "")
    assert sender.returncode == 0


def test_a_worker_of_multiprocessing_that_embeds_the_node_lets_out_what_it_sent(start):
    receiver = start(RECEIVER, node="b")
    assert receiver.stdout.readline() == "listens\n"
    sender = start(
        """
        import multiprocessing, runpy, sys, types
        CODE = '''
        import ntmpatch
        ntmpatch.patch_all(gevent=False)
        import socket
        def send():
            stream = socket.create_connection(("b.pair.example", 4000))
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for _ in range(20):
                datagrams.sendto(bytes(10), ("b.pair.example", 4000))
            stream.sendall(bytes(3_000_000))
        '''
        import os, tempfile, textwrap
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "worker.py"), "w") as file:
                file.write(textwrap.dedent(CODE))
            sys.path.insert(0, directory)
            import worker
            process = multiprocessing.get_context("spawn").Process(target=worker.send)
            process.start()
            process.join()
        print(process.exitcode)
        """
    )
    assert receiver.communicate(timeout=60) == ("3000000 200\n", "")
    assert sender.communicate(timeout=60) == ("0\n", "")
