"""One session over REST, by the clients that openapi-python-client makes of the documents."""

import os

from internal_api.api.billing_internal_service import adjust_balance, check_quota, deduct_quota
from internal_api.client import AuthenticatedClient as InternalClient
from internal_api.models import AdjustBalanceRequest, CheckQuotaRequest, DeductQuotaRequest
from public_api.api.billing_service import get_account, list_records
from public_api.client import AuthenticatedClient as PublicClient

USER = os.environ["BILLING_USER"]


def main():
    public = PublicClient(base_url=f"http://{os.environ['BILLING_HTTP']}", token=os.environ["BILLING_USER_TOKEN"])
    internal = InternalClient(base_url=f"http://{os.environ['BILLING_GRPC']}", token=os.environ["BILLING_CALLER_TOKEN"])

    credit = AdjustBalanceRequest(user_id=USER, amount=5.0, reason="a session", adjustment_id="credit-1")
    assert adjust_balance.sync(client=internal, body=credit).balance == 5.0
    account = get_account.sync(client=public, user_id=USER)
    assert (account.balance, account.status) == (5.0, "ACTIVE"), account
    check = check_quota.sync(client=internal, body=CheckQuotaRequest(user_id=USER, service_name="asset", count=1010))
    assert (check.allowed, check.reason, check.estimated_cost) == (True, "balance", 0.5), check

    call = DeductQuotaRequest(user_id=USER, service_name="asset", count=1010, trace_id="call-1")
    first = deduct_quota.sync(client=internal, body=call)
    assert (first.free_count, first.paid_count, first.balance, first.replayed) == (1000, 10, 4.5, False), first
    again = deduct_quota.sync(client=internal, body=call)
    assert (again.record_id, again.replayed) == (first.record_id, True), again

    records = list_records.sync(client=public, user_id=USER)
    assert sorted((record.type_, record.count) for record in records.records) == [(1, 1000), (2, 10)], records
    assert records.total_records == "2", records

    costly = DeductQuotaRequest(user_id=USER, service_name="asset", count=100000, trace_id="call-2")
    refused = deduct_quota.sync_detailed(client=internal, body=costly)
    assert (refused.status_code, refused.parsed.reason) == (400, "INSUFFICIENT_BALANCE"), refused
    assert refused.parsed.metadata["error_code"] == "10001", refused


main()
