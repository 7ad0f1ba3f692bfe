"""The loads that must do no harm. Each function is one load, and runs until `target.until` in a process of its own.

It returns its counts, which the table shows, and raises if the load did not come about: a load that does nothing
would do no harm either.
"""

import collections
import dataclasses
import http.client
import json
import os
import random
import socket
import string
import threading
import time
import uuid

from harm_wire import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, H2, connect, grpc_frame, grpc_status, jwt, message

INTERNAL = "/billing.v1.BillingInternalService/"
MIB = 1 << 20
FORGED_ORDERS = 5
RECORDS_OF_HOARDER = 60_000
PAGE_USERS = 30
# On each port. Their replies are large, so that a few requests fill the buffers of a connection.
PIPELINES = 10
RECORDS_OF_PAGE_USER = 2_000


@dataclasses.dataclass
class Target:
    """A running service, and the proofs that its peers have."""

    http_port: int
    grpc_port: int
    sandbox_port: int
    # Tokens of two callers: of the normal gateway, and of an attacking one.
    edge: str
    other: str
    jwt_secret: str
    # Orders that the attacker has begun.
    orders: list = dataclasses.field(default_factory=list)
    # The end of the load, by time.monotonic().
    until: float = 0.0

    def runs(self):
        return time.monotonic() < self.until

    def user_token(self, user):
        claims = {"iss": "harm", "aud": "billing", "sub": user, "exp": int(time.time()) + 3_600}
        return jwt(self.jwt_secret, claims)

    def user_headers(self, user):
        return {"Authorization": f"Bearer {self.user_token(user)}"}


def address(number):
    """An address of an attacker. The normal caller has 127.0.0.1."""
    return f"127.0.0.{2 + number % 250}"


def request(connection, method, path, body=None, headers=None):
    """One request over HTTP/1.1: (status, body), or the name of the fault and no body."""
    headers = {"Content-Type": "application/json"} | (headers or {})
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return type(error).__name__, b""


def closed_loops(target, number, one, sources=None):
    """Threads that repeat `one(connection, thread, turn)`, which returns a status. Returns the counts of each."""
    seen = collections.Counter()

    def loop(thread):
        source = (address(thread % sources), 0) if sources else None
        connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=5, source_address=source)
        turn = 0
        while target.runs():
            seen[one(connection, thread, turn)] += 1
            turn += 1
        connection.close()

    threads = [threading.Thread(target=loop, args=(thread,), daemon=True) for thread in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=max(0, target.until - time.monotonic()) + 6)
    return seen


def came_about(counter, least=1):
    if sum(counter.values()) < least:
        raise RuntimeError(f"the load did not come about: {dict(counter)}")
    return counter


def bodies(target):
    """1,000 unfinished bodies of 1 MB on one connection, over gRPC and REST."""
    seen = collections.Counter()
    begun = b"\x00" + MIB.to_bytes(4, "big")
    connection, open_bodies = None, {}
    while target.runs():
        if connection is None or not connection.is_open:
            connection, open_bodies = H2(target.grpc_port, address(0)), {}
            seen["connections"] += 1
        while len(open_bodies) < 1_000 and connection.is_open:
            if seen["bodies"] % 2:
                stream = connection.head("/internal/v1/billing/deduct/batch", target.other, "application/json")
                connection.data(stream, b'{"items":[')
            else:
                stream = connection.head(INTERNAL + "BatchDeductQuota", target.other)
                connection.data(stream, begun)
            open_bodies[stream] = MIB - 16
            seen["bodies"] += 1
        for stream, left in list(open_bodies.items()):
            sent = connection.data(stream, b" " * min(left, 16_384)) if left else 0
            open_bodies[stream] = left - sent
            seen["MB"] += sent / 1e6
        for kind, flags, stream, _ in connection.events(wait_s=0.005):
            if kind == RST_STREAM or flags & END_STREAM and kind in (DATA, HEADERS):
                seen["ended by the server"] += open_bodies.pop(stream, None) is not None
    seen["MB"] = round(seen["MB"])
    return came_about(seen, 1_000)


