"""Usage: server_xmlrpc.py PORT"""

import socketserver
import sys
import xmlrpc.client
import xmlrpc.server
from typing import Any

from content import digest


class Server(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
    daemon_threads = True


def digest_of(data: Any) -> str:
    return digest(data.data if isinstance(data, xmlrpc.client.Binary) else data)


with Server(("", int(sys.argv[1])), logRequests=False, allow_none=True) as server:
    server.register_introspection_functions()
    server.register_multicall_functions()
    server.register_function(pow)
    server.register_function(digest_of)
    print("serving", flush=True)
    server.serve_forever()
