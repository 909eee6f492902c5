"""An SSH server: exec answers with what it was given, SFTP serves a directory.

Usage: server_paramiko.py PORT DIRECTORY
"""

import os
import socket
import sys
import threading
from typing import Any

import paramiko
from content import digest

PASSWORD = "correct horse"
port, root = int(sys.argv[1]), sys.argv[2]


class Accounts(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        is_right = (username, password) == ("user", PASSWORD)
        return paramiko.AUTH_SUCCESSFUL if is_right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, _chanid: int) -> int:
        is_session = kind == "session"
        return paramiko.OPEN_SUCCEEDED if is_session else paramiko.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=execute, args=(channel, command), daemon=True).start()
        return True


def execute(channel: paramiko.Channel, command: bytes) -> None:
    """Standard output: command and digest of standard input; standard error: the client."""
    data = channel.makefile("rb").read()
    channel.sendall(command + b" " + digest(data).encode())
    channel.sendall_stderr(str(channel.getpeername()[0]).encode())
    channel.send_exit_status(7)
    channel.close()


class Handle(paramiko.SFTPHandle):
    def stat(self) -> Any:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class Files(paramiko.SFTPServerInterface):
    def _path(self, path: str) -> str:
        return root + self.canonicalize(path)

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(os.stat(self._path(path)))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    lstat = stat

    def list_folder(self, path: str) -> Any:
        found = []
        for name in sorted(os.listdir(self._path(path))):
            attributes = paramiko.SFTPAttributes.from_stat(os.stat(f"{self._path(path)}/{name}"))
            attributes.filename = name
            found.append(attributes)
        return found

    def open(self, path: str, flags: int, _attributes: Any) -> Any:
        try:
            fd = os.open(self._path(path), flags, 0o600)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        handle = Handle(flags)
        mode = "r+b" if flags & os.O_RDWR else "wb" if flags & os.O_WRONLY else "rb"
        handle.readfile = handle.writefile = os.fdopen(fd, mode)
        return handle


key = paramiko.ECDSAKey.generate()
with socket.create_server(("", port)) as listener:
    print("serving", flush=True)
    while True:
        connection, _ = listener.accept()
        transport = paramiko.Transport(connection)
        transport.add_server_key(key)
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files)
        transport.start_server(server=Accounts(), event=threading.Event())
