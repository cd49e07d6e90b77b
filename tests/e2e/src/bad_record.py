"""Completes a TLS handshake, sends a record that does not authenticate, and prints how the server
ends the connection: the reason of its alert, then `fin` or `reset`.

Arguments: address, port, CA file, server name, and the highest TLS version (`1.2` or `1.3`).
"""

import os
import socket
import ssl
import sys

address, port, ca, name, version = sys.argv[1:]
LIMIT_S = 30

context = ssl.create_default_context(cafile=ca)
context.maximum_version = getattr(ssl.TLSVersion, "TLSv" + version.replace(".", "_"))
connection = socket.create_connection((address, int(port)), timeout=LIMIT_S)
# Two ends on one socket: OpenSSL closes nothing when it gets the alert.
raw = connection.dup()
raw.settimeout(LIMIT_S)
tls = context.wrap_socket(connection, server_hostname=name)
os.write(raw.fileno(), b"\x17\x03\x03\x00\x40" + bytes(64))
try:
    print(tls.read(1))
except ssl.SSLError as error:
    print(error.reason)
except ConnectionResetError:
    print("no alert")
try:
    while raw.recv(4096):
        pass
    print("fin")
except ConnectionResetError:
    print("reset")
