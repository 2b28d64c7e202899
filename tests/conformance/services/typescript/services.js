// The conformance services with TypeScript's SDK; `CONTRACT.md` says what each handler does.
//
// Listens on `PORT`, or on a free port, and prints it: `listening on 127.0.0.1:PORT`.
import * as http2 from "node:http2";

import * as restate from "@restatedev/restate-sdk";

import { fuzz, fuzzHelper } from "./fuzz.js";
import { commands } from "./commands.js";

const { RestatePromise, TerminalError } = restate;
const shared = restate.handlers.object.shared;

const Basics = { name: "Basics" };
const Counter = { name: "Counter" };
const Failures = { name: "Failures" };
const Holder = { name: "Holder" };
const CancelBlocker = { name: "CancelBlocker" };
const KillChain = { name: "KillChain" };

// What this process remembers by name, outside of any journal on purpose.
const attempts = new Map();
const mended = new Set();

function countAttempt(name) {
  const count = (attempts.get(name) ?? 0) + 1;
  attempts.set(name, count);
  return count;
}

function failUntil(name, needed) {
  const attempt = countAttempt(name);
  if (attempt < needed) throw new Error(`attempt ${attempt} fails on purpose`);
  return attempt;
}

function terminal({ message, code, metadata }) {
  return new TerminalError(message, { errorCode: code ?? 500, metadata: metadata ?? undefined });
}

const binary = { accept: "*/*", input: restate.serde.binary, output: restate.serde.binary };

const basics = restate.service({
  name: Basics.name,
  handlers: {
    echo: async (_, text) => text,
    shout: async (_, text) => text.toUpperCase(),
    headers: async (ctx) => Object.fromEntries(ctx.request().headers),
    bytes: restate.handlers.handler(binary, async (_, bytes) => bytes),
    nothing: async () => {},
    nap: async (ctx, ms) => {
      await ctx.sleep(ms);
      return "rested";
    },
    ownId: async (ctx) => ctx.request().id,
    steps: async (ctx, count) => {
      const done = [];
      for (let step = 1; step <= count; step += 1) done.push(await ctx.run(`step-${step}`, () => `done-${step}`));
      return done;
    },
    countRuns: async (ctx, count) => {
      let executed = 0;
      for (let run = 0; run < count; run += 1) {
        await ctx.run("count", () => {
          executed += 1;
        });
      }
      return executed;
    },
    random: async (ctx) => {
      const before = [ctx.rand.random(), ctx.rand.uuidv4()];
      const kept = await ctx.run("kept", () => before);
      await ctx.sleep(20);
      const again = [ctx.rand.random(), ctx.rand.uuidv4()];
      const keptAgain = await ctx.run("kept again", () => again);
      return {
        same: JSON.stringify([before, again]) === JSON.stringify([kept, keptAgain]),
        values: [...kept, ...keptAgain].map(String),
      };
    },
    fanOut: async (ctx, count) => {
      const calls = [];
      for (let call = 0; call < count; call += 1) calls.push(ctx.serviceClient(Basics).echo(`${call}`));
      return (await RestatePromise.all(calls)).reduce((sum, text) => sum + Number(text), 0);
    },
    callShout: async (ctx, text) => ctx.serviceClient(Basics).shout(text),
    callWithHeader: async (ctx, value) => {
      const seen = await ctx.genericCall({
        service: Basics.name,
        method: "headers",
        parameter: undefined,
        headers: { "x-passed-on": value },
        inputSerde: restate.serde.empty,
        outputSerde: restate.serde.json,
      });
      return seen["x-passed-on"] ?? "";
    },
    cancelOther: async (ctx, id) => ctx.cancel(id),
    attachTo: async (ctx, id) => ctx.attach(id),
    waitSignal: async (ctx, name) => ctx.signal(name),
    collectSignals: async (ctx) => {
      const seen = [];
      for (;;) {
        const next = await ctx.signal("next");
        if (next === "end") return seen;
        seen.push(next);
      }
    },
    resolveSignal: async (ctx, { id, name, value }) => ctx.invocation(id).signal(name).resolve(value),
    rejectSignal: async (ctx, { id, name, reason }) => ctx.invocation(id).signal(name).reject(reason),
    callAndCancel: async (ctx) => {
      const call = ctx.serviceClient(Basics).nap(3_600_000);
      ctx.cancel(await call.invocationId);
      try {
        await call;
        return "rested";
      } catch (failure) {
        if (!(failure instanceof TerminalError)) throw failure;
        return `${failure.code}`;
      }
    },
  },
});

