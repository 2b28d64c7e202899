// What the official client of TypeScript does at an ingress: `clients.js URL KEY`. Prints `ok`, or what differs.
import assert from "node:assert/strict";

import * as clients from "@restatedev/restate-sdk-clients";

const [url, key] = process.argv.slice(2);
const ingress = clients.connect({ url });
const Basics = { name: "Basics" };
const Counter = { name: "Counter" };
const Holder = { name: "Holder" };
const Gate = { name: "Gate" };
const Failures = { name: "Failures" };

async function until(check) {
  for (;;) {
    const value = await check();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

// Calls, with headers and with idempotency keys.
assert.equal(await ingress.serviceClient(Basics).echo("hello"), "hello");
const headers = await ingress.serviceClient(Basics).headers(clients.rpc.opts({ headers: { "x-mine": "yes" } }));
assert.equal(headers["x-mine"], "yes");
const counter = ingress.objectClient(Counter, `client-${key}`);
const once = clients.rpc.opts({ idempotencyKey: `once-${key}` });
assert.deepEqual(await counter.add(2, once), { before: 0, after: 2 });
assert.deepEqual(await counter.add(2, once), { before: 0, after: 2 });
assert.equal(await counter.get(), 2);

// Failures.
await assert.rejects(ingress.objectClient(Failures, key).failTerminal({ message: "no way", code: 409 }), (error) => {
  assert.equal(error.status, 409);
  assert.match(error.message, /no way/);
  return true;
});

// Sends: delayed, attached to, accepted before.
const from = Date.now();
const sent = await ingress
  .serviceSendClient(Basics)
  .nap(10, clients.rpc.sendOpts({ delay: 500, idempotencyKey: `nap-${key}` }));
assert.equal(sent.status, "Accepted");
assert.equal(await ingress.result(sent), "rested");
assert.ok(Date.now() - from >= 500);
const again = await ingress.serviceSendClient(Basics).nap(10, clients.rpc.sendOpts({ idempotencyKey: `nap-${key}` }));
assert.equal(again.status, "PreviouslyAccepted");
assert.equal(again.invocationId, sent.invocationId);

// Awakeables.
for (const complete of ["resolve", "reject"]) {
  const held = `${complete}-${key}`;
  const waiting = await ingress
    .objectSendClient(Holder, held)
    .waitHeld(clients.rpc.sendOpts({ idempotencyKey: held }));
  const id = await until(() => ingress.objectClient(Holder, held).holds());
  if (complete === "resolve") {
    await ingress.resolveAwakeable(id, "news");
    assert.equal(await ingress.result(waiting), "got news");
  } else {
    await ingress.rejectAwakeable(id, "no news");
    await assert.rejects(ingress.result(waiting), /no news/);
  }
}

// Workflows.
const gate = ingress.workflowClient(Gate, `client-${key}`);
const submitted = await gate.workflowSubmit("in");
assert.equal(submitted.status, "Accepted");
assert.equal((await gate.workflowOutput()).ready, false);
await until(async () => (await gate.status()) === "waiting");
await gate.open("go");
assert.equal(await gate.workflowAttach(), "in go");
assert.deepEqual(await gate.workflowOutput(), { ready: true, result: "in go" });
assert.equal((await gate.workflowSubmit("other")).status, "PreviouslyAccepted");

console.log("ok");
