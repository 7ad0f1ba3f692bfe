"""The private processes of harm.py: a server, its payment-service, and a MariaDB if asked for."""

import functools
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

from harm_attacks import Target
from harm_wire import HEADERS

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_TIMEOUT_S, STOP_LIMIT_S = 60, 10
# The callers of port 9107 and their roles: the normal gateway and the attacking one.
CALLERS = [("edge", "gateway"), ("other", "gateway")]
MIB = 1 << 20


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class CountingProxy:
    """Stands before payment-service and counts its calls: the frames that begin a request."""

    def __init__(self, behind):
        self.behind, self.calls = behind, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._thread(self._accept)

    @staticmethod
    def _thread(work, *arguments):
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.behind))
            except OSError:
                return
            self._thread(self._forward, client, server, True)
            self._thread(self._forward, server, client, False)

    def _forward(self, source, target, counted):
        buffer, preface = b"", 24
        try:
            while received := source.recv(1 << 16):
                target.sendall(received)
                if counted:
                    buffer += received
                    buffer, preface = self._count(buffer, preface)
        except OSError:
            pass
        for sock in (source, target):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _count(self, buffer, preface):
        if preface:
            if len(buffer) < preface:
                return buffer, preface
            buffer = buffer[preface:]
        while len(buffer) >= 9 and len(buffer) >= 9 + (length := int.from_bytes(buffer[:3], "big")):
            self.calls += buffer[3] == HEADERS
            buffer = buffer[9 + length:]
        return buffer, 0

    def close(self):
        self.listener.close()


class Process:
    """A child process with its log, and its memory and CPU time by /proc."""

    def __init__(self, command, log):
        self.log = log
        with open(log, "wb") as out:
            self.child = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)

    def rss_mib(self):
        pages = int(pathlib.Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    def cpu_s(self):
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, limit_s=STOP_LIMIT_S):
        """Sends SIGTERM, and returns the seconds until the end; kills after the limit."""
        began = time.monotonic()
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        return time.monotonic() - began


def wait_until(ready, process, name):
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.child.poll() is not None or time.monotonic() > deadline:
            log = pathlib.Path(process.log).read_text(errors="replace")
            sys.exit(f"{name} does not start:\n{log[-2_000:]}")
        time.sleep(0.05)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class MariaDb:
    """A private MariaDB for all rows; each row has a database of its own."""

    def __init__(self, folder):
        self.port, self.folder, self.databases = free_port(), folder, 0
        data = f"--datadir={folder / 'mariadb'}"
        install = ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install + [data], check=True, capture_output=True, timeout=2 * START_TIMEOUT_S)
        command = ["mariadbd", "--no-defaults", "--user=root", "--skip-log-bin", "--innodb-buffer-pool-size=512M", data]
        command += [f"--socket={folder}/socket", f"--pid-file={folder}/pid", "--bind-address=127.0.0.1"]
        command += [f"--port={self.port}"]
        self.process = Process(command, folder / "mariadb.log")
        wait_until(lambda: accepts(self.port), self.process, "mariadbd")

    def source(self):
        self.databases += 1
        name = f"harm_{self.databases}"
        create = f"CREATE DATABASE {name} CHARACTER SET utf8mb4"
        client = ["mariadb", "--no-defaults", "-uroot", f"--socket={self.folder}/socket", "-e", create]
        subprocess.run(client, check=True, timeout=START_TIMEOUT_S)
        return f"root@tcp(127.0.0.1:{self.port})/{name}?charset=utf8mb4&parseTime=True"


class Service:
    """A server with its payment-service, on free ports. A JSON text is also YAML, so the configuration is JSON."""

    def __init__(self, folder, programs, mariadb, row):
        tokens = [uuid.uuid4().hex + uuid.uuid4().hex for _ in CALLERS]
        sandbox_port = free_port()
        self.proxy = CountingProxy(sandbox_port)
        self.target = Target(free_port(), free_port(), sandbox_port, *tokens, jwt_secret=uuid.uuid4().hex)
        self.calls_before = 0
        source = {"driver": "mysql", "source": mariadb.source()} if mariadb else None
        source = source or {"driver": "sqlite", "source": str(folder / "billing.db")}
        config = self.config(tokens, row.limits, source)
        conf = folder / "config.yaml"
        conf.write_text(json.dumps(config, indent=1))
        server, sandbox = programs
        command = [sandbox, "--conf", conf, "--addr", f"127.0.0.1:{sandbox_port}"]
        self.sandbox = Process(command + ["--switches", json.dumps(row.switches)], folder / "sandbox.log")
        self.server = Process([server, "-conf", conf], folder / "server.log")
        wait_until(lambda: accepts(sandbox_port), self.sandbox, "payment-sandbox")
        for port in (self.target.http_port, self.target.grpc_port):
            wait_until(functools.partial(accepts, port), self.server, "the server")

    def config(self, tokens, limits, database):
        ports = self.target
        jwt = {"issuer": "harm", "audience": "billing", "algorithms": ["HS256"], "secret": ports.jwt_secret}
        callers = [
            {"name": name, "roles": [role], "token_sha256": [hashlib.sha256(token.encode()).hexdigest()]}
            for (name, role), token in zip(CALLERS, tokens)
        ]
        return {
            "environment": "staging",
            "server": {
                "http": {"addr": f"127.0.0.1:{ports.http_port}", "auth": {"mode": "jwt", "jwt": jwt}},
                "grpc": {"addr": f"127.0.0.1:{ports.grpc_port}", "auth": {"callers": callers}},
                "limits": limits,
            },
            "data": {"database": database},
            "billing": {
                "prices": {"passport": 0.01},
                "model_services": {"llm": "tokens"},
                "models": {"gpt-4.1": {"input": 15, "output": 60}},
                "free_quotas": {"passport": 10**9, "llm": 10**9},
            },
            "payment_service": {
                "grpc_addr": f"127.0.0.1:{self.proxy.port}",
                "return_url": "http://localhost/",
                "notify_url": f"http://127.0.0.1:{ports.grpc_port}/internal/v1/billing/callback",
            },
        }

    def calls(self):
        """Calls of payment-service since the load began."""
        return self.proxy.calls - self.calls_before

    def stop(self):
        for process in (self.server, self.sandbox):
            if process.child.poll() is None:
                process.stop()
        self.proxy.close()
