// One session over REST, by openapi-fetch with the types that openapi-typescript makes of the documents.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths as InternalPaths } from "./internal.js";
import type { paths as PublicPaths } from "./public.js";

const env = (name: string): string => {
  const value = process.env[name];
  assert(value, name);
  return value;
};
const proof = (token: string) => ({ authorization: `Bearer ${token}` });

const user_id = env("BILLING_USER");
const open = createClient<PublicPaths>({
  baseUrl: `http://${env("BILLING_HTTP")}`,
  headers: proof(env("BILLING_USER_TOKEN")),
});
const internal = createClient<InternalPaths>({
  baseUrl: `http://${env("BILLING_GRPC")}`,
  headers: proof(env("BILLING_CALLER_TOKEN")),
});

const credit = { user_id, amount: 5, reason: "a session", adjustment_id: "credit-1" };
const credited = await internal.POST("/internal/v1/billing/adjust", { body: credit });
assert.equal(credited.data?.balance, 5);
const account = await open.GET("/api/v1/billing/account", { params: { query: { user_id } } });
assert.deepEqual([account.data?.balance, account.data?.status], [5, "ACTIVE"]);
const check = await internal.POST("/internal/v1/billing/check", {
  body: { user_id, service_name: "asset", count: 1010 },
});
assert.deepEqual([check.data?.allowed, check.data?.reason, check.data?.estimated_cost], [true, "balance", 0.5]);

const call = { user_id, service_name: "asset", count: 1010, trace_id: "call-1" };
const first = await internal.POST("/internal/v1/billing/deduct", { body: call });
assert.deepEqual([first.data?.free_count, first.data?.paid_count, first.data?.balance], [1000, 10, 4.5]);
const again = await internal.POST("/internal/v1/billing/deduct", { body: call });
assert.deepEqual([again.data?.record_id, again.data?.replayed], [first.data?.record_id, true]);

const records = await open.GET("/api/v1/billing/records", { params: { query: { user_id } } });
assert.deepEqual(records.data?.records.map((record) => record.count).sort(), [10, 1000]);
assert.equal(records.data?.total_records, "2");

const costly = { user_id, service_name: "asset", count: 100000, trace_id: "call-2" };
const refused = await internal.POST("/internal/v1/billing/deduct", { body: costly });
assert.equal(refused.response.status, 400);
assert.equal(refused.error?.reason, "INSUFFICIENT_BALANCE");
assert.equal(refused.error?.metadata.error_code, "10001");
