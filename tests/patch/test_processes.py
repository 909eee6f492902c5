"""Virtual sockets and the node in the children of a program, however these come into being."""

from __future__ import annotations

import subprocess
import sys

import pytest

PREAMBLE = """
import errno, json, multiprocessing, os, socket, subprocess, sys, threading

HERE = "a.pair.example"

def node_pid():
    from ntmpatch.patch import node
    from ntmpatch.wire.local import Report, Status
    return json.loads(node.current.call(Status(), Report).json)["pid"]

def talk():
    with socket.create_server((HERE, 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            with listener.accept()[0] as connection:
                connection.sendall(b"said")
                return client.recv(10)

def udp():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((HERE, 0))
    return made
"""


@pytest.fixture
def run(pair, tmp_path):
    """Start a program under `ntmpatch run`, from a file that its children can import."""
    processes = []

    def run(code, *arguments):
        (tmp_path / "app.py").write_text(PREAMBLE + code)
        process = subprocess.Popen(
            [sys.executable, "-m", "ntmpatch", "run", str(tmp_path / "app.py"), *arguments],
            env=pair.environment("a"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


CHILDREN = """
def child(stream, listener, datagrams, everywhere, results):
    found = [talk() == b"said", node_pid() == os.getppid() or node_pid()]
    stream.sendall(b"by the child")
    with listener.accept()[0] as connection:
        found.append(connection.recv(100).decode())
    datagrams.sendto(b"a datagram", datagrams.getsockname())
    found.append(datagrams.recv(100).decode())
    port = everywhere.getsockname()[1]
    for host in (HERE, "127.0.0.1"):
        with socket.create_connection((host, port)) as client, everywhere.accept()[0] as other:
            other.sendall(host.encode())
            found.append(client.recv(100).decode())
    found += [str(each.getsockname()) for each in (stream, listener, datagrams, everywhere)]
    results.put(found)

def main(method):
    context = multiprocessing.get_context(method)
    listener, everywhere, datagrams = (
        socket.create_server((HERE, 0)), socket.create_server(("", 0)), udp()
    )
    near = socket.create_connection(listener.getsockname())
    far = listener.accept()[0]
    results = context.Queue()
    arguments = near, listener, datagrams, everywhere, results
    process = context.Process(target=child, args=arguments)
    process.start()
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"to the child")
        assert far.recv(100) == b"by the child"
        found = results.get()
        process.join()
    assert found[0] is True
    if method != "forkserver":  # whose children are the server's
        assert found[1] is True, found[1]
    assert found[2:6] == ["to the child", "a datagram", HERE, "127.0.0.1"]
    assert found[6:] == [str(each.getsockname()) for each in arguments[:4]]
    assert node_pid() == os.getpid()
    print("done", process.exitcode)

if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_reach_the_node_and_use_what_they_are_given(run, method):
    program = run(CHILDREN, method)
    assert program.communicate(timeout=90) == ("done 0\n", "")


def test_a_program_forks_while_its_threads_are_in_socket_calls(run):
    program = run(
        """
listener, datagrams = socket.create_server((HERE, 0)), udp()
client = socket.create_connection(listener.getsockname())
connection, _ = listener.accept()
results = {}
def keep(name, function, *arguments):
    results[name] = function(*arguments)
def start(*arguments, daemon=False):
    thread = threading.Thread(target=keep, args=arguments, daemon=daemon)
    thread.start()
    return thread
waiting = [
    start("recv", connection.recv, 100),
    start("accept", listener.accept),
    start("recvfrom", datagrams.recvfrom, 100),
]
# Nobody is there: this one is still in connect() when all is over.
start("connect", socket.create_connection, ("b.pair.example", 1), daemon=True)
busy = threading.Event()
def work():
    while not busy.is_set():
        talk()
worker = threading.Thread(target=work)
worker.start()
children = []
for number in range(8):
    pid = os.fork()
    if not pid:
        ends = 1
        try:
            assert talk() == b"said"
            assert node_pid() == os.getppid()
            if number == 7:
                client.sendall(b"of a child")
                datagrams.sendto(b"of a child", datagrams.getsockname())
                socket.create_connection(listener.getsockname())
            ends = 0
        finally:
            os._exit(ends)
    children.append(pid)
print([os.waitpid(pid, 0)[1] for pid in children])
busy.set()
worker.join()
for thread in waiting:
    thread.join()
print(results["recv"], results["recvfrom"][0], len(results["accept"]), talk())
"""
    )
    expected = "[0, 0, 0, 0, 0, 0, 0, 0]\nb'of a child' b'of a child' 2 b'said'\n"
    assert program.communicate(timeout=90) == (expected, "")


FORK_IN_THE_MIDDLE = """
import ntmpatch
module = sys.argv[1]
reached, go_on = threading.Event(), threading.Event()

def wait_here(event, arguments):
    if event == "import" and arguments[0] == module and threading.current_thread() is thread:
        reached.set()
        go_on.wait()

thread = threading.Thread(target=lambda: print(talk(), flush=True))
sys.addaudithook(wait_here)
thread.start()
reached.wait()
pid = os.fork()
if not pid:
    try:
        socket.create_connection(("198.18.0.1", 9))
    except OSError as error:
        print(error, flush=True)
    try:
        socket.getaddrinfo(HERE, 80)
    except socket.gaierror as error:
        print(error, flush=True)
    os._exit(0)
print(os.waitpid(pid, 0)[1], flush=True)
go_on.set()
thread.join()
"""


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("ntmpatch.patch.datagram", "loading virtual sockets"),
        ("ntmpatch.runtime.node", "starting the node"),
    ],
)
def test_a_child_that_is_forked_in_the_middle_of_the_start_is_told_so(run, module, what):
    program = run(FORK_IN_THE_MIDDLE, module)
    output, errors = program.communicate(timeout=90)
    assert output.splitlines() == [
        f"[Errno 100] forked while another thread was {what}",
        "[Errno -3] Temporary failure in name resolution",
        "0",
        "b'said'",
    ]
    assert errors.splitlines() == [
        f"cannot look up a.pair.example: [Errno 100] forked while another thread was {what}"
    ]


@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), 9)"])
def test_a_forked_child_survives_its_parents_node(run, ending):
    program = run(
        f"""
listener = socket.create_server((HERE, 0))
client = socket.create_connection(listener.getsockname())
connection, _ = listener.accept()
reading, writing = os.pipe()
pid = os.fork()
if not pid:
    os.write(writing, b"x")
    def error_of(function, *arguments):
        try:
            return function(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno]
    print(error_of(client.recv, 1), error_of(listener.accept), talk(),
          node_pid() == os.getpid(), flush=True)
    sys.exit()
os.read(reading, 1)
{ending}
"""
    )
    # The end of the output is the child's end.
    assert program.communicate(timeout=90) == ("ECONNRESET ENETDOWN b'said' True\n", "")


INHERITED = """
import socket, sys
stream, listener, datagrams = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:4])
stream.sendall(b"by the child")
with listener.accept()[0] as connection:
    print(connection.recv(100), connection.family.name)
