"""fakeredis' server, which speaks Redis' protocol over TCP. Usage: server_redis.py PORT"""

import sys

from fakeredis import TcpFakeServer

TcpFakeServer.allow_reuse_address = True
server = TcpFakeServer(("0.0.0.0", int(sys.argv[1])), server_type="redis")
print("serving", flush=True)
server.serve_forever()
