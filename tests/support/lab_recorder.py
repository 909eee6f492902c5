"""Record every packet of an interface into a pcap file until SIGINT: lab_recorder.py INTERFACE FILE

INTERFACE ``any``: what arrives at all of them, in one order and by one clock.

tcpdump cannot do it here: as root it insists on changing its user and groups, which a user
namespace made without root may not. Packets come through a ring in shared memory (packet_mmap in
the kernel's documentation), the only large buffer that a user namespace is given.
"""

from __future__ import annotations

import mmap
import select
import signal
import socket
import struct
import sys

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_IGNORE_OUTGOING = 23
TPACKET_V2 = 1
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1

# 128 MiB: on a busy small machine the recorder may be late by a second or two.
FRAME_SIZE = 2048
BLOCK_SIZE = 1 << 20
BLOCKS = 128
FRAMES = BLOCKS * BLOCK_SIZE // FRAME_SIZE

# tpacket2_hdr: status u32, original size u32, size u32, offset of the MAC header u16,
# of the network header u16, seconds u32, nanoseconds u32
SLOT_HEADER = struct.Struct("=IIIHHII")


def main(interface: str, path: str) -> None:
    # A socket with a protocol hears all interfaces; without one, none until it is bound to one.
    protocol = socket.htons(ETH_P_ALL) if interface == "any" else 0
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol) as packets,
        open(path, "wb", buffering=1 << 20) as file,
    ):
        if interface == "any":
            # A switch's ports: what comes in at one goes out at another, and is recorded once.
            packets.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        packets.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        request = struct.pack("=IIII", BLOCK_SIZE, BLOCKS, FRAME_SIZE, FRAMES)
        packets.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        ring = mmap.mmap(packets.fileno(), BLOCKS * BLOCK_SIZE)
        if interface != "any":
            packets.bind((interface, ETH_P_ALL))
        ending: list[int] = []
        signal.signal(signal.SIGINT, lambda number, _frame: ending.append(number))
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, FRAME_SIZE, 1))
        print("recording", flush=True)
        slot = 0
        while True:
            at = slot * FRAME_SIZE
            status, size, stored, start, _, seconds, nanoseconds = SLOT_HEADER.unpack_from(ring, at)
            if not status & TP_STATUS_USER:
                if ending:  # and all that had arrived is written
                    break
                select.select([packets], [], [], 0.1)
                continue
            file.write(struct.pack("<IIII", seconds, nanoseconds // 1000, stored, size))
            file.write(ring[at + start : at + start + stored])
            struct.pack_into("=I", ring, at, TP_STATUS_KERNEL)
            slot = (slot + 1) % FRAMES
        _, dropped = struct.unpack("=II", packets.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(f"dropped {dropped}")


if __name__ == "__main__":
    main(*sys.argv[1:])