const counter = restate.object({
  name: Counter.name,
  handlers: {
    add: async (ctx, amount) => {
      const before = (await ctx.get("count")) ?? 0;
      ctx.set("count", before + amount);
      return { before, after: before + amount };
    },
    slowAdd: async (ctx, { amount, ms }) => {
      const before = (await ctx.get("count")) ?? 0;
      await ctx.sleep(ms);
      ctx.set("count", before + amount);
      return { before, after: before + amount };
    },
    addThenFail: async (ctx, amount) => {
      ctx.set("count", ((await ctx.get("count")) ?? 0) + amount);
      throw new TerminalError(ctx.key);
    },
    reset: async (ctx) => ctx.clear("count"),
    get: shared(async (ctx) => (await ctx.get("count")) ?? 0),
    ownKey: shared(async (ctx) => ctx.key),
  },
});

const map = restate.object({
  name: "Map",
  handlers: {
    put: async (ctx, { name, value }) => ctx.set(name, value),
    read: shared(async (ctx, name) => (await ctx.get(name)) ?? ""),
    names: shared(async (ctx) => (await ctx.stateKeys()).sort()),
    forget: async (ctx, name) => ctx.clear(name),
    clear: async (ctx) => {
      const entries = [];
      for (const name of (await ctx.stateKeys()).sort()) entries.push({ name, value: await ctx.get(name) });
      ctx.clearAll();
      return entries;
    },
    // Within one attempt a write is read back, and what was cleared is gone.
    juggle: async (ctx) => {
      const seen = [];
      ctx.set("a", "1");
      seen.push(await ctx.get("a"));
      ctx.set("b", "2");
      ctx.clear("a");
      seen.push((await ctx.get("a")) ?? "none");
      ctx.clearAll();
      seen.push((await ctx.get("b")) ?? "none", (await ctx.stateKeys()).sort().join());
      ctx.set("c", "3");
      seen.push(await ctx.get("c"));
      return seen;
    },
  },
});

const list = restate.object({
  name: "List",
  handlers: {
    append: async (ctx, text) => ctx.set("list", [...((await ctx.get("list")) ?? []), text]),
    get: shared(async (ctx) => (await ctx.get("list")) ?? []),
    clear: async (ctx) => {
      const entries = (await ctx.get("list")) ?? [];
      ctx.clear("list");
      return entries;
    },
  },
});

const failures = restate.object({
  name: Failures.name,
  handlers: {
    failTerminal: async (_, failure) => {
      throw terminal(failure);
    },
    callFailing: async (ctx, failure) => ctx.objectClient(Failures, ctx.rand.uuidv4()).failTerminal(failure),
    catchFailing: async (ctx, failure) => {
      try {
        return await ctx.objectClient(Failures, ctx.rand.uuidv4()).failTerminal(failure);
      } catch (caught) {
        if (!(caught instanceof TerminalError)) throw caught;
        return `caught ${caught.code}: ${caught.message}`;
      }
    },
    failInRun: async (ctx, failure) => {
      await ctx.run("fails", () => {
        throw terminal(failure);
      });
    },
    failUntil: async (ctx, needed) => failUntil(`failUntil ${ctx.key}`, needed),
    runUntil: async (ctx, needed) =>
      ctx.run("retried", () => failUntil(`runUntil ${ctx.key}`, needed), {
        initialRetryInterval: 10,
        retryIntervalFactor: 1,
      }),
    runExhausted: async (ctx, most) => {
      const name = `runExhausted ${ctx.key}`;
      try {
        await ctx.run("exhausted", () => failUntil(name, 1_000_000), {
          initialRetryInterval: 10,
          retryIntervalFactor: 1,
          maxRetryAttempts: most,
        });
        return -1;
      } catch (failure) {
        if (!(failure instanceof TerminalError)) throw failure;
        return await ctx.run("attempts", () => attempts.get(name) ?? 0);
      }
    },
  },
});

