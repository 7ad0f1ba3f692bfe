"""A private server for the tiers that call it from outside: SQLite, the payment sandbox, callers and users with tokens."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_LIMIT_S, STOP_LIMIT_S = 60, 20
CALLER_TOKEN = "a-token-of-the-admin-of-a-test"
JWT_SECRET = "a-secret-of-tests-of-at-least-32-bytes"
ISSUER, AUDIENCE = "https://issuer.example", "billing"
TOKEN_LIFE_S = 6 * 3600


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def user_token(user, scope=None):
    """A token of a user, signed with HS256."""
    now = int(time.time())
    claims = {"sub": user, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "nbf": now - 1, "exp": now + TOKEN_LIFE_S}
    if scope:
        claims["scope"] = scope
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
    signature = hmac.new(JWT_SECRET.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def configuration(folder, http, grpc, sandbox):
    return {
        "environment": "development",
        "server": {
            "http": {
                "addr": f"127.0.0.1:{http}",
                "timeout": "10s",
                "unknown_fields": "ignore",
                "auth": {
                    "mode": "jwt",
                    "jwt": {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["HS256"], "secret": JWT_SECRET},
                },
            },
            "grpc": {
                "addr": f"127.0.0.1:{grpc}",
                "timeout": "10s",
                "auth": {
                    "protect_operations": True,
                    "callers": [
                        {
                            "name": "tester",
                            "roles": ["admin"],
                            "token_sha256": [hashlib.sha256(CALLER_TOKEN.encode()).hexdigest()],
                        }
                    ],
                },
            },
            # Many requests of few users come at once, and many of them are refused.
            "limits": {
                "requests_per_user": 1000,
                "recharges_per_user": 1000,
                "recharges_per_address": 1000,
                "open_recharges": 100000,
                "open_requests_per_address": 1000,
                "reads_per_account": 100,
                "waiting_reads_per_account": 1000,
                "exports": 100,
                "exports_per_user": 100,
                "refused_calls": 1000000,
                "wrong_tokens": 1000000,
            },
        },
        "data": {"database": {"driver": "sqlite", "source": str(folder / "billing.db")}},
        "billing": {
            "prices": {"passport": 0.01, "payment": 0.10, "asset": 0.05},
            "free_quotas": {"passport": 10000, "payment": 1000, "asset": 1000},
            "model_services": {"llm": "calls", "chat": "tokens"},
            "models": {"gpt-4.1": {"input": 15, "cached_input": 4, "output": 60}},
            "plans": {"reseller": {"multiplier": 1.2}},
        },
        "payment_service": {
            "sandbox": True,
            "grpc_addr": f"127.0.0.1:{sandbox}",
            "timeout": "5s",
            "notify_url": f"http://127.0.0.1:{grpc}/internal/v1/billing/callback",
            # Callbacks without a proof have a low rate for each address. Those of a caller have none.
            "callback_auth": "none",
        },
        "log": {"level": "info", "format": "json"},
    }


def server_binary():
    """The program under test: BILLING_SERVER, or a debug build of this tree."""
    given = os.environ.get("BILLING_SERVER")
    if given:
        return given
    subprocess.run(["cargo", "build", "--locked", "--bin", "server"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return str(target / "debug" / "server")


class Server:
    """A running server with its addresses."""

    def __init__(self, http, grpc, log):
        self.http, self.grpc, self.log = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log

    def document(self, port):
        """The OpenAPI document of a port, http or grpc."""
        headers = {"authorization": f"Bearer {CALLER_TOKEN}"} if port == "grpc" else {}
        url = f"http://{getattr(self, port)}/openapi.json"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return json.load(reply)


    def answers(self):
        """The number of REST answers by rpc and code, from the metrics."""
        request = urllib.request.Request(f"http://{self.grpc}/metrics", headers={"authorization": f"Bearer {CALLER_TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        counts = {}
        for line in lines:
            found = re.fullmatch(r'billing_requests_total\{(.*)\} (\d+)', line)
            labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1])) if found else {}
            if labels.get("protocol") == "http":
                counts[labels["rpc"], labels["code"]] = int(found[2])
        return counts


def is_ready(server):
    try:
        with urllib.request.urlopen(f"http://{server.http}/ready", timeout=1) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def running_server():
    """Starts a server on free ports, and stops it at the end. A failure shows the end of its log."""
    binary = server_binary()
    with tempfile.TemporaryDirectory(prefix="billing-") as name:
        folder = pathlib.Path(name)
        http, grpc, sandbox = free_ports(3)
        conf, log = folder / "config.yaml", folder / "server.log"
        # JSON is YAML.
        conf.write_text(json.dumps(configuration(folder, http, grpc, sandbox)))
        with log.open("wb") as output:
            process = subprocess.Popen([binary, "-conf", str(conf)], stdout=output, stderr=subprocess.STDOUT)
        server = Server(http, grpc, log)
        try:
            deadline = time.monotonic() + START_LIMIT_S
            while not is_ready(server):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the server did not start:\n{log.read_text()[-4000:]}")
                time.sleep(0.1)
            yield server
            if process.poll() is not None:
                sys.exit(f"the server ended:\n{log.read_text()[-4000:]}")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def python_of(folder, requirements):
    """The interpreter of a virtual environment with pinned packages. A later run finds it."""
    python, mark = folder / "bin" / "python", folder / "installed"
    wanted = requirements.read_text()
    if not mark.exists() or mark.read_text() != wanted:
        # On Debian it needs the package python3-venv, and says so.
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements], check=True)
        mark.write_text(wanted)
    return str(python)


def work_folder(name):
    """A folder of a tier for what it installs and makes."""
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