def recharges(target):
    """1,000 recharges begun and left, again and again, of twenty users and addresses."""
    seen = collections.Counter()
    tokens = [target.user_token(f"left-{user}") for user in range(20)]
    while target.runs():
        begun = []
        for number in range(1_000):
            user = number % 20
            body = json.dumps({"amount": 1, "payment_method": "alipay"})
            head = f"POST /api/v1/billing/recharge HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            head += f"Authorization: Bearer {tokens[user]}\r\nContent-Type: application/json\r\n\r\n{body}"
            try:
                sock = connect(target.http_port, address(user))
                begun.append(sock)
                sock.sendall(head.encode())
                seen["begun"] += 1
            except OSError as error:
                seen[type(error).__name__] += 1
            if number % 50 == 49:
                # The queue of the port for new connections is short, and a full one costs a second.
                time.sleep(0.005)
        for sock in begun:
            sock.close()
    return came_about(seen, 1_000)


def strangers(target):
    """22 connections without a token, 0.8 MB/s: 1,000 unfinished requests on each, and 22 with an unfinished head."""
    seen = collections.Counter()
    connections = [None] * 44
    budget, last = 0.0, time.monotonic()
    request_bytes = 150
    while target.runs():
        now = time.monotonic()
        budget, last = min(budget + (now - last) * 800_000, 800_000), now
        for number, connection in enumerate(connections):
            if connection is None or not connection.is_open:
                try:
                    connections[number] = connection = H2(target.grpc_port, address(number % 4))
                except OSError:
                    continue
                if number >= 22:
                    connection.head(INTERNAL + "CheckQuota", flags=0)
                    seen["heads"] += 1
            for kind, flags, _, payload in connection.events():
                if kind == HEADERS:
                    seen[f"grpc-status {grpc_status(payload)}"] += 1
            while number < 22 and connection.is_open and len(connection.windows) < 1_000 and budget > request_bytes:
                connection.head(INTERNAL + "CheckQuota")
                budget -= request_bytes
                seen["requests"] += 1
        time.sleep(0.002)
    return came_about(seen, 1_000)


def idle_connections(target):
    """Connections beyond a port's limit: silent ones, ones that answer pings alone, and pipelines that never read."""
    seen = collections.Counter()
    token = target.user_token("pipeline")
    head = f"Host: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    gets = {
        target.http_port: f"GET /api/v1/billing/records?page_size=100 HTTP/1.1\r\n{head}".encode(),
        target.grpc_port: f"GET /metrics HTTP/1.1\r\n{head}".encode(),
    }
    silent, pings, pipelines = [], [], {}
    while target.runs():
        for port, get in gets.items():
            for number in range(20):
                source = address(number)
                try:
                    if len(silent) < 1_200:
                        silent.append(connect(port, source))
                    if len(pings) < 1_200:
                        pings.append(H2(port, source))
                    if list(pipelines.values()).count(get * 50) < PIPELINES:
                        sock = connect(port, source, receive_buffer=4_096)
                        sock.setblocking(False)
                        pipelines[sock] = get * 50
                except OSError as error:
                    seen[type(error).__name__] += 1
        for sock, requests in list(pipelines.items()):
            port = "8107" if requests.startswith(b"GET /api") else "9107"
            try:
                seen[f"kB to {port} pipelined"] += sock.send(requests) / 1e3
            except BlockingIOError:
                pass
            except OSError:
                sock.close()
                del pipelines[sock]
                seen[f"pipelines on {port} ended"] += 1
        for connection in list(pings):
            connection.events()
            if not connection.is_open:
                connection.close()
                pings.remove(connection)
                seen["pings ended"] += 1
        for sock in list(silent):
            if first_bytes(sock):
                sock.close()
                silent.remove(sock)
                seen["silent ended"] += 1
    seen = collections.Counter({name: round(number) for name, number in seen.items()})
    seen["open at the end"] = len(silent) + len(pings) + len(pipelines)
    return came_about(seen, 1_000)


