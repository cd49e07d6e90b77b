"""Sends frames that are wrong, or of no connection, to a virtual address and prints what comes
back as one line of JSON: for each case the TCP flags of the answers, such as `{"ack": ["R"]}`.
Each frame is sent twice.

The last frame is a good SYN, repeated until it is answered: what came before was seen by then.
With `silent` as the last argument no answer to it is waited for.

Arguments: device, destination MAC address, source and destination IPv4 address, [silent].
"""

import json
import socket
import struct
import sys
import time

PORT, CLOSED_PORT = 443, 81
LAST_PORT = 51000
TURN_S = 0.5
# The relay tells a stranger that it is one only when it goes on for three seconds.
PATIENCE_S = 3.5
ANSWER_TURNS = 20
SILENT_TURNS = 2
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Frames:
    def __init__(self, device, mac, source, target):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((device, 0x0800))
        own = self.socket.getsockname()[4]
        self.ethernet = bytes.fromhex(mac.replace(":", "")) + own + b"\x08\x00"
        self.source, self.target = socket.inet_aton(source), socket.inet_aton(target)

    def ip(self, payload, protocol=6, length=None, fragment=0, flaw=0):
        length = 20 + len(payload) if length is None else length
        head = struct.pack("!BBHHHBBH", 0x45, 0, length, 7, fragment, 64, protocol, 0)
        head += self.source + self.target
        return head[:10] + struct.pack("!H", checksum(head) ^ flaw) + head[12:] + payload

    def tcp(self, ports, flags, offset=5, data=b"", flaw=0, options=b""):
        bits = sum(FLAGS[flag] for flag in flags)
        acknowledged = 0xBEEF if "A" in flags else 0
        head = struct.pack("!HHIIBBHHH", *ports, 1000, acknowledged, offset << 4, bits, 64240, 0, 0)
        body = head + options + data
        pseudo = self.source + self.target + struct.pack("!HH", 6, len(body))
        return body[:16] + struct.pack("!H", checksum(pseudo + body) ^ flaw) + body[18:]

    def cases(self):
        """Name and IP packet of each case; `port` tells their answers apart."""
        sport = 50000
        for name, make in {
            "ip checksum": lambda p: self.ip(self.tcp((p, PORT), "S"), flaw=1),
            "tcp checksum": lambda p: self.ip(self.tcp((p, PORT), "S", flaw=1)),
            "short header": lambda p: self.ip(self.tcp((p, PORT), "S", offset=4)),
            "long header": lambda p: self.ip(self.tcp((p, PORT), "S", offset=15)),
            "bad option": lambda p: self.ip(self.tcp((p, PORT), "S", 6, options=b"\2\0\1\1")),
            "cut header": lambda p: self.ip(self.tcp((p, PORT), "S")[:12]),
            "cut packet": lambda p: self.ip(self.tcp((p, PORT), "S"), length=400),
            "long packet": lambda p: self.ip(self.tcp((p, PORT), "S"), length=10),
            "fragment": lambda p: self.ip(self.tcp((p, PORT), "S"), fragment=0x2000),
            "late fragment": lambda p: self.ip(self.tcp((p, PORT), "S"), fragment=100),
            "udp": lambda p: self.ip(struct.pack("!HHHH", p, PORT, 8, 0), protocol=17),
            "no flags": lambda p: self.ip(self.tcp((p, PORT), "")),
            "all flags": lambda p: self.ip(self.tcp((p, PORT), "FSRPA")),
            "syn and fin": lambda p: self.ip(self.tcp((p, CLOSED_PORT), "SF")),
            "ack": lambda p: self.ip(self.tcp((p, PORT), "A")),
            "data": lambda p: self.ip(self.tcp((p, PORT), "PA", data=b"x" * 100)),
            "fin": lambda p: self.ip(self.tcp((p, PORT), "FA")),
            "rst": lambda p: self.ip(self.tcp((p, PORT), "R")),
            "syn to a closed port": lambda p: self.ip(self.tcp((p, CLOSED_PORT), "S")),
            "ack to a closed port": lambda p: self.ip(self.tcp((p, CLOSED_PORT), "A")),
            "rst to a closed port": lambda p: self.ip(self.tcp((p, CLOSED_PORT), "R")),
        }.items():
            sport += 1
            yield name, sport, make(sport)

    def send(self, packet):
        self.socket.send(self.ethernet + packet)

    def answers(self, until):
        """Port and flags of each TCP segment from the target, up to `until` (monotonic)."""
        while (rest := until - time.monotonic()) > 0:
            self.socket.settimeout(rest)
            try:
                frame = self.socket.recv(2048)
            except TimeoutError:
                return
            if frame[26:30] == self.target and frame[23] == 6:
                head = 14 + (frame[14] & 15) * 4
                bits = frame[head + 13]
                flags = "".join(flag for flag, bit in FLAGS.items() if bits & bit)
                yield struct.unpack("!H", frame[head + 2:head + 4])[0], flags


def main(device, mac, source, target, silent=None):
    frames = Frames(device, mac, source, target)
    cases = list(frames.cases())
    names = {port: name for name, port, _ in cases} | {LAST_PORT: "good"}
    answered = {name: set() for name in names.values()}

    def listen(seconds=TURN_S):
        for port, flags in frames.answers(time.monotonic() + seconds):
            if port in names:
                answered[names[port]].add(flags)

    # A segment without a connection may have overtaken the one that opens it: only when it comes
    # again, much later, it is answered.
    for wait in (PATIENCE_S, TURN_S):
        for _, _, packet in cases:
            frames.send(packet)
        listen(wait)
    for _ in range(SILENT_TURNS if silent else ANSWER_TURNS):
        frames.send(frames.ip(frames.tcp((LAST_PORT, PORT), "S")))
        listen()
        if answered["good"] and not silent:
            break
    if silent or answered.pop("good"):
        print(json.dumps({name: sorted(flags) for name, flags in answered.items()}))
    else:
        sys.exit("a good SYN is not answered")


main(*sys.argv[1:])
