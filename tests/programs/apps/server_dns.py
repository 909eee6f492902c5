"""A DNS server made of dnspython and socketserver, over UDP and TCP; long answers need TCP.

Usage: server_dns.py PORT
"""

import socketserver
import sys
import threading

import dns.flags
import dns.message
import dns.rrset
from content import digest


def answer(wire: bytes, limit: int) -> bytes:
    """TXT records with a digest of the name: as many as its first label says."""
    query = dns.message.from_wire(wire)
    name = query.question[0].name
    response = dns.message.make_response(query)
    texts = [f'"{digest(f"{name} {number}".encode())}"' for number in range(int(name[0]))]
    response.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *texts))
    data = response.to_wire(max_size=65535)
    if len(data) > limit:
        response.answer.clear()
        response.flags |= dns.flags.TC
        data = response.to_wire()
    return data


class Datagrams(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(answer(self.rfile.read(), 1232))


class Streams(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while size := self.rfile.read(2):
            data = answer(self.rfile.read(int.from_bytes(size)), 65535)
            self.wfile.write(len(data).to_bytes(2) + data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


address = ("", int(sys.argv[1]))
with Server(address, Streams) as tcp, socketserver.ThreadingUDPServer(address, Datagrams) as udp:
    threading.Thread(target=tcp.serve_forever, daemon=True).start()
    print("serving", flush=True)
    udp.serve_forever()
