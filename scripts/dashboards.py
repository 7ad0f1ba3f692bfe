#!/usr/bin/env python3
"""Asks a private Prometheus for every panel of deploy/grafana, while it scrapes a server and cron under load.

`make check-dashboards`. A panel without data is an error. Needs Python 3, MariaDB, Redis and Prometheus (Debian
packages; `make deps`), and no Python package.
"""

import argparse
import base64
import hashlib
import http.client
import json
import pathlib
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from harm_service import ROOT, MariaDb, Process, accepts, free_port, wait_until

TOKEN = "a-token-of-the-check-of-dashboards"
USERS, WORKERS, REQUEST_TIMEOUT_S = 20, 4, 5
# Servers read the result of the audit and count accounts once a minute, at the first time after a minute.
DATA_DEADLINE_S, PAUSE_S = 150, 5
SCRAPE_INTERVAL = "1s"
# In place of the variables of Grafana.
RATE_INTERVAL = "30s"


def config(folder, database, redis, ports):
    services = {"passport": 0.01, "payment": 0.1, "asset": 0.05}
    caller = {"name": "edge", "roles": ["admin"], "token_sha256": [hashlib.sha256(TOKEN.encode()).hexdigest()]}
    conf = {
        "server": {
            "http": {"addr": f"127.0.0.1:{ports['http']}"},
            "grpc": {"addr": f"127.0.0.1:{ports['grpc']}", "auth": {"callers": [caller]}},
            # Idle connections end soon, and refusals are delayed soon.
            "limits": {"idle_timeout": "1s", "refused_calls": 1, "refusal_pause": "0.1s"},
        },
        "data": {
            "database": {"driver": "mysql", "source": database},
            "redis": {"addr": f"127.0.0.1:{redis}", "read_timeout": "0.2s", "write_timeout": "0.2s"},
        },
        "billing": {
            "prices": services,
            "model_services": {"llm": "tokens"},
            "models": {"gpt-4.1": {"input": 15, "output": 60}},
            "free_quotas": {name: 50 for name in services} | {"llm": 1000},
            "reservations": {"asset": {"above_hold": "cap"}},
            "webhooks": {"key": base64.b64encode(bytes(range(32))).decode(), "allow_private": True},
        },
        "payment_service": {
            "sandbox": True,
            "grpc_addr": f"127.0.0.1:{ports['sandbox']}",
            "timeout": "5s",
            "notify_url": f"http://127.0.0.1:{ports['grpc']}/internal/v1/billing/callback",
            "callback_secrets": ["a-secret-of-the-check"],
        },
        "cron": {"metrics": {"addr": f"127.0.0.1:{ports['cron']}"}},
    }
    path = folder / "config.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(conf))
    return path


