#!/usr/bin/env python3
"""Holds a running server against its OpenAPI documents, for `make test-schema`.

The documents are valid OpenAPI 3.1, and their examples fit their schemas. Then schemathesis sends requests that it
makes of the documents, with a fixed seed and for a bounded time. It fails for a 5xx, for an answer that the document
does not have, and for a route that works without its proof.

The service takes more than the documents say, by the rules of proto3 JSON: names in both spellings, numbers in texts, and
null. So no check expects that each request beyond a schema is refused; tests/it/openapi/bounds.rs sends values beyond the
bounds.
"""

import json
import os
import pathlib
import subprocess
import sys

from private_server import CALLER_TOKEN, python_of, running_server, user_token, work_folder

HERE = pathlib.Path(__file__).resolve().parent
SECONDS = int(os.environ.get("BILLING_SCHEMA_SECONDS", "45"))
SEED = int(os.environ.get("SEED", "1"))
LEAST_SECONDS = 5
# Rpcs and exports with a good answer, at the least. A slow machine needs more runs for them, each with a seed of its own.
LEAST_GOOD = 35
MOST_RUNS = 5
# A run that does not end is killed.
GRACE_S = 240
AUTHORIZE = "/internal/v1/billing/authorize"
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
]


def fuzz(python, url, share, token, folder, only, checks=CHECKS, seed=SEED):
    """Runs schemathesis against a document for a share of the time. Returns whether it found nothing."""
    seconds = max(LEAST_SECONDS, int(SECONDS * share))
    command = [
        str(pathlib.Path(python).parent / "schemathesis"), "run", url,
        "--header", f"Authorization: Bearer {token}",
        "--checks", ",".join(checks),
        "--seed", str(seed), "--max-time", str(seconds), "--continue-on-failure", "--warnings", "off", "--no-color",
        "--request-timeout", "30", "--suppress-health-check", "all",
        "--output-sanitize", "true",
        *only,
    ]
    print(f"schemathesis: {url} for {seconds} s, seed {seed} {' '.join(only)}", flush=True)
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds + GRACE_S)
    lines = run.stdout.splitlines()
    if run.returncode == 0:
        print("\n".join(line for line in lines if "generated" in line or "Tested:" in line))
        return True
    print(run.stdout)
    return False


def reaches_the_rules(answers):
    """Whether each rpc was answered, and almost each with success: requests that are all refused would find nothing."""
    rpcs = {rpc for rpc, _ in answers if rpc}
    good = {rpc for rpc, code in answers if code == "200"}
    print(f"{sum(answers.values())} answers, {sum(count for (_, code), count in answers.items() if code == '200')} of them good; "
          f"never good: {', '.join(sorted(rpcs - good)) or 'none'}")
    return len(good) >= LEAST_GOOD


def main():
    folder = work_folder("schema")
    python = python_of(folder / "venv", HERE / "schema-requirements.txt")
    with running_server() as server:
        found = []
        for port in ["http", "grpc"]:
            file = folder / f"{port}.json"
            file.write_text(json.dumps(server.document(port)))
            found.append(subprocess.run([python, HERE / "schema_documents.py", file]).returncode == 0)
        reads = ["--include-method", "GET"]
        # This route takes any method.
        any_method = [check for check in CHECKS if check not in ("unsupported_method", "allow_header_conformance")]
        internal = f"http://{server.grpc}/openapi.json", 0.5, CALLER_TOKEN, folder, ["--exclude-path", AUTHORIZE]
        found += [
            fuzz(python, *internal),
            fuzz(python, f"http://{server.grpc}/openapi.json", 0.1, CALLER_TOKEN, folder, ["--include-path", AUTHORIZE], any_method),
            # A token for support reads every account.
            fuzz(python, f"http://{server.http}/openapi.json", 0.3, user_token("user_001", "billing:support"), folder, reads),
            fuzz(python, f"http://{server.http}/openapi.json", 0.1, user_token("user_001"), folder, ["--include-method", "POST"]),
        ]
        for run in range(1, MOST_RUNS):
            if reaches_the_rules(server.answers()):
                break
            found.append(fuzz(python, *internal, seed=SEED + run))
        else:
            found.append(reaches_the_rules(server.answers()))
    sys.exit(0 if all(found) else 1)


if __name__ == "__main__":
    main()
