"""One session over gRPC, by the code that grpcio-tools makes of the proto files."""

import os

import grpc
from billing.v1 import billing_pb2 as messages
from billing.v1.billing_pb2_grpc import BillingInternalServiceStub, BillingServiceStub
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

USER = os.environ["BILLING_USER"]
LIMIT_S = 10


def main():
    with grpc.insecure_channel(os.environ["BILLING_GRPC"]) as channel:
        public, internal = BillingServiceStub(channel), BillingInternalServiceStub(channel)
        proof = {"metadata": [("authorization", f"Bearer {os.environ['BILLING_CALLER_TOKEN']}")], "timeout": LIMIT_S}

        credit = messages.AdjustBalanceRequest(user_id=USER, amount=5, reason="a session", adjustment_id="credit-1")
        assert internal.AdjustBalance(credit, **proof).balance == 5
        account = public.GetAccount(messages.GetAccountRequest(user_id=USER), **proof)
        assert (account.balance, account.status) == (5, "ACTIVE"), account
        check = messages.CheckQuotaRequest(user_id=USER, service_name="asset", count=1010)
        check = internal.CheckQuota(check, **proof)
        assert (check.allowed, check.reason, check.estimated_cost) == (True, "balance", 0.5), check

        call = messages.DeductQuotaRequest(user_id=USER, service_name="asset", count=1010, trace_id="call-1")
        first = internal.DeductQuota(call, **proof)
        assert (first.free_count, first.paid_count, first.balance, first.replayed) == (1000, 10, 4.5, False), first
        again = internal.DeductQuota(call, **proof)
        assert (again.record_id, again.replayed) == (first.record_id, True), again

        records = public.ListRecords(messages.ListRecordsRequest(user_id=USER), **proof)
        assert sorted((record.type, record.count) for record in records.records) == [(1, 1000), (2, 10)], records
        assert records.total_records == 2, records

        costly = messages.DeductQuotaRequest(user_id=USER, service_name="asset", count=100000, trace_id="call-2")
        try:
            internal.DeductQuota(costly, **proof)
            raise AssertionError("the balance covers it")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
            info = ErrorInfo()
            assert any(detail.Unpack(info) for detail in rpc_status.from_call(error).details)
            assert (info.reason, info.metadata["error_code"]) == ("INSUFFICIENT_BALANCE", "10001"), info


main()
