#!/usr/bin/env python3
"""Repeats the loads that must do no harm, from outside, against a private server: `make harm`.

Each row starts a new server with a new database. A normal caller sends checks and charges at a fixed rate before
and during the load. The row fails if the load slows the caller too much, gives it an error, takes much memory, or
keeps it. Needs Python 3 and Linux, and no package. docs/security.md has a table of results.
"""

import argparse
import collections
import dataclasses
import http.client
import json
import multiprocessing
import os
import pathlib
import re
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
import typing
import uuid

import harm_attacks as attacks
from harm_attacks import INTERNAL, request
from harm_service import ROOT, STOP_LIMIT_S, MariaDb, Service
from harm_wire import DATA, END_STREAM, HEADERS, RST_STREAM, H2, counts, grpc_frame, grpc_status, message, unary

# The normal caller: requests of each of the two kinds a second, and its connections and users.
RATE, CONNECTIONS, USERS = 100, 8, 50
WARM_UP_S, REPLY_TIMEOUT_S, AFTER_S = 2, 2, 10
# The allocator gives free pages back over some time.
MEMORY_BACK_S = 60
# The bounds of a row. The attacker shares the cores, and a time slice of the scheduler is some milliseconds, so p99
# below three times the floor is no shift.
SHIFT, FLOOR_MS, PEAK_MIB, KEPT_MIB, CPU_AFTER_S = 3, 10.0, 512, 64, 5


def normal_caller(target, began, until, results):
    """The process of the normal caller: (sent, milliseconds, kind) of each answer, and the errors as (sent, text).

    Requests leave by the clock, whether earlier ones are answered or not, so a slow service hides no wait.
    """
    selector = selectors.DefaultSelector()
    connections = [H2(target.grpc_port) for _ in range(CONNECTIONS)]
    for connection in connections:
        selector.register(connection.sock, selectors.EVENT_READ, connection)
    waiting, answers, errors = {}, [], []
    turn, end = 0, None
    while True:
        now = time.monotonic()
        due = began + turn / (2 * RATE)
        if now >= until and (not waiting or now >= until + REPLY_TIMEOUT_S):
            break
        if due <= now < until:
            connection = connections[turn % CONNECTIONS]
            kind, user = "CheckQuota" if turn // CONNECTIONS % 2 else "DeductQuota", f"normal-{turn % USERS}"
            sent = time.monotonic()
            stream = connection.call(INTERNAL + kind, message({1: user, 2: "passport", 3: 1}), target.edge)
            waiting[connection, stream] = sent, kind
            turn += 1
            continue
        for key, _ in selector.select(timeout=max(0, min(due - now, 0.05))):
            connection = key.data
            for frame, flags, stream, payload in connection.events():
                if (connection, stream) in waiting and (frame == RST_STREAM or frame == HEADERS and flags & END_STREAM):
                    sent, kind = waiting.pop((connection, stream))
                    status = grpc_status(payload) if frame == HEADERS else "reset"
                    answers.append((sent, (time.monotonic() - sent) * 1_000, kind))
                    if status != 0:
                        errors.append((sent, f"{kind}: {status}"))
            if not connection.is_open:
                selector.unregister(connection.sock)
                lost = [request for request in waiting if request[0] is connection]
                errors += [(waiting.pop(request)[0], "connection lost") for request in lost]
                connections[connections.index(connection)] = new = H2(target.grpc_port)
                selector.register(new.sock, selectors.EVENT_READ, new)
    errors += [(sent, f"{kind}: no answer") for sent, kind in waiting.values()]
    results.send((answers, errors))


