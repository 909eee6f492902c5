"""Usage: client_paramiko.py NAME PORT OWN"""

import io
import sys

import paramiko
from content import Checks, blob, digest

name, port, own = sys.argv[1], int(sys.argv[2]), sys.argv[3]
FILE_SIZE = 50_000_000
checks = Checks()
with paramiko.SSHClient() as client:
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(name, port, "user", "correct horse", look_for_keys=False, allow_agent=False)
    stdin, stdout, stderr = client.exec_command("compute")
    stdin.write(blob(300_000))
    stdin.channel.shutdown_write()
    answer = (stdout.read(), stderr.read(), stdout.channel.recv_exit_status())
    expected = (f"compute {digest(blob(300_000))}".encode(), own.encode(), 7)
    checks.equal("exec with stdin, stdout, stderr, exit status", answer, expected)
    with client.open_sftp() as files:
        content = blob(FILE_SIZE)
        files.putfo(io.BytesIO(content), "/there", FILE_SIZE)
        back = io.BytesIO()
        files.getfo("/there", back)
        checks.equal("SFTP put and get of 50 MB", digest(back.getvalue()), digest(content))
        checks.equal("SFTP list", files.listdir("/"), ["there"])
checks.report()