datagrams.sendto(b"a datagram", datagrams.getsockname())
print(datagrams.recv(100))
print(stream.getpeername()[0], listener.getsockname()[0], stream.family.name)
again = socket.fromfd(int(sys.argv[2]), socket.AF_INET, socket.SOCK_STREAM)
print(again.getsockname() == listener.getsockname())
"""


def test_a_subprocess_is_handed_descriptors(run):
    program = run(
        f"""
listener, datagrams = socket.create_server((HERE, 0)), udp()
near = socket.create_connection(listener.getsockname())
far = listener.accept()[0]
fds = [each.fileno() for each in (near, listener, datagrams)]
child = subprocess.Popen(
    [sys.executable, "-c", {INHERITED!r}, *map(str, fds)], pass_fds=fds, stdout=subprocess.PIPE
)
with socket.create_connection(listener.getsockname()) as client:
    client.sendall(b"to the child")
    print(far.recv(100))
    print(child.communicate()[0].decode(), child.returncode)
# The child's copies are gone; ours are as they were.
near.sendall(b"again")
print(far.recv(100), near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
"""
    )
    output, errors = program.communicate(timeout=90)
    assert errors == ""
    assert output.split("\n") == [
        "b'by the child'",
        "b'to the child' AF_INET",
        "b'a datagram'",
        "198.18.0.1 198.18.0.1 AF_INET",
        "True",
        " 0",
        "b'again' 0",
        "",
    ]