def seed_records(target, users, records):
    """Charges for pages and exports."""
    for user in users:
        for _ in range(records // 1_000):
            item = message({1: user, 2: "passport", 3: 1})
            batch = message({1: [item] * 1_000})
            status, _ = unary(target.grpc_port, INTERNAL + "BatchDeductQuota", batch, target.edge)
            if status != 0:
                sys.exit(f"the records of {user} cannot be written: grpc-status {status}")


def over_http(port, method, path, body=None, headers=None, timeout=5):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        return request(connection, method, path, body, headers)
    finally:
        connection.close()


def begin_recharge(target, user):
    """Starts a top-up as a user does: the order and the id of its payment."""
    body = json.dumps({"amount": 1, "payment_method": "alipay"})
    status, reply = over_http(target.http_port, "POST", "/api/v1/billing/recharge", body, target.user_headers(user), 7)
    if status != 200:
        raise RuntimeError(f"recharge: {status}")
    reply = json.loads(reply)
    return reply["order_id"], reply["payment_url"].rpartition("/")[2]


# What goes on beside a load, at the priority of a normal client. Each raises if it does not succeed.


def health(target):
    for port in (target.http_port, target.grpc_port):
        status, _ = over_http(port, "GET", "/health", timeout=2)
        if status != 200:
            raise RuntimeError(f"/health: {status}")


def paid_order(target):
    """A top-up that is paid and credited, in twenty seconds at most."""
    user = f"payer-{uuid.uuid4().hex[:8]}"
    order, payment = begin_recharge(target, user)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    over_http(target.sandbox_port, "POST", f"/pay/{payment}", "result=SUCCESS", form)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        path = f"/api/v1/billing/recharge/{order}"
        _, reply = over_http(target.http_port, "GET", path, None, target.user_headers(user))
        if b'"success"' in reply:
            return
        time.sleep(0.1)
    raise RuntimeError("a paid order was not credited in 20 s")


def real_stream(target):
    """A metered stream of the normal gateway, from open to finish."""
    connection = H2(target.grpc_port)
    try:
        stream = connection.head(INTERNAL + "MeterStream", target.edge)
        connection.data(stream, attacks.open_event("metered"))
        finish = grpc_frame(message({4: message({1: message({1: 10, 2: 5})})}))
        opened, deadline = False, time.monotonic() + 3
        while connection.is_open and time.monotonic() < deadline:
            for kind, flags, _, payload in connection.events(wait_s=0.1):
                if kind == DATA and not opened:
                    opened = True
                    connection.data(stream, finish, end=True)
                if kind == HEADERS and flags & END_STREAM:
                    if grpc_status(payload) == 0:
                        return
                    raise RuntimeError(f"stream: grpc-status {grpc_status(payload)}")
        raise RuntimeError("a stream was not served")
    finally:
        connection.close()


def other_export(target):
    """The export of a user who reads it."""
    headers = target.user_headers("reader")
    status, text = over_http(target.http_port, "GET", "/api/v1/billing/records.csv", None, headers)
    if status != 200 or text.count(b"\n") < 1_000:
        raise RuntimeError(f"records.csv: {status}, {len(text)} bytes")


def user_recharge(target):
    begin_recharge(target, f"topper-{uuid.uuid4().hex[:8]}")


@dataclasses.dataclass
class Row:
    name: str
    attack: typing.Callable
    limits: dict = dataclasses.field(default_factory=dict)
    switches: dict = dataclasses.field(default_factory=dict)
    seed: typing.Callable = lambda target: None
    beside: typing.Callable = None
    # Returns the faults that only this load has, from its counts, its seconds and its calls of payment-service.
    faults: typing.Callable = lambda seen, seconds, calls: []
    stops_under_load: bool = False


def fault_if(condition, text):
    return [text] if condition else []


def seed_orders(target):
    target.orders = [begin_recharge(target, "mallory")[0] for _ in range(attacks.FORGED_ORDERS)]


def seed_exports(target):
    seed_records(target, ["hoarder"], attacks.RECORDS_OF_HOARDER)
    seed_records(target, ["reader"], 1_000)


def load_tokenizer(target):
    """The first count loads the tokenizer, which stays."""
    unary(target.grpc_port, INTERNAL + "CountTokens", message({1: "gpt-4.1", 2: "first"}), target.edge)


def seed_pipeline(target):
    seed_records(target, ["pipeline"], 1_000)


def seed_pages(target):
    seed_records(target, [f"pages-{user}" for user in range(attacks.PAGE_USERS)], attacks.RECORDS_OF_PAGE_USER)


ROWS = [
    Row("bodies", attacks.bodies),
    Row("recharges", attacks.recharges, switches={"create_delay_ms": 1_000}, beside=user_recharge,
        # 200 under way, each for a second.
        faults=lambda seen, seconds, calls: fault_if(calls > 200 * (seconds + 2), f"{calls} calls of payment-service")),
    Row("strangers", attacks.strangers),
    Row("connections", attacks.idle_connections, limits={"connections": 1_000, "write_timeout": "2s"},
        seed=seed_pipeline, beside=health, stops_under_load=True,
        faults=lambda seen, seconds, calls: fault_if(not seen["pipelines on 8107 ended"], "no pipeline ended")),
    Row("json", attacks.nested_json),
    Row("callbacks", attacks.forged_callbacks, switches={"get_delay_ms": 1_000}, seed=seed_orders, beside=paid_order,
        # Two at once for the attacker, each for a second, and those of the paid orders.
        faults=lambda seen, seconds, calls: fault_if(calls > 10 * (seconds + 2), f"{calls} calls of payment-service")),
    Row("silent-streams", attacks.silent_streams, beside=real_stream),
    Row("letters", attacks.letters, seed=load_tokenizer, beside=real_stream),
    Row("exports", attacks.exports, limits={"export_stall": "2s"}, seed=seed_exports, beside=other_export,
        # Two at once, and further ones when these have stalled.
        faults=lambda seen, seconds, calls: fault_if(seen["200"] <= 2, "no stalled export ended")),
    Row("pages", attacks.pages, seed=seed_pages),
    Row("one-user", attacks.one_user, seed=seed_pages),
    Row("refusals", attacks.refusals),
    Row("metrics", attacks.scrapes),
]


class Beside(threading.Thread):
    """Repeats something beside a load."""

    def __init__(self, once, target):
        super().__init__(daemon=True)
        self.once, self.target, self.times, self.failures = once, target, [], collections.Counter()

    def run(self):
        while self.target.runs():
            began = time.monotonic()
            try:
                self.once(self.target)
                self.times.append(time.monotonic() - began)
            except Exception as error:  # Every failure is counted by its text.
                self.failures[str(error) or type(error).__name__] += 1
            time.sleep(0.2)


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def spawn(work, *arguments):
    """A process and the end of the pipe that gets its result."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*arguments, sending), daemon=True)
    process.start()
    return process, receiving


def result_of(process, receiving, timeout_s):
    try:
        return receiving.recv() if receiving.poll(timeout_s) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def measure(row, service, seconds):
    """One row of the table, and its faults."""
    target, server = service.target, service.server
    row.seed(target)
    began = time.monotonic() + 1
    before_from = began + WARM_UP_S
    load_from = before_from + seconds + 1
    target.until = load_from + seconds
    caller = spawn(normal_caller, target, began, target.until + AFTER_S)
    time.sleep(before_from + seconds - time.monotonic())
    rss, service.calls_before = [server.rss_mib()], service.proxy.calls
    cpu_before = server.cpu_s()
    load = spawn(attacks.run, row.attack, target)
    beside = Beside(row.beside, target) if row.beside else None
    if beside:
        beside.start()
    while target.runs():
        rss.append(server.rss_mib())
        time.sleep(0.05)
    calls, cpu_during = service.calls(), server.cpu_s() - cpu_before
    seen, broken = result_of(*load, timeout_s=10) or (collections.Counter(), "the load did not end")
    ended, cpu = time.monotonic(), server.cpu_s()
    if beside:
        beside.join(timeout=25)
    while time.monotonic() < ended + AFTER_S:
        rss.append(server.rss_mib())
        time.sleep(0.05)
    cpu = server.cpu_s() - cpu
    while rss[-1] > rss[0] + KEPT_MIB and time.monotonic() < ended + MEMORY_BACK_S:
        rss.append(server.rss_mib())
        time.sleep(0.05)
    results = result_of(*caller, timeout_s=REPLY_TIMEOUT_S + 5 + AFTER_S)
    answers, errors = results or ([], [(0, "the normal caller did not end")])
    stop_s = stop(row, service)

    cells, faults = [], [broken] if broken else []
    for kind in ("CheckQuota", "DeductQuota"):
        was, is_now = (
            [ms for sent, ms, of in answers if of == kind and start <= sent < start + seconds]
            for start in (before_from, load_from)
        )
        before, during = percentile(was, 0.99), percentile(is_now, 0.99)
        cells.append(f"{percentile(was, 0.5):.1f}, {before:.1f}; {percentile(is_now, 0.5):.1f}, {during:.1f}")
        if not during < SHIFT * max(before, FLOOR_MS):
            faults.append(f"p99 of {kind}")
    texts = collections.Counter(text for _, text in errors)
    cells.append(counts(texts) or "0")
    cells.append(f"{rss[0]:.0f}, {max(rss):.0f}, {rss[-1]:.0f}")
    aside = []
    if beside:
        slowest = f", {max(beside.times) * 1_000:.0f} ms at most" if beside.times else ""
        aside.append(f"{row.beside.__name__}: {len(beside.times)}{slowest}")
        faults += [f"{text} ({number})" for text, number in beside.failures.items()]
        faults += fault_if(not beside.times, "nothing beside it")
    if calls:
        aside.append(f"{calls} calls of payment-service")
    cells.append("; ".join(aside))
    cells.append(f"{cpu_during:.1f}, {cpu:.1f}; {stop_s:.1f}")
    faults += fault_if(errors, f"{len(errors)} errors")
    faults += fault_if(max(rss) > rss[0] + PEAK_MIB, "memory at the peak")
    faults += fault_if(rss[-1] > rss[0] + KEPT_MIB, "memory kept")
    faults += fault_if(cpu > CPU_AFTER_S, "CPU after the load")
    faults += fault_if(stop_s >= STOP_LIMIT_S, "stop")
    faults += row.faults(seen, seconds, calls) + log_faults(server.log)
    return [row.name, counts(seen), *cells], faults


def stop(row, service):
    """Stops the server, under its load if the row asks for it. Returns the seconds."""
    target = service.target
    if not row.stops_under_load:
        return service.server.stop()
    target.until = time.monotonic() + 4 + STOP_LIMIT_S
    load = spawn(attacks.run, row.attack, target)
    time.sleep(4)
    took = service.server.stop()
    load[0].kill()
    return took


def log_faults(log):
    text = re.sub(r"\x1b\[[0-9;]*m", "", pathlib.Path(log).read_text(errors="replace"))
    lines = [line for line in text.splitlines() if re.search(r"^\S+ +ERROR|panicked", line)]
    return fault_if(lines, f"{len(lines)} errors in the log, the first: {lines[0] if lines else ''}")


HEAD = [
    "load", "answers to it", "CheckQuota p50, p99 before; during (ms)", "DeductQuota", "errors of the normal caller",
    "memory before, peak, after (MiB)", "beside it", "CPU during, after; stop (s)", "result",
]


def main():
    arguments = argparse.ArgumentParser(description="Loads that must do no harm, against a private server.")
    names = [row.name for row in ROWS]
    arguments.add_argument("--only", action="append", choices=names, help="this row; can be repeated")
    arguments.add_argument("--seconds", type=int, default=5, help="of each row before and during its load, 1 to 600")
    arguments.add_argument("--mysql", action="store_true", help="on a private MariaDB in place of SQLite")
    arguments.add_argument("--server", default=ROOT / "target/release/server")
    arguments.add_argument("--sandbox", default=ROOT / "target/release/payment-sandbox")
    arguments = arguments.parse_args()
    seconds = min(max(arguments.seconds, 1), 600)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder, mariadb, failed = pathlib.Path(tempfile.mkdtemp(prefix="harm-")), None, False
    # A signal ends the processes too: sys.exit runs the finally below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load_before = os.getloadavg()[0]
    try:
        mariadb = MariaDb(folder) if arguments.mysql else None
        print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
        for row in ROWS:
            if arguments.only and row.name not in arguments.only:
                continue
            (own := folder / row.name).mkdir()
            service = Service(own, (arguments.server, arguments.sandbox), mariadb, row)
            try:
                cells, faults = measure(row, service, seconds)
            finally:
                service.stop()
            failed |= bool(faults)
            print(f"| {' | '.join(cells)} | {'FAILED: ' + '; '.join(faults) if faults else 'passed'} |", flush=True)
    finally:
        if mariadb:
            mariadb.process.stop(limit_s=60)
        shutil.rmtree(folder, ignore_errors=True)
    loads = f"{load_before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"
    print(f"\nLoad average of the machine: {loads}, on {os.cpu_count()} cores.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
