// One session over gRPC, by the code that ts-proto makes of the proto files.

import assert from "node:assert/strict";
import { type ClientUnaryCall, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import {
  type AdjustBalanceReply,
  AdjustBalanceRequest,
  BillingInternalServiceClient,
  BillingServiceClient,
  type CheckQuotaReply,
  CheckQuotaRequest,
  type DeductQuotaReply,
  DeductQuotaRequest,
  type GetAccountReply,
  GetAccountRequest,
  type ListRecordsReply,
  ListRecordsRequest,
} from "./billing/v1/billing.js";

const env = (name: string): string => {
  const value = process.env[name];
  assert(value, name);
  return value;
};

const userId = env("BILLING_USER");
const open = new BillingServiceClient(env("BILLING_GRPC"), credentials.createInsecure());
const internal = new BillingInternalServiceClient(env("BILLING_GRPC"), credentials.createInsecure());
const proof = new Metadata();
proof.set("authorization", `Bearer ${env("BILLING_CALLER_TOKEN")}`);

const call = <R>(
  start: (callback: (error: ServiceError | null, reply: R) => void) => ClientUnaryCall,
): Promise<R> =>
  new Promise((resolve, reject) => {
    start((error, reply) => (error ? reject(error) : resolve(reply)));
  });

const credit = AdjustBalanceRequest.fromPartial({ userId, amount: 5, reason: "a session", adjustmentId: "credit-1" });
assert.equal((await call<AdjustBalanceReply>((done) => internal.adjustBalance(credit, proof, done))).balance, 5);
const mine = GetAccountRequest.fromPartial({ userId });
const account = await call<GetAccountReply>((done) => open.getAccount(mine, proof, done));
assert.deepEqual([account.balance, account.status], [5, "ACTIVE"]);
const asked = CheckQuotaRequest.fromPartial({ userId, serviceName: "asset", count: 1010 });
const check = await call<CheckQuotaReply>((done) => internal.checkQuota(asked, proof, done));
assert.deepEqual([check.allowed, check.reason, check.estimatedCost], [true, "balance", 0.5]);

const charge = DeductQuotaRequest.fromPartial({ userId, serviceName: "asset", count: 1010, traceId: "call-1" });
const first = await call<DeductQuotaReply>((done) => internal.deductQuota(charge, proof, done));
assert.deepEqual([first.freeCount, first.paidCount, first.balance, first.replayed], [1000, 10, 4.5, false]);
const again = await call<DeductQuotaReply>((done) => internal.deductQuota(charge, proof, done));
assert.deepEqual([again.recordId, again.replayed], [first.recordId, true]);

const all = ListRecordsRequest.fromPartial({ userId });
const records = await call<ListRecordsReply>((done) => open.listRecords(all, proof, done));
assert.deepEqual(records.records.map((record) => record.count).sort(), [10, 1000]);
assert.equal(records.totalRecords, "2");

const costly = DeductQuotaRequest.fromPartial({ userId, serviceName: "asset", count: 100000, traceId: "call-2" });
const refused = await call<DeductQuotaReply>((done) => internal.deductQuota(costly, proof, done)).then(
  () => undefined,
  (error: ServiceError) => error,
);
assert.equal(refused?.code, status.FAILED_PRECONDITION);
open.close();
internal.close();
