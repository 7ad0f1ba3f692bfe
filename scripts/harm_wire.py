"""The few parts of protobuf, gRPC, HTTP/2 and JWT that harm.py speaks.

HTTP/2 by raw sockets, so that a client can do things that no library does. Header fields are sent as literals
without indexing. Of a reply only the state of its stream and grpc-status are read.
"""

import base64
import collections
import hashlib
import hmac
import json
import socket
import struct
import time

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INITIAL_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
FRAME_BYTES = 16_384
CONNECT_TIMEOUT_S = 5
# A connection whose peer takes nothing for this long is lost.
SEND_TIMEOUT_S = 2
# The Huffman codes of HPACK (RFC 7541, appendix B) for "grpc-status" and digits: all that is decoded.
HUFFMAN = {
    "0": "00000", "1": "00001", "2": "00010", "3": "011001", "4": "011010", "5": "011011", "6": "011100",
    "7": "011101", "8": "011110", "9": "011111", "g": "100110", "r": "101100", "p": "101011", "c": "00100",
    "-": "010110", "s": "01000", "t": "01001", "a": "00011", "u": "101101",
}


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def message(fields):
    """A protobuf message of {number: value}: int, str, bytes (also of a message), or a list of these."""
    out = b""
    for number, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                out += varint(number << 3) + varint(value)
            else:
                value = value.encode() if isinstance(value, str) else value
                out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def grpc_frame(payload):
    return struct.pack(">BI", 0, len(payload)) + payload


def jwt(secret, claims):
    """A token signed with HS256."""
    encoded = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256"}, claims)
    ]
    text = b".".join(encoded)
    signature = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def connect(port, source="127.0.0.1", receive_buffer=None):
    """A connection from one of the addresses of loopback, so that one machine can play several peers."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(CONNECT_TIMEOUT_S)
    try:
        # With it the kernel picks a port that is free for this destination, not free for all.
        sock.setsockopt(socket.SOL_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _hpack_integer(number, prefix_bits):
    largest = (1 << prefix_bits) - 1
    return bytes([number]) if number < largest else bytes([largest]) + varint(number - largest)


def _hpack(headers):
    out = b""
    for name, value in headers:
        name, value = name.encode(), value.encode()
        out += b"\0" + _hpack_integer(len(name), 7) + name + _hpack_integer(len(value), 7) + value
    return out


def _huffman(text):
    bits = "".join(HUFFMAN[letter] for letter in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


_STATUSES = {bytes([0x80 | len(_huffman(str(code)))]) + _huffman(str(code)): code for code in range(17)}
_STATUS_NAME = _huffman("grpc-status")


def grpc_status(block):
    """grpc-status of a header block, or None."""
    at = block.find(_STATUS_NAME)
    if at < 0:
        return None
    rest = block[at + len(_STATUS_NAME):]
    return next((code for text, code in _STATUSES.items() if rest.startswith(text)), None)


class H2:
    """A connection of HTTP/2 that answers pings and settings, and keeps the windows of its streams."""

    def __init__(self, port, source="127.0.0.1"):
        self.sock = connect(port, source)
        self.sock.settimeout(SEND_TIMEOUT_S)
        self.next_stream = 1
        self.buffer = b""
        self.window = INITIAL_WINDOW
        self.stream_window = INITIAL_WINDOW
        self.windows = {}
        self.is_open = True
        # SETTINGS_HEADER_TABLE_SIZE 0: so the server sends names as literals. SETTINGS_INITIAL_WINDOW_SIZE.
        settings = struct.pack(">HIHI", 1, 0, 4, LARGEST_WINDOW)
        grown = struct.pack(">I", LARGEST_WINDOW - INITIAL_WINDOW)
        self.send(PREFACE + self.frame(SETTINGS, 0, 0, settings) + self.frame(WINDOW_UPDATE, 0, 0, grown))

    @staticmethod
    def frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            self.is_open = False

    def head(self, path, token=None, content_type="application/grpc", flags=END_HEADERS):
        """Begins a POST, and returns its stream."""
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        headers += [("content-type", content_type), ("te", "trailers")]
        headers += [("authorization", f"Bearer {token}")] if token else []
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self.windows[stream] = self.stream_window
        self.send(self.frame(HEADERS, flags, stream, _hpack(headers)))
        return stream

    def data(self, stream, data, end=False):
        """Sends as much as the windows allow, and returns the number of bytes."""
        room = max(0, min(len(data), self.window, self.windows.get(stream, 0), FRAME_BYTES))
        if data and not room:
            return 0
        self.window -= room
        self.windows[stream] -= room
        self.send(self.frame(DATA, END_STREAM if end and room == len(data) else 0, stream, data[:room]))
        return room

    def call(self, path, payload, token):
        """Begins a unary call."""
        stream = self.head(path, token)
        body = grpc_frame(payload)
        while body:
            body = body[self.data(stream, body, end=True):]
            if body:
                self.events(wait_s=1)
        return stream

    def events(self, wait_s=0.0):
        """The frames that arrived, as (kind, flags, stream, payload). Closed streams have left `windows`."""
        self.sock.settimeout(wait_s or 0.000_001)
        try:
            received = self.sock.recv(1 << 18)
            self.is_open &= bool(received)
            self.buffer += received
        except (TimeoutError, BlockingIOError):
            pass
        except OSError:
            self.is_open = False
        self.sock.settimeout(SEND_TIMEOUT_S)
        return list(self._frames())

    def _frames(self):
        at = 0
        while len(self.buffer) - at >= 9:
            length = int.from_bytes(self.buffer[at:at + 3], "big")
            if len(self.buffer) - at < 9 + length:
                break
            kind, flags, stream = struct.unpack(">BBI", self.buffer[at + 3:at + 9])
            payload = self.buffer[at + 9:at + 9 + length]
            at += 9 + length
            self._handle(kind, flags, stream, payload)
            yield kind, flags, stream, payload
        self.buffer = self.buffer[at:]

    def _handle(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            for number, value in struct.iter_unpack(">HI", payload):
                if number == 4:
                    grown = value - self.stream_window
                    self.stream_window = value
                    self.windows = {open_stream: room + grown for open_stream, room in self.windows.items()}
            self.send(self.frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.send(self.frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            grown = struct.unpack(">I", payload)[0]
            if not stream:
                self.window += grown
            elif stream in self.windows:
                self.windows[stream] += grown
        elif kind == GOAWAY:
            self.is_open = False
        elif kind == RST_STREAM or kind in (DATA, HEADERS) and flags & END_STREAM:
            self.windows.pop(stream, None)

    def close(self):
        self.sock.close()


def unary(port, path, payload, token, wait_s=10.0):
    """One call on a connection of its own: (grpc-status, reply)."""
    connection = H2(port)
    try:
        stream = connection.call(path, payload, token)
        reply, deadline = b"", time.monotonic() + wait_s
        while connection.is_open and time.monotonic() < deadline:
            for kind, flags, of, content in connection.events(wait_s=0.1):
                if of == stream and kind == DATA:
                    reply += content
                if of == stream and kind == HEADERS and flags & END_STREAM:
                    return grpc_status(content), reply[5:]
        return None, b""
    finally:
        connection.close()


def counts(counter: collections.Counter):
    """Such as "401: 1,200, 503: 7"."""
    return ", ".join(f"{name}: {number:,}" for name, number in sorted(counter.items(), key=lambda each: str(each[0])))
