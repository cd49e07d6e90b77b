"""Takes a datagram between two relays from the switch, and puts it there again, as it was or
changed.

Arguments: `capture FILE DEVICE`, where DEVICE is the switch's port toward the sender, or
`inject FILE DEVICE HOW COUNT`, where DEVICE is the port toward the receiver and HOW is one of
`as-is`, `changed` (another counter), `cut`, `stranger` (another sender's name), `random`.
"""

import os
import socket
import struct
import sys

UDP = 14 + 20
PAYLOAD = UDP + 8
# Heartbeats are longer, greetings shorter: a greeting has no payload.
FRAME_MIN = PAYLOAD + 28 + 16 + 20
# Behind version, kind, sender, unit and two incarnations.
COUNTER = 4 + 8 + 8
LIMIT_S = 10


def open_port(device):
    # Without a protocol it hears nothing before it is bound: else what other devices received.
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.bind((device, 3))
    port.settimeout(LIMIT_S)
    return port


def capture(path, device):
    port = open_port(device)
    while True:
        frame, (_, _, kind, _, _) = port.recvfrom(65535)
        udp = frame[12:14] == b"\x08\x00" and frame[23] == 17
        if kind != socket.PACKET_OUTGOING and udp and len(frame) >= FRAME_MIN:
            break
    with open(path, "wb") as file:
        file.write(frame)


def inject(path, device, how, count):
    with open(path, "rb") as file:
        frame = file.read()
    head, payload = frame[:PAYLOAD], frame[PAYLOAD:]
    if how == "changed":
        # A counter that was never seen: else it would be a replay first of all.
        payload = payload[:COUNTER] + b"\x7f" * 8 + payload[COUNTER + 8:]
    elif how == "cut":
        payload = payload[:9]
    elif how == "stranger":
        payload = payload[:2] + b"\xee" + payload[3:]
    elif how == "random":
        payload = os.urandom(len(payload))
    if how != "as-is":
        head = rewrite(head, len(payload))
    port = open_port(device)
    for _ in range(int(count)):
        port.send(head + payload)


def rewrite(head, length):
    """Headers for a payload of another length, without a UDP checksum."""
    ip = bytearray(head[14:UDP])
    ip[2:4], ip[10:12] = struct.pack("!H", 28 + length), b"\0\0"
    total = sum(struct.unpack("!10H", bytes(ip)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    ip[10:12] = struct.pack("!H", ~total & 0xFFFF)
    return head[:14] + bytes(ip) + head[UDP:UDP + 4] + struct.pack("!HH", 8 + length, 0)


{"capture": capture, "inject": inject}[sys.argv[1]](*sys.argv[2:])
