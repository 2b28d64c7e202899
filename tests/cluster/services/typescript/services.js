// The conformance services, in TypeScript's SDK. They do what those in Rust and Python do, under
// names with another first part; `tests/conformance.rs` drives them.
//
// Listens on a free port and prints it: `listening on 127.0.0.1:PORT`.
import * as http2 from "node:http2";

import * as restate from "@restatedev/restate-sdk";

// How often each named thing was attempted by this process. Outside of any journal on purpose.
const attempts = new Map();

function countAttempt(name) {
  const count = (attempts.get(name) ?? 0) + 1;
  attempts.set(name, count);
  return count;
}

const Basics = { name: "TsBasics" };
const Store = { name: "TsStore" };

const basics = restate.service({
  name: Basics.name,
  handlers: {
    echo: async (ctx, text) => text,

    header: async (ctx, name) => ctx.request().headers.get(name) ?? "",

    steps: async (ctx, text) => {
      const done = [];
      for (const step of [1, 2, 3]) {
        done.push(await ctx.run(`step-${step}`, () => `${text}-${step}`));
      }
      return done;
    },

    nap: async (ctx, ms) => {
      await ctx.sleep(ms);
      return "rested";
    },

    callEcho: async (ctx, text) => `called ${await ctx.serviceClient(Basics).echo(text)}`,

    callFailing: async (ctx, failing) => {
      try {
        return await ctx.serviceClient(Basics).failTerminal(failing);
      } catch (failure) {
        if (!(failure instanceof restate.TerminalError)) throw failure;
        return `caught ${failure.code}: ${failure.message}`;
      }
    },

    fanOut: async (ctx, calls) => {
      const answers = [];
      for (let call = 0; call < calls; call += 1) {
        answers.push(ctx.serviceClient(Basics).echo(String(call)));
      }
      const texts = await restate.RestatePromise.all(answers);
      return texts.reduce((sum, text) => sum + Number(text), 0);
    },

    callStore: async (ctx, { key, amount }) => ctx.objectClient(Store, key).add(amount),

    sendAdd: async (ctx, { key, amount, delayMs }) => {
      const options = delayMs === 0 ? {} : { delay: delayMs };
      const sent = ctx.objectSendClient(Store, key).add(amount, restate.rpc.sendOpts(options));
      return await sent.invocationId;
    },

    failTerminal: async (ctx, { code, message }) => {
      throw new restate.TerminalError(message, { errorCode: code });
    },

    failThenSucceed: async (ctx, { name, times }) => {
      const attempt = countAttempt(name);
      if (attempt <= times) throw new Error(`attempt ${attempt} fails on purpose`);
      return attempt;
    },

    // Tells who took the step, which is in the journal from then on, and which attempt got through.
    stepThenFail: async (ctx, { name, times }) => {
      const process_id = await ctx.run("step", () => process.pid);
      const attempt = countAttempt(name);
      if (attempt <= times) throw new Error(`attempt ${attempt} fails on purpose`);
      return { process_id, attempt };
    },

    runRetried: async (ctx, { name, times }) => {
      const action = () => {
        const attempt = countAttempt(name);
        if (attempt <= times) throw new Error(`attempt ${attempt} fails on purpose`);
        return attempt;
      };
      return await ctx.run("retried", action, { initialRetryInterval: 10 });
    },

    runExhausted: async (ctx, name) => {
      const action = () => {
        throw new Error(`attempt ${countAttempt(name)} fails on purpose`);
      };
      try {
        return await ctx.run("exhausted", action, { initialRetryInterval: 10, maxRetryAttempts: 3 });
      } catch (failure) {
        if (!(failure instanceof restate.TerminalError)) throw failure;
        const count = await ctx.run("attempts", () => countAttempt(name) - 1);
        return `gave up after ${count}`;
      }
    },

    awaitAwakeable: async (ctx, key) => {
      const { id, promise } = ctx.awakeable();
      await ctx.objectClient(Store, key).put(id);
      return `got ${await promise}`;
    },

    resolveAwakeable: async (ctx, { id, value }) => ctx.resolveAwakeable(id, value),

    rejectAwakeable: async (ctx, { id, value }) => ctx.rejectAwakeable(id, value),

    cancelOther: async (ctx, invocation) => ctx.cancel(invocation),

    catchCancel: async (ctx) => {
      try {
        await ctx.sleep(3_600_000);
        return "slept";
      } catch (failure) {
        if (!(failure instanceof restate.TerminalError)) throw failure;
        return `cancelled and ${await ctx.run("clean", () => "cleaned")}`;
      }
    },

    attachTo: async (ctx, invocation) => `attached ${await ctx.attach(invocation)}`,
  },
});

const store = restate.object({
  name: Store.name,
  handlers: {
    add: async (ctx, amount) => {
      const count = ((await ctx.get("count")) ?? 0) + amount;
      ctx.set("count", count);
      return count;
    },

    slowAdd: async (ctx, { amount, ms }) => {
      const count = (await ctx.get("count")) ?? 0;
      await ctx.sleep(ms);
      ctx.set("count", count + amount);
      return count + amount;
    },

    count: restate.handlers.object.shared(async (ctx) => (await ctx.get("count")) ?? 0),

    put: async (ctx, text) => ctx.set("text", text),

    text: restate.handlers.object.shared(async (ctx) => (await ctx.get("text")) ?? ""),

    keys: restate.handlers.object.shared(async (ctx) => (await ctx.stateKeys()).sort()),

    forget: async (ctx, name) => ctx.clear(name),

    forgetAll: async (ctx) => ctx.clearAll(),

    ownKey: restate.handlers.object.shared(async (ctx) => ctx.key),
  },
});

const flow = restate.workflow({
  name: "TsFlow",
  handlers: {
    run: async (ctx, input) => {
      ctx.set("status", "waiting");
      const value = await ctx.promise("go");
      ctx.set("status", "done");
      return `${input} ${value}`;
    },

    resolve: async (ctx, value) => ctx.promise("go").resolve(value),

    reject: async (ctx, reason) => ctx.promise("go").reject(reason),

    status: async (ctx) => (await ctx.get("status")) ?? "",

    peek: async (ctx) => (await ctx.promise("go").peek()) ?? "",
  },
});

const handler = restate.createEndpointHandler({ services: [basics, store, flow] });
const server = http2.createServer(handler);
server.listen(0, "127.0.0.1", () => console.log(`listening on 127.0.0.1:${server.address().port}`));