def nested_json(target):
    """16 callers with 1 MiB of JSON: deep, of many members, and of many items."""
    deep = b'{"x":[' + b",".join([b"[" * 120 + b"]" * 120] * (MIB // 241 - 1)) + b"]}"
    item = b'{"user_id":"n","service_name":"passport","x":' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}"
    members = b'{"items":[' + b",".join([item] * (MIB // (len(item) + 1) - 1)) + b"]}"
    wide = b'{"items":[' + b",".join([b'{"count":1}'] * (MIB // 12 - 2)) + b"]}"
    texts = [deep, members, wide]
    headers = {"Authorization": f"Bearer {target.other}"}

    def one(connection, thread, turn):
        path = "/internal/v1/billing/deduct/batch"
        return request(connection, "POST", path, texts[(thread + turn) % 3], headers)[0]

    one.port = target.grpc_port
    return came_about(closed_loops(target, 16, one, sources=4), 16)


def forged_callbacks(target):
    """Callbacks without a proof from eight addresses: half of them for pending orders of the attacker."""

    def one(connection, thread, turn):
        order = target.orders[turn // 2 % len(target.orders)] if turn % 2 else f"recharge_x_{uuid.uuid4().hex[:16]}"
        body = {"order_id": order, "payment_order_id": f"pay_{uuid.uuid4().hex}", "amount": 1, "status": "SUCCESS"}
        return request(connection, "POST", "/internal/v1/billing/callback", json.dumps(body))[0]

    one.port = target.grpc_port
    return came_about(closed_loops(target, 16, one, sources=8), 100)


def open_event(user):
    """The first message of a MeterStream."""
    reserve = {1: user, 2: "llm", 3: 1, 5: uuid.uuid4().hex, 7: "gpt-4.1", 8: 10, 9: 10}
    return grpc_frame(message({1: message(reserve)}))


def silent_streams(target):
    """10,100 MeterStreams that send no open, on eleven connections."""
    seen = collections.Counter()
    connections = [None] * 11
    while target.runs():
        for number, connection in enumerate(connections):
            if connection is None or not connection.is_open:
                connections[number] = connection = H2(target.grpc_port, address(number))
            while connection.is_open and len(connection.windows) < 918 and target.runs():
                connection.head(INTERNAL + "MeterStream", target.other)
                seen["streams"] += 1
            for kind, flags, _, _ in connection.events(wait_s=0.002):
                if kind == RST_STREAM or kind == HEADERS and flags & END_STREAM:
                    seen["ended by the server"] += 1
    return came_about(seen, 5_000)


def letters(target):
    """200 streams of random letters, whose sender leaves without a word."""
    seen = collections.Counter()
    text = "".join(random.choices(string.ascii_letters, k=16_000)).encode()
    output = grpc_frame(message({2: text}))
    connections = [H2(target.grpc_port, address(number)) for number in range(4)]
    streams = {}
    for number in range(200):
        connection = connections[number % 4]
        stream = connection.head(INTERNAL + "MeterStream", target.other)
        connection.data(stream, open_event(f"letters-{number}"))
        streams[number % 4, stream] = b""
    while target.runs():
        for number, connection in enumerate(connections):
            for kind, flags, stream, payload in connection.events(wait_s=0.001):
                if kind == HEADERS and flags & END_STREAM:
                    seen[f"grpc-status {grpc_status(payload)}"] += 1
        for (number, stream), rest in streams.items():
            rest = rest or output
            sent = connections[number].data(stream, rest) if stream in connections[number].windows else 0
            streams[number, stream] = rest[sent:]
            seen["kB"] += sent / 1e3
    for connection in connections:
        connection.close()
    seen["kB"] = round(seen["kB"])
    return came_about(seen, 1_000)


def exports(target):
    """8 readers of one user who do not read records.csv."""
    seen = collections.Counter()
    token = target.user_token("hoarder")
    head = f"GET /api/v1/billing/records.csv HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    readers, unread = [None] * 8, set()
    while target.runs():
        for number, sock in enumerate(readers):
            if sock is None:
                sock = readers[number] = connect(target.http_port, address(0), receive_buffer=4_096)
                sock.sendall(head.encode())
                continue
            status = first_bytes(sock)
            if status is None or number in unread:
                continue
            seen[status] += 1
            # A refusal makes room for the next try. An export stays open, and nobody reads it.
            if status == "200":
                unread.add(number)
            else:
                sock.close()
                readers[number] = None
        time.sleep(0.1)
    for sock in readers:
        if sock:
            sock.close()
    return came_about(seen, 8)


def first_bytes(sock):
    """The status of a reply, which stays unread; None before it is there."""
    sock.setblocking(False)
    try:
        return sock.recv(12, socket.MSG_PEEK).decode().partition(" ")[2] or "ended"
    except BlockingIOError:
        return None
    except OSError as error:
        return type(error).__name__


def pages(target):
    """30 users at once who read pages beyond the first 1,000 entries, the last page before, and the first."""
    headers = [target.user_headers(f"pages-{user}") for user in range(PAGE_USERS)]
    paths = [f"/api/v1/billing/records?page_size=20&page={page}" for page in (101, 50, 1)]

    def one(connection, thread, turn):
        return f"page {(101, 50, 1)[turn % 3]}: {request(connection, 'GET', paths[turn % 3], None, headers[thread])[0]}"

    one.port = target.http_port
    return came_about(closed_loops(target, PAGE_USERS, one), 100)


def one_user(target):
    """60 pipelines of one user, who reads pages and statistics."""
    seen = collections.Counter()
    head = f"Host: localhost\r\nAuthorization: Bearer {target.user_token('pages-0')}\r\n\r\n"
    paths = ["records?page_size=100&page=10", "records?page_size=100&page=1", "stats/summary", "usage"]
    requests = "".join(f"GET /api/v1/billing/{path} HTTP/1.1\r\n{head}" for path in paths).encode()
    pipelines = {}
    while target.runs():
        while len(pipelines) < 60:
            sock = connect(target.http_port, address(len(pipelines) % 4))
            sock.setblocking(False)
            pipelines[sock] = 0
        for sock, unanswered in list(pipelines.items()):
            try:
                # The start of a reply may be in two parts. Then the pipeline has fewer requests, and goes on.
                while unanswered < 2 * len(paths):
                    unanswered += len(paths) if sock.send(requests) == len(requests) else 0
                received = sock.recv(1 << 18)
                for status in (b"200", b"503"):
                    answers = received.count(b"HTTP/1.1 " + status)
                    seen[status.decode()] += answers
                    unanswered -= answers
                pipelines[sock] = unanswered
                if not received:
                    raise OSError
            except BlockingIOError:
                pipelines[sock] = unanswered
            except OSError:
                sock.close()
                del pipelines[sock]
                seen["ended"] += 1
        time.sleep(0.001)
    return came_about(seen, 100)


def refusals(target):
    """32 connections of HTTP/2 that repeat calls without a token, without a pause."""
    seen = collections.Counter()
    connections = [None] * 32
    while target.runs():
        for number, connection in enumerate(connections):
            if connection is None or not connection.is_open:
                connections[number] = connection = H2(target.grpc_port, address(number))
                seen["connections"] += 1
            while connection.is_open and len(connection.windows) < 900 and target.runs():
                connection.head(INTERNAL + "CheckQuota", flags=END_HEADERS | END_STREAM)
            for kind, _, _, payload in connection.events(wait_s=0.001):
                if kind == HEADERS:
                    seen[f"grpc-status {grpc_status(payload)}"] += 1
    return came_about(seen, 1_000)


def scrapes(target):
    """64 readers of /metrics at once."""

    def one(connection, thread, turn):
        return request(connection, "GET", "/metrics")[0]

    one.port = target.grpc_port
    return came_about(closed_loops(target, 64, one), 64)


def run(attack, target, results):
    """The process of a load. It has the lowest priority, because it shares the cores with the service."""
    os.nice(19)
    try:
        results.send((attack(target), None))
    except Exception as error:  # The parent reports it, whatever it is.
        results.send((collections.Counter(), f"{type(error).__name__}: {error}"))