const holder = restate.object({
  name: Holder.name,
  handlers: {
    hold: async (ctx, id) => ctx.set("id", id),
    holds: shared(async (ctx) => (await ctx.get("id")) ?? ""),
    release: async (ctx, payload) => {
      const id = await ctx.get("id");
      if (id === null) throw new TerminalError("nothing is held");
      ctx.resolveAwakeable(id, payload);
      ctx.clear("id");
    },
    refuse: async (ctx, reason) => {
      const id = await ctx.get("id");
      if (id === null) throw new TerminalError("nothing is held");
      ctx.rejectAwakeable(id, reason);
      ctx.clear("id");
    },
    // Not under this object's own key: an exclusive handler would wait for itself.
    waitHeld: shared(async (ctx) => {
      const { id, promise } = ctx.awakeable();
      ctx.objectSendClient(Holder, ctx.key).hold(id);
      return `got ${await promise}`;
    }),
  },
});

const cancelRunner = restate.object({
  name: "CancelRunner",
  handlers: {
    start: async (ctx, operation) => {
      try {
        await ctx.objectClient(CancelBlocker, ctx.key).block(operation);
      } catch (failure) {
        if (!(failure instanceof TerminalError) || failure.code !== 409) throw failure;
        ctx.set("cancelled", true);
      }
    },
    wasCancelled: async (ctx) => (await ctx.get("cancelled")) ?? false,
  },
});

const cancelBlocker = restate.object({
  name: CancelBlocker.name,
  handlers: {
    block: async (ctx, operation) => {
      const { id, promise } = ctx.awakeable();
      await ctx.objectClient(Holder, ctx.key).hold(id);
      await promise;
      switch (operation) {
        case "call":
          return await ctx.objectClient(CancelBlocker, ctx.key).block(operation);
        case "sleep":
          return await ctx.sleep(3_600_000);
        case "awakeable":
          return await ctx.awakeable().promise;
        case "signal":
          return await ctx.signal("never");
        case "race":
          return await RestatePromise.race([ctx.sleep(3_600_000), ctx.awakeable().promise, ctx.signal("never")]);
        case "attach":
          return await ctx.attach(ctx.request().id);
        default:
          throw new TerminalError(`no operation ${operation}`);
      }
    },
    unlocked: async () => {},
  },
});

const killRunner = restate.object({
  name: "KillRunner",
  handlers: { start: async (ctx) => ctx.objectClient(KillChain, ctx.key).recurse() },
});

const killChain = restate.object({
  name: KillChain.name,
  handlers: {
    recurse: async (ctx) => {
      const { id, promise } = ctx.awakeable();
      ctx.objectSendClient(Holder, ctx.key).hold(id);
      await promise;
      await ctx.objectClient(KillChain, ctx.key).recurse();
    },
    unlocked: async () => {},
  },
});

const drifting = restate.object({
  name: "Drifting",
  options: { retryPolicy: { initialInterval: 1, maxAttempts: 1, onMaxAttempts: "kill" } },
  handlers: {
    sleepOrCall: async (ctx) => {
      if (countAttempt(`sleepOrCall ${ctx.key}`) % 2 === 1) await ctx.sleep(100);
      else await ctx.objectClient(Counter, "drift").get();
      ctx.objectSendClient(Counter, ctx.key).add(1);
    },
    callDifferent: async (ctx) => {
      if (countAttempt(`callDifferent ${ctx.key}`) % 2 === 1) await ctx.objectClient(Counter, "drift").get();
      else await ctx.objectClient(Counter, "drift").reset();
      ctx.objectSendClient(Counter, ctx.key).add(1);
    },
    sendDifferent: async (ctx) => {
      if (countAttempt(`sendDifferent ${ctx.key}`) % 2 === 1) ctx.objectSendClient(Counter, "drift").get();
      else ctx.objectSendClient(Counter, "drift").reset();
      await ctx.sleep(100);
      ctx.objectSendClient(Counter, ctx.key).add(1);
    },
    setDifferent: async (ctx) => {
      ctx.set(countAttempt(`setDifferent ${ctx.key}`) % 2 === 1 ? "a" : "b", "value");
      await ctx.sleep(100);
      ctx.objectSendClient(Counter, ctx.key).add(1);
    },
  },
});