class Load:
    """Calls of every kind, refused ones too, until `stop`."""

    def __init__(self, ports):
        self.ports, self.stop, self.failures = ports, threading.Event(), {}
        # The sandbox has no such page, so it refuses the events.
        self._post("webhooks", {"webhook_id": "refused", "url": f"http://127.0.0.1:{ports['sandbox']}/none"})
        self.threads = [threading.Thread(target=self._run, args=[n], daemon=True) for n in range(WORKERS)]
        for thread in self.threads:
            thread.start()

    def _call(self, port, method, path, body=None, token=TOKEN, content="application/json"):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=REQUEST_TIMEOUT_S)
        headers = {"content-type": content} | ({"authorization": f"Bearer {token}"} if token else {})
        try:
            connection.request(method, path, None if body is None else body.encode(), headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def _post(self, path, body, **more):
        return self._call("grpc", "POST", f"/internal/v1/billing/{path}", json.dumps(body), **more)

    def _run(self, worker):
        # A connection that idles until the server ends it.
        idle = http.client.HTTPConnection("127.0.0.1", self.ports["grpc"], timeout=REQUEST_TIMEOUT_S)
        idle.connect()
        turn = 0
        while not self.stop.is_set():
            turn += 1
            try:
                self._turn(worker, turn)
            except OSError as error:
                self.failures[type(error).__name__] = self.failures.get(type(error).__name__, 0) + 1
            self.stop.wait(0.05)

    def _turn(self, worker, turn):
        user, trace = f"user-{worker}-{turn % USERS}", f"{worker}-{turn}"
        self._post("adjust", {"user_id": user, "amount": 2, "reason": "load", "adjustment_id": trace})
        call = {"user_id": user, "service_name": "asset", "count": 3, "trace_id": trace}
        self._post("check", {"user_id": user, "service_name": "asset", "count": 1})
        self._post("deduct", call)
        self._post("deduct", call)
        self._post("deduct", call | {"count": 4})
        self._post("deduct", call | {"count": 9_000_000, "trace_id": f"{trace}-much"})
        usage = {"input_tokens": 100, "output_tokens": 50}
        self._post("deduct", {"user_id": user, "service_name": "llm", "model": "gpt-4.1", "count": 1, "usage": usage})
        self._post("reserve", call | {"count": 1, "trace_id": f"{trace}-hold"})
        self._post("commit", {"user_id": user, "trace_id": f"{trace}-hold", "count": 5})
        self._post("commit", {"user_id": user, "trace_id": "none", "count": 5})
        self._post("refund", {"user_id": user, "trace_id": trace, "refund_id": trace, "count": 1, "reason": "load"})
        self._post("check", {"user_id": user, "service_name": "asset", "count": 1, "unknown": 1})
        self._post("check", {}, token="a-token-of-a-stranger")
        self._call("http", "GET", f"/api/v1/billing/account?user_id={user}")
        if turn % 10 == 5:
            self._refused()
        if turn % 10 == 0:
            self._top_up(user, "SUCCESS" if turn % 20 == 0 else "FAILED")

    def _refused(self):
        """Calls without a proof on one connection, of which the later ones are answered late."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["grpc"], timeout=REQUEST_TIMEOUT_S)
        for _ in range(3):
            connection.request("POST", "/internal/v1/billing/check", b"{}", {"content-type": "application/json"})
            connection.getresponse().read()
        connection.close()

    def _top_up(self, user, result):
        order = {"user_id": user, "amount": 5, "payment_method": "alipay"}
        _, reply = self._call("http", "POST", "/api/v1/billing/recharge", json.dumps(order))
        page = urllib.parse.urlparse(json.loads(reply).get("payment_url", "")).path
        self._call("sandbox", "POST", page, f"result={result}", content="application/x-www-form-urlencoded")

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(2 * REQUEST_TIMEOUT_S)


def panels():
    """Dashboard, title and expression of every query."""
    for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield path.stem, panel["title"], target["expr"]


def query(port, expr):
    expr = expr.replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*")
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
    with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT_S) as reply:
        answer = json.load(reply)
    # A rate of a histogram without a call is NaN, which Grafana does not draw.
    return [series for series in answer["data"]["result"] if series["value"][1] != "NaN"]


def prometheus(folder, ports):
    """The configuration of deploy/, with the addresses of here."""
    conf = (ROOT / "deploy/prometheus/prometheus.yaml").read_text()
    for there, here in [
        ("server:9107", f"127.0.0.1:{ports['grpc']}"),
        ("cron:9207", f"127.0.0.1:{ports['cron']}"),
        ("/etc/prometheus/alerts.yaml", str(ROOT / "configs/alerts.yaml")),
    ]:
        assert there in conf, there
        conf = conf.replace(there, here)
    conf = re.sub(r"_interval: \w+", f"_interval: {SCRAPE_INTERVAL}", conf)
    (folder / "prometheus.yaml").write_text(conf)
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb"]
    return command + [f"--web.listen-address=127.0.0.1:{ports['prometheus']}"]


def watch(port):
    """The queries without data at the deadline."""
    missing, deadline = list(panels()), time.monotonic() + DATA_DEADLINE_S
    total = len(missing)
    while missing and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
        missing = [panel for panel in missing if not query(port, panel[2])]
        print(f"{total - len(missing)} of {total} queries have data", flush=True)
    return missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "target/release"), help="folder of server and cron")
    programs = pathlib.Path(parser.parse_args().bin).resolve()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="billing-dashboards-"))
    names = ["http", "grpc", "sandbox", "cron", "redis", "prometheus"]
    ports, running = {name: free_port() for name in names}, []

    def start(name, command, port):
        process = Process(command, folder / f"{name}.log")
        running.append(process)
        wait_until(lambda: accepts(port), process, name)

    try:
        database = MariaDb(folder)
        running.append(database.process)
        redis = ["redis-server", "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        start("redis", redis, ports["redis"])
        conf = str(config(folder, database.source(), ports["redis"], ports))
        start("server", [str(programs / "server"), "-conf", conf], ports["grpc"])
        start("cron", [str(programs / "cron"), "-conf", conf], ports["cron"])
        start("prometheus", prometheus(folder, ports), ports["prometheus"])
        load = Load(ports)
        missing = watch(ports["prometheus"])
        load.end()
        for board, title, expr in missing:
            print(f"no data: {board}, {title}: {expr}")
        if load.failures:
            print(f"calls without an answer: {load.failures}")
        sys.exit(1 if missing else 0)
    finally:
        for process in reversed(running):
            process.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
