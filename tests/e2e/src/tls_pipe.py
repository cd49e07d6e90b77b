"""A TLS client on OpenSSL as a pipe: standard input to the server, the server to standard output.

The end of standard input becomes close_notify and FIN, and the server may go on; the server's
close_notify closes standard output, and standard input may go on. Exits with 0 when both
directions ended with a close_notify, else with 1 and a word on standard error: `reset`,
`truncated` (FIN without close_notify), or OpenSSL's reason.

Arguments: address, port, CA file, server name, the highest TLS version (`1.2` or `1.3`), and
seconds after which it ends in any case.
"""

import os
import selectors
import signal
import socket
import ssl
import sys

CHUNK = 64 << 10
QUEUE_MAX = 256 << 10


class Pipe:
    def __init__(self, address, port, ca, name, version):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=ca)
        context.maximum_version = getattr(ssl.TLSVersion, "TLSv" + version.replace(".", "_"))
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.socket = socket.create_connection((address, int(port)))
        self.queue = b""
        self.up_open = self.down_open = True
        self.shaking = True
        self.fin_sent = self.fin_received = False

    def run(self):
        with selectors.DefaultSelector() as selector:
            while not (self.fin_sent and self.fin_received and not self.down_open):
                self.advance()
                self.flush()
                self.select(selector)

    def select(self, selector):
        for key in list(selector.get_map().values()):
            selector.unregister(key.fileobj)
        events = 0 if self.fin_received else selectors.EVENT_READ
        events |= selectors.EVENT_WRITE if self.queue else 0
        if events:
            selector.register(self.socket, events)
        if self.up_open and not self.shaking and len(self.queue) < QUEUE_MAX:
            selector.register(0, selectors.EVENT_READ)
        if not selector.get_map():
            return
        for key, mask in selector.select():
            if key.fileobj == 0:
                self.read_input()
            elif mask & selectors.EVENT_READ:
                self.receive()

    def advance(self):
        if self.shaking:
            try:
                self.tls.do_handshake()
                self.shaking = False
            except ssl.SSLWantReadError:
                return
        while self.down_open:
            try:
                data = self.tls.read(CHUNK)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self.down_open = False
                os.close(1)
            while data:
                data = data[os.write(1, data):]

    def receive(self):
        data = self.socket.recv(CHUNK)
        if data:
            self.incoming.write(data)
            return
        self.fin_received = True
        self.incoming.write_eof()
        self.advance()
        if self.down_open:
            sys.exit("truncated")

    def read_input(self):
        data = os.read(0, CHUNK)
        if data:
            self.tls.write(data)
            return
        self.up_open = False
        try:
            self.tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLError):
            pass  # the server's close_notify comes when it comes

    def flush(self):
        self.queue += self.outgoing.read()
        if self.queue:
            try:
                sent = self.socket.send(self.queue, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            self.queue = self.queue[sent:]
        if not (self.up_open or self.queue or self.fin_sent):
            self.socket.shutdown(socket.SHUT_WR)
            self.fin_sent = True


signal.alarm(int(sys.argv.pop()))
try:
    Pipe(*sys.argv[1:]).run()
except ConnectionResetError:
    sys.exit("reset")
except ssl.SSLError as error:
    sys.exit(str(error.reason))