const gate = restate.workflow({
  name: "Gate",
  handlers: {
    run: async (ctx, input) => {
      ctx.set("status", "waiting");
      const value = await ctx.promise("gate");
      ctx.set("status", "through");
      return `${input} ${value}`;
    },
    open: async (ctx, value) => ctx.promise("gate").resolve(value),
    shut: async (ctx, reason) => ctx.promise("gate").reject(reason),
    peek: async (ctx) => (await ctx.promise("gate").peek()) ?? "",
    wait: async (ctx) => ctx.promise("gate").get(),
    status: async (ctx) => (await ctx.get("status")) ?? "",
  },
});

// A request of the relay as the SDK wants it; payloads travel as texts.
function outgoing({ service, key, handler, message, delayMs, idempotencyKey, scope, limitKey }) {
  return {
    service,
    key: key ?? undefined,
    method: handler,
    parameter: new TextEncoder().encode(message),
    inputSerde: restate.serde.binary,
    outputSerde: restate.serde.binary,
    delay: delayMs ?? undefined,
    idempotencyKey: idempotencyKey ?? undefined,
    scope: scope ?? undefined,
    limitKey: limitKey ?? undefined,
  };
}

const relay = restate.service({
  name: "Relay",
  handlers: {
    call: async (ctx, request) => new TextDecoder().decode(await ctx.genericCall(outgoing(request))),
    send: async (ctx, request) => ctx.genericSend(outgoing(request)).invocationId,
    many: async (ctx, requests) => {
      const calls = [];
      for (const request of requests) {
        if (request.oneWay) ctx.genericSend(outgoing(request));
        else calls.push(ctx.genericCall(outgoing(request)));
      }
      await RestatePromise.all(calls);
    },
  },
});

const version = process.env.CONFORMANCE_VERSION ?? "1";

const versioned = restate.object({
  name: "Versioned",
  handlers: {
    version: async () => version,
    spanning: async (ctx) => {
      const first = version;
      const { id, promise } = ctx.awakeable();
      await ctx.objectClient(Holder, ctx.key).hold(id);
      const between = await promise;
      return [first, between, version];
    },
  },
});

const fragile = restate.object({
  name: "Fragile",
  options: { retryPolicy: { initialInterval: 5, maxInterval: 5, maxAttempts: 3, onMaxAttempts: "pause" } },
  handlers: {
    echo: async (ctx, text) => {
      if (!mended.has(ctx.key)) throw new Error("broken on purpose");
      return text;
    },
    runThenFail: async (ctx, text) => {
      const whole = mended.has(ctx.key);
      const value = await ctx.run("value", () => (whole ? "new" : "old"));
      if (!mended.has(ctx.key)) throw new TerminalError("broken on purpose");
      return `${text} from ${value}`;
    },
    versionOrFail: async () => {
      if (version === "1") throw new Error("broken in version 1");
      return version;
    },
    mend: shared(async (ctx) => {
      mended.add(ctx.key);
    }),
  },
});

const hidden = restate.service({
  name: "Hidden",
  options: { ingressPrivate: true },
  handlers: { greet: async (_, name) => `Hello ${name}` },
});

const short = restate.service({
  name: "Short",
  options: { idempotencyRetention: 2_000, journalRetention: 0 },
  handlers: { attempt: async (ctx, name) => ctx.run("count", () => countAttempt(`short ${name}`)) },
});

const services = [
  basics, counter, map, list, failures, holder, cancelRunner, cancelBlocker, killRunner, killChain, drifting,
  gate, relay, versioned, fragile, hidden, short, commands, fuzz, fuzzHelper,
];
const identity = process.env.CONFORMANCE_IDENTITY_KEY;
const handler = restate.createEndpointHandler({ services, identityKeys: identity ? [identity] : [] });
const server = http2.createServer(handler);
server.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () =>
  console.log(`listening on 127.0.0.1:${server.address().port}`),
);
