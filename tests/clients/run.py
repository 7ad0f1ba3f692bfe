#!/usr/bin/env python3
"""Generates clients in Python, TypeScript and Go from the OpenAPI documents and from the proto files, compiles them, and
runs one session with each against a private server. All packages have pinned versions and go to target/clients.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from private_server import CALLER_TOKEN, python_of, running_server, user_token, work_folder  # noqa: E402

# A step that hangs fails.
STEP_LIMIT_S = 900


def run(folder, *command, **env):
    subprocess.run([str(part) for part in command], cwd=folder, check=True, timeout=STEP_LIMIT_S, env={**os.environ, **env})


class Work:
    """The folder of one language: a copy of its sources, with what is generated beside them."""

    def __init__(self, language, kept=()):
        self.folder = work_folder("clients") / language
        # Installed packages stay for the next run.
        for entry in self.folder.iterdir() if self.folder.exists() else []:
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.copytree(HERE / language, self.folder, dirs_exist_ok=True)

    def run(self, *command, **env):
        run(self.folder, *command, **env)


def python(tools, documents):
    work = Work("python")
    generator = pathlib.Path(tools).parent / "openapi-python-client"
    for name, document in documents.items():
        # It formats its output by a program that is not needed here.
        (work.folder / "config.yaml").write_text("post_hooks: []\n")
        work.run(generator, "generate", "--path", document, "--meta", "none", "--output-path", f"{name}_api", "--config", "config.yaml")
    protoc = [tools, "-m", "grpc_tools.protoc", "-I", ROOT / "proto"]
    work.run(*protoc, "--python_out=.", "--grpc_python_out=.", "billing/v1/billing.proto")
    work.run(tools, "-m", "compileall", "-q", ".")
    return [("Python, REST", work, [tools, "rest.py"]), ("Python, gRPC", work, [tools, "rpc.py"])]


def typescript(tools, documents):
    work = Work("typescript", kept=["node_modules"])
    work.run("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    for name, document in documents.items():
        work.run("node_modules/.bin/openapi-typescript", document, "-o", f"src/{name}.d.ts")
    plugin = work.folder / "node_modules/.bin/protoc-gen-ts_proto"
    options = "outputServices=grpc-js,esModuleInterop=true,forceLong=string,onlyTypes=false,importSuffix=.js"
    work.run(
        tools, "-m", "grpc_tools.protoc", "-I", ROOT / "proto", f"--plugin=protoc-gen-ts_proto={plugin}",
        f"--ts_proto_opt={options}", "--ts_proto_out=src", "billing/v1/billing.proto",
    )
    work.run("node_modules/.bin/tsc")
    return [("TypeScript, REST", work, ["node", "out/rest.js"]), ("TypeScript, gRPC", work, ["node", "out/rpc.js"])]


def go(tools, documents):
    work = Work("go")
    for name, document in documents.items():
        folder = work.folder / f"{name}api"
        folder.mkdir()
        output = folder / "client.go"
        work.run("go", "tool", "oapi-codegen", "-generate", "types,client", "-package", folder.name, "-o", output, document)
    plugins = work.folder / "plugins"
    work.run("go", "install", "google.golang.org/protobuf/cmd/protoc-gen-go", GOBIN=str(plugins))
    work.run("go", "install", "google.golang.org/grpc/cmd/protoc-gen-go-grpc", GOBIN=str(plugins))
    package = "Mbilling/v1/billing.proto=clients/billingv1"
    work.run(
        tools, "-m", "grpc_tools.protoc", "-I", ROOT / "proto",
        f"--plugin=protoc-gen-go={plugins}/protoc-gen-go", f"--plugin=protoc-gen-go-grpc={plugins}/protoc-gen-go-grpc",
        "--go_out=.", "--go_opt=module=clients", f"--go_opt={package}",
        "--go-grpc_out=.", "--go-grpc_opt=module=clients", f"--go-grpc_opt={package}", "billing/v1/billing.proto",
    )
    work.run("go", "build", "-o", "bin/", "./rest", "./rpc")
    return [("Go, REST", work, ["bin/rest"]), ("Go, gRPC", work, ["bin/rpc"])]


def main():
    chosen = sys.argv[1:] or ["python", "typescript", "go"]
    languages = {"python": python, "typescript": typescript, "go": go}
    tools = python_of(work_folder("clients") / "venv", HERE / "requirements.txt")
    with running_server() as server:
        documents = {}
        for name, port in [("public", "http"), ("internal", "grpc")]:
            documents[name] = work_folder("clients") / f"{name}.json"
            documents[name].write_text(json.dumps(server.document(port)))
        for language in chosen:
            for number, (name, work, session) in enumerate(languages[language](tools, documents)):
                user = f"{language}_{number}"
                work.run(
                    *session, BILLING_HTTP=server.http, BILLING_GRPC=server.grpc, BILLING_USER=user,
                    BILLING_CALLER_TOKEN=CALLER_TOKEN, BILLING_USER_TOKEN=user_token(user),
                )
                print(f"{name}: the session passed", flush=True)


if __name__ == "__main__":
    main()
