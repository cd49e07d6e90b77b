"""Watches what relays send at one side until standard input ends, and prints one line of JSON:
`segments` with payload, `bytes` of all streams, `conflicts` (bytes that were sent with two values)
and `resets`.

Whichever relay sends them: one stream has one value for each of its bytes. On the client's side a
byte is ciphertext, so that two values would be two records under one key and number.

Arguments: device, IPv4 address that the relays send from.
"""

import json
import select
import socket
import struct
import sys

FIN, SYN, RST = 1, 2, 4
LATER = 1 << 31
CONFLICTS_MAX = 20


class Stream:
    """Bytes of one direction of a connection, and which of them are known."""

    def __init__(self, first):
        self.first = first
        self.data, self.known = bytearray(), bytearray()

    def take(self, sequence, payload):
        """Takes a segment in; returns the offset of a byte that was another one before, or None."""
        start = (sequence - self.first) & 0xFFFFFFFF
        if start >= LATER:
            return None  # a window probe, or from before we watched
        end = start + len(payload)
        if end > len(self.data):
            self.known.extend(bytes(end - len(self.data)))
            self.data.extend(bytes(end - len(self.data)))
        if any(self.known[start:end]) and self.data[start:end] != payload:
            for at, byte in enumerate(payload, start):
                if self.known[at] and self.data[at] != byte:
                    return at
        self.data[start:end] = payload
        self.known[start:end] = b"\1" * len(payload)
        return None


class Watch:
    def __init__(self, source):
        self.source = socket.inet_aton(source)
        self.streams, self.past = {}, 0
        self.segments, self.resets, self.conflicts = 0, 0, []

    def take(self, frame):
        if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[26:30] != self.source:
            return
        head = 14 + (frame[14] & 15) * 4
        if frame[23] != socket.IPPROTO_TCP or len(frame) < head + 20:
            return
        ports = struct.unpack_from("!HH", frame, head)
        (sequence,) = struct.unpack_from("!I", frame, head + 4)
        flags = frame[head + 13]
        end = 14 + struct.unpack_from("!H", frame, 16)[0]
        payload = frame[head + (frame[head + 12] >> 4) * 4:end]
        key = (frame[30:34], ports)
        self.resets += bool(flags & RST)
        if flags & SYN:
            if key in self.streams:
                self.past += sum(self.streams[key].known)
            self.streams[key] = Stream((sequence + 1) & 0xFFFFFFFF)
        elif payload:
            self.segments += 1
            stream = self.streams.setdefault(key, Stream(sequence))
            at = stream.take(sequence, payload)
            if at is not None and len(self.conflicts) < CONFLICTS_MAX:
                self.conflicts.append(f"{ports} byte {at}")

    def report(self):
        known = self.past + sum(sum(stream.known) for stream in self.streams.values())
        return {
            "segments": self.segments,
            "bytes": known,
            "conflicts": self.conflicts,
            "resets": self.resets,
        }


def main(device, source):
    watch = Watch(source)
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packets.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    packets.bind((device, 0x0800))
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([packets, sys.stdin], [], [])
        if packets in ready:
            watch.take(packets.recv(65536))
        elif sys.stdin in ready:
            break
    print(json.dumps(watch.report()))


main(*sys.argv[1:])
