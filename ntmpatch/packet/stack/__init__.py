"""The virtual TCP/IP stack of a node: sans-I/O, IPv4 and IPv6, TCP, UDP, ICMP."""

from ntmpatch.packet.stack.handlers import TcpHandler, UdpHandler
from ntmpatch.packet.stack.ports import Claim
from ntmpatch.packet.stack.stack import Stack
from ntmpatch.packet.stack.tcp.connection import TcpConnection
from ntmpatch.packet.stack.tcp.listener import TcpListener
from ntmpatch.packet.stack.udp import UdpSocket

__all__ = [
    "Claim",
    "Stack",
    "TcpConnection",
    "TcpHandler",
    "TcpListener",
    "UdpHandler",
    "UdpSocket",
]
