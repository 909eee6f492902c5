"""pyftpdlib's server, with a directory that may be written to.

Usage: server_ftp.py PORT DIRECTORY
"""

import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

authorizer = DummyAuthorizer()
authorizer.add_user("user", "correct horse", sys.argv[2], perm="elradfmw")


class Handler(FTPHandler):
    pass


Handler.authorizer = authorizer
server = FTPServer(("", int(sys.argv[1])), Handler)
print("serving", flush=True)
server.serve_forever()
