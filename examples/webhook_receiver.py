#!/usr/bin/env python3
"""Receives events of the billing service, verifies them, and acts once on each.

    pip install standardwebhooks==1.1.0
    WEBHOOK_SECRET=whsec_... webhook_receiver.py 8090

PutWebhook shows the secret once. While it is replaced, the service signs with the old and the new one, so this program
needs one of them only: start it again with the new secret before the old one ends.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

# Far above any event.
MAX_BODY = 1024 * 1024
webhook = Webhook(os.environ["WEBHOOK_SECRET"])
# A real receiver keeps the ids in its database, in the transaction of the effect of each event.
seen, lock = set(), Lock()


def act_on(event):
    """The effect of an event. It must be done before the answer, because a good answer ends the deliveries."""
    print(json.dumps({"type": event["type"], "id": event["id"], "data": event["data"]}), flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if length > MAX_BODY:
            return self.answer(413)
        # The signature is that of the bytes as they were sent.
        body = self.rfile.read(length)
        try:
            event = webhook.verify(body, {name.lower(): value for name, value in self.headers.items()})
        except WebhookVerificationError:
            return self.answer(400)
        with lock:
            if event["id"] not in seen:
                act_on(event)
                seen.add(event["id"])
        return self.answer(204)

    def answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
print("listening", flush=True)
server.serve_forever()
