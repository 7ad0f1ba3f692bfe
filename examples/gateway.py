"""A gateway that bills its calls over gRPC: a call of known cost, and the stream of a model.

    python3 examples/gateway.py call localhost:9107 USER SERVICE COUNT TRACE_ID
    python3 examples/gateway.py stream localhost:9107 USER SERVICE MODEL TRACE_ID < FILE

It needs the packages grpcio, grpcio-tools and googleapis-common-protos. The environment variable BILLING_TOKEN has the
token of a caller with the role gateway.
"""

import os
import queue
import sys
import time

import grpc
from google.rpc import error_details_pb2, status_pb2

# The proto files are compiled at the start. A real gateway compiles them in its build.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "proto"))
proto, services = grpc.protos_and_services("billing/v1/billing.proto")

ATTEMPTS = 6
# Seconds of an attempt.
DEADLINE = 15
# The pause before the second attempt, in seconds. It doubles with each further one.
PAUSE = 0.2
# billing.settlement.retry_timeout of the server. An attempt without an answer may still be made for so long.
SETTLED_AFTER = 10
# The call may have been made in spite of these.
UNKNOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}
TOKEN = os.environ.get("BILLING_TOKEN")
METADATA = [("authorization", f"Bearer {TOKEN}")] if TOKEN else []


def details(error):
    """The error code and the pause that the server asks for, in seconds; None where there is none."""
    code = pause = None
    for key, value in error.trailing_metadata() or []:
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    code = info.metadata.get("error_code")
                elif detail.Unpack(retry):
                    pause = retry.retry_delay.ToTimedelta().total_seconds()
    return code, pause


def pause_after(error, number):
    asked = details(error)[1]
    return asked if asked is not None else PAUSE * 2 ** (number - 1)


def until_known(attempt):
    """Repeats a call until its outcome is known. Every attempt sends the same trace id, so one charge is made.

    If the last attempt fails too, the outcome is unknown: keep the call, and send it again later.
    """
    unknown_at = None
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except grpc.RpcError as error:
            if number == ATTEMPTS:
                raise
            if error.code() in UNKNOWN:
                unknown_at = time.monotonic()
                time.sleep(pause_after(error, number))
            elif unknown_at is not None:
                # A refusal says nothing about the attempt before, which may still be made. Ask once more.
                time.sleep(max(0, unknown_at + SETTLED_AFTER - time.monotonic()))
                unknown_at = None
            else:
                raise


def call(stub, user, service, count, trace):
    """Check, work, charge."""
    check = proto.CheckQuotaRequest(user_id=user, service_name=service, count=count)
    verdict = until_known(lambda: stub.CheckQuota(check, timeout=DEADLINE, metadata=METADATA))
    if not verdict.allowed:
        print(f"refused: {verdict.reason} ({verdict.error_code})")
        return
    # Here the gateway passes the call on. A call that fails is not charged. The work is done before the
    # charge, so the charge is marked as delivered, and is not refused for money.
    charge = proto.DeductQuotaRequest(
        user_id=user, service_name=service, count=count, trace_id=trace, delivered=True
    )
    charged = until_known(lambda: stub.DeductQuota(charge, timeout=DEADLINE, metadata=METADATA))
    again = ", by an earlier attempt" if charged.replayed else ""
    print(f"charged: {charged.free_count} free, {charged.paid_count} for {charged.amount:g}{again}")


def stream(stub, user, service, model, trace, source):
    """Meters the output of a model. A stream that breaks is opened again with the same trace id, and gets the
    output from its start, which counts once."""
    # The prompt as CountTokens counts it, and the longest answer of the model.
    opening = proto.ReserveQuotaRequest(
        user_id=user, service_name=service, model=model, trace_id=trace, count=1,
        estimated_input_tokens=100, estimated_output_tokens=200,
    )
    delivered = bytearray()
    for number in range(1, ATTEMPTS + 1):
        try:
            return session(stub, opening, delivered, source)
        except grpc.RpcError as error:
            if number == ATTEMPTS or error.code() not in UNKNOWN:
                raise
            time.sleep(pause_after(error, number))


def session(stub, opening, delivered, source):
    messages = queue.SimpleQueue()
    messages.put(proto.MeterStreamRequest(open=opening))
    replies = stub.MeterStream(iter(messages.get, None), metadata=METADATA)
    has_ended = False
    try:
        for reply in replies:
            kind = reply.WhichOneof("event")
            if kind == "finished":
                print(f"finished: {reply.finished.amount:g} charged, {reply.finished.balance:g} left")
                return
            if kind == "opened":
                # Output is delivered to the user only after the reservation.
                print(f"opened: {reply.opened.amount:g} held")
                if delivered:
                    messages.put(proto.MeterStreamRequest(output=bytes(delivered)))
                    continue
            if has_ended:
                continue
            # Each state answers a chunk, so the next one is read now. A chunk may end inside a character.
            chunk = b"" if kind == "state" and reply.state.stop else source.read(16)
            if chunk:
                # Here the gateway passes the chunk on.
                delivered += chunk
                messages.put(proto.MeterStreamRequest(output=chunk))
            else:
                has_ended = True
                messages.put(proto.MeterStreamRequest(finish=proto.StreamFinish()))
    finally:
        # Ends the thread that sends.
        messages.put(None)


def main():
    kind, server, user, service, what, trace = sys.argv[1:]
    with grpc.insecure_channel(server) as channel:
        stub = services.BillingInternalServiceStub(channel)
        try:
            if kind == "call":
                call(stub, user, service, int(what), trace)
            else:
                stream(stub, user, service, what, trace, sys.stdin.buffer)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name} {details(error)[0]}: {error.details()}")


if __name__ == "__main__":
    main()
