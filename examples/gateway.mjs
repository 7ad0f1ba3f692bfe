// A gateway that bills its calls over REST: a call of known cost, and the answer of a model.
//
//   node examples/gateway.mjs call http://localhost:9107 USER SERVICE COUNT TRACE_ID
//   node examples/gateway.mjs stream http://localhost:9107 USER SERVICE MODEL TRACE_ID < FILE
//
// It needs Node 18 or later, and no packages. The environment variable BILLING_TOKEN has the token of a caller with
// the role gateway. REST has no MeterStream: the hold stays as it is, and the commit counts the whole answer.

import { setTimeout as sleep } from "node:timers/promises";

const ATTEMPTS = 6;
// Milliseconds of an attempt.
const DEADLINE = 15_000;
// Attempts of a check, and their milliseconds. A user waits for it, and each attempt counts toward the rate limits.
const CHECKS = 2;
const CHECK_DEADLINE = 2_000;
// The pause before the second attempt, in milliseconds. It doubles with each further one.
const PAUSE = 200;
// billing.settlement.retry_timeout of the server. An attempt without an answer may still be made for so long.
const SETTLED_AFTER = 10_000;

const [kind, server, user_id, service_name, what, trace_id] = process.argv.slice(2);
const token = process.env.BILLING_TOKEN;

/** An answer that is no success. The call may have been made if `isUnknown`. */
class Refused extends Error {
  constructor(status, body) {
    const code = body.metadata?.error_code;
    super(`${body.reason ?? status} ${code ?? ""}: ${body.message ?? "no answer"}`);
    this.isUnknown = status === undefined || status >= 500 || status === 408;
    this.pause = Number(body.metadata?.retry_after_ms) || undefined;
  }
}

async function post(route, message, deadline = DEADLINE) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  let response;
  let body;
  try {
    const signal = AbortSignal.timeout(deadline);
    const sent = { method: "POST", headers, body: JSON.stringify(message), signal };
    response = await fetch(`${server}/internal/v1/billing/${route}`, sent);
    body = await response.json();
  } catch (error) {
    throw new Refused(undefined, { message: String(error.cause ?? error) });
  }
  if (!response.ok) throw new Refused(response.status, body);
  return body;
}

/** Repeats a call until its outcome is known. Every attempt sends the same trace id, so one charge is made.
 * An error that `isUnknown` leaves the outcome unknown: keep the call, and send it again later. */
async function untilKnown(route, message) {
  let earlier;
  for (let number = 1; ; number++) {
    try {
      return await post(route, message);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.isUnknown) {
        if (number === ATTEMPTS) throw error;
        earlier = { at: Date.now(), error };
        await sleep(error.pause ?? PAUSE * 2 ** (number - 1));
      } else {
        // A refusal says nothing about an attempt before that may still be made. Ask once more when it is either
        // made or given up.
        if (earlier === undefined) throw error;
        if (number === ATTEMPTS) throw earlier.error;
        await sleep(Math.max(0, earlier.at + SETTLED_AFTER - Date.now()));
        earlier = undefined;
      }
    }
  }
}

/** Asks a question that changes nothing. */
async function ask(route, message) {
  for (let number = 1; ; number++) {
    try {
      return await post(route, message, CHECK_DEADLINE);
    } catch (error) {
      if (!error.isUnknown || number === CHECKS) throw error;
    }
  }
}

/** Check, work, charge. */
async function call(count) {
  const verdict = await ask("check", { user_id, service_name, count });
  if (!verdict.allowed) {
    console.log(`refused: ${verdict.reason} (${verdict.error_code})`);
    return;
  }
  // Here the gateway passes the call on. A call that fails is not charged. The work is done before the charge, so
  // the charge is marked as delivered, and is not refused for money.
  const charge = await untilKnown("deduct", { user_id, service_name, count, trace_id, delivered: true });
  const again = charge.replayed ? ", by an earlier attempt" : "";
  console.log(`charged: ${charge.free_count} free, ${charge.paid_count} for ${charge.amount}${again}`);
}

/** Reserve, deliver, commit. A call that delivered nothing is released. */
async function stream(model) {
  // The prompt as CountTokens counts it, and the longest answer of the model.
  const estimate = { estimated_input_tokens: 100, estimated_output_tokens: 200 };
  const hold = await untilKnown("reserve", { user_id, service_name, model, trace_id, count: 1, ...estimate });
  console.log(`reserved: ${hold.amount} held`);
  let output_text = "";
  try {
    process.stdin.setEncoding("utf8");
    for await (const chunk of process.stdin) {
      // Here the gateway passes the chunk on.
      output_text += chunk;
    }
  } finally {
    // Also after a failure: the delivered part is charged.
    const reservation = { user_id, trace_id };
    if (output_text === "") {
      await untilKnown("release", reservation);
      console.log("released");
    } else {
      const charge = await untilKnown("commit", { ...reservation, output_text });
      console.log(`finished: ${charge.amount} charged, ${charge.balance} left`);
    }
  }
}

try {
  await (kind === "call" ? call(Number(what)) : stream(what));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
