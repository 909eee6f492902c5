"""Usage: client_xmlrpc.py NAME PORT"""

import sys
import xmlrpc.client

from content import PLAIN_SIZE, Checks, blob, digest

checks = Checks()
with xmlrpc.client.ServerProxy(f"http://{sys.argv[1]}:{sys.argv[2]}", allow_none=True) as server:
    checks.equal("calls", [server.pow(2, n) for n in range(20)], [2**n for n in range(20)])
    checks.equal("2 MB", server.digest_of(blob(PLAIN_SIZE)), digest(blob(PLAIN_SIZE)))
    together = xmlrpc.client.MultiCall(server)
    for number in range(10):
        together.pow(number, 2)
    checks.equal("multicall", list(together()), [number**2 for number in range(10)])
    try:
        server.pow("a", "b")
        fault = ""
    except xmlrpc.client.Fault as error:
        fault = error.faultString
    checks.equal("fault", "TypeError" in fault, True)
checks.report()
