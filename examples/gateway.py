"""A gateway that bills its calls over gRPC: a call of known cost, and the stream of a model.

    python3 examples/gateway.py call localhost:9107 USER SERVICE COUNT TRACE_ID
    python3 examples/gateway.py stream localhost:9107 USER SERVICE MODEL TRACE_ID < FILE

It needs the packages grpcio, grpcio-tools and googleapis-common-protos. The environment variable BILLING_TOKEN has the
token of a caller with the role gateway.
"""

import os
import queue
import sys
import threading
import time

import grpc
from google.rpc import error_details_pb2, status_pb2

# The proto files are compiled at the start. A real gateway compiles them in its build.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "proto"))
proto, services = grpc.protos_and_services("billing/v1/billing.proto")

ATTEMPTS = 6
# Seconds of an attempt.
DEADLINE = 15
# Attempts of a check, and their seconds. A user waits for it, and each attempt counts toward the rate limits.
CHECKS = 2
CHECK_DEADLINE = 2
# A model may be silent for longer than the service waits for a stream. In seconds.
HEARTBEAT = 20
# Events of a stream that wait.
WAITING = 8
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

    An error with a code of UNKNOWN leaves the outcome unknown: keep the call, and send it again later.
    """
    earlier = at = None
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except grpc.RpcError as error:
            if error.code() in UNKNOWN:
                if number == ATTEMPTS:
                    raise
                earlier, at = error, time.monotonic()
                time.sleep(pause_after(error, number))
            elif earlier is None:
                raise
            elif number == ATTEMPTS:
                # A refusal says nothing about the attempt before, which may still be made.
                raise earlier from error
            else:
                # Ask once more when it is either made or given up.
                time.sleep(max(0, at + SETTLED_AFTER - time.monotonic()))
                earlier = None
    raise AssertionError("the last attempt returns")


def ask(attempt):
    """Asks a question that changes nothing."""
    for _ in range(1, CHECKS):
        try:
            return attempt()
        except grpc.RpcError as error:
            if error.code() not in UNKNOWN:
                raise
    return attempt()


def call(stub, user, service, count, trace):
    """Check, work, charge."""
    check = proto.CheckQuotaRequest(user_id=user, service_name=service, count=count)
    verdict = ask(lambda: stub.CheckQuota(check, timeout=CHECK_DEADLINE, metadata=METADATA))
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


class Broken(Exception):
    """A stream that ended without a charge."""


class Output:
    """The output of a model, and the events of its stream."""

    def __init__(self, source):
        # Pairs of a source and an event: the chunks, with None at their end; and the replies of each session.
        self.events = queue.Queue(WAITING)
        self.source = source
        # Chunks that came before the stream was open.
        self.early = []
        self.delivered = bytearray()
        self.has_ended = False
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        """A chunk may end inside a character."""
        for chunk in iter(lambda: self.source.read1(16), b""):
            self.events.put((self.source, chunk))
        self.events.put((self.source, None))

    def follow(self, replies):
        """Passes the replies of a session on, and what ended it."""
        try:
            for reply in replies:
                self.events.put((replies, reply))
            self.events.put((replies, Broken()))
        except grpc.RpcError as error:
            self.events.put((replies, error))


def stream(stub, user, service, model, trace, source):
    """Meters the output of a model. A stream that breaks is opened again with the same trace id, and gets the
    output from its start, which counts once. The service ends a stream that stays away, or that nobody hears of for
    billing.streams.idle_timeout, and charges what it knows. So a stream that cannot be opened again is committed with
    all that was delivered; the part that is charged counts once."""
    # The prompt as CountTokens counts it, and the longest answer of the model.
    opening = proto.ReserveQuotaRequest(
        user_id=user, service_name=service, model=model, trace_id=trace, count=1,
        estimated_input_tokens=100, estimated_output_tokens=200,
    )
    output = Output(source)
    for number in range(1, ATTEMPTS + 1):
        try:
            return session(stub, opening, output)
        except (Broken, grpc.RpcError) as error:
            is_broken = isinstance(error, Broken)
            if number < ATTEMPTS and (is_broken or error.code() in UNKNOWN):
                time.sleep(PAUSE * 2 ** (number - 1) if is_broken else pause_after(error, number))
            elif output.delivered:
                break
            else:
                raise
    commit = proto.CommitReservationRequest(
        user_id=user, trace_id=trace, output_text=output.delivered.decode(errors="ignore")
    )
    charge = until_known(lambda: stub.CommitReservation(commit, timeout=DEADLINE, metadata=METADATA))
    print(f"finished: {charge.amount:g} charged, {charge.balance:g} left")


def session(stub, opening, output):
    messages = queue.SimpleQueue()
    send = lambda **event: messages.put(proto.MeterStreamRequest(**event))
    send(open=opening)
    replies = stub.MeterStream(iter(messages.get, None), metadata=METADATA)
    threading.Thread(target=output.follow, args=(replies,), daemon=True).start()
    is_open = has_finished = False

    def deliver(chunk):
        # Here the gateway passes the chunk on.
        output.delivered += chunk
        send(output=chunk)

    try:
        while True:
            try:
                origin, event = output.events.get(timeout=HEARTBEAT)
            except queue.Empty:
                if is_open and not has_finished:
                    send(heartbeat=proto.StreamHeartbeat())
                continue
            if origin is output.source:
                if output.has_ended:
                    continue
                # Output is delivered to the user only after the reservation.
                if not is_open:
                    output.early.append(event)
                elif event is None:
                    output.has_ended = True
                else:
                    deliver(event)
            elif origin is not replies:
                # The end of an earlier session.
                continue
            elif isinstance(event, Exception):
                raise event
            elif event.HasField("opened"):
                print(f"opened: {event.opened.amount:g} held")
                is_open = True
                if output.delivered:
                    send(output=bytes(output.delivered))
                for chunk in output.early:
                    if chunk is None:
                        output.has_ended = True
                    elif not output.has_ended:
                        deliver(chunk)
                output.early.clear()
            elif event.HasField("state"):
                output.has_ended |= event.state.stop
            else:
                print(f"finished: {event.finished.amount:g} charged, {event.finished.balance:g} left")
                return
            if is_open and output.has_ended and not has_finished:
                has_finished = True
                send(finish=proto.StreamFinish())
    finally:
        # Ends the thread that sends.
        messages.put(None)
        replies.cancel()


def main():
    kind, server, user, service, what, trace = sys.argv[1:]
    # A server that has vanished ends a stream, which is then opened on another one.
    options = [("grpc.keepalive_time_ms", DEADLINE * 1000)]
    with grpc.insecure_channel(server, options) as channel:
        stub = services.BillingInternalServiceStub(channel)
        try:
            if kind == "call":
                call(stub, user, service, int(what), trace)
            else:
                stream(stub, user, service, what, trace, sys.stdin.buffer)
        except Broken:
            sys.exit("the stream broke before anything was delivered")
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name} {details(error)[0]}: {error.details()}")


if __name__ == "__main__":
    main()
