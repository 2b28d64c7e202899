// What `tests/ingress.rs` calls, in TypeScript's SDK: handlers with all kinds of inputs, results and
// failures, whose answers do not depend on when or how often they run.
//
// Listens on a free port and prints it: `listening on 127.0.0.1:PORT`.
import * as http2 from "node:http2";

import * as restate from "@restatedev/restate-sdk";

const text = new TextEncoder();
const plain = {
  contentType: "text/plain",
  serialize: (value) => text.encode(value),
  deserialize: (bytes) => new TextDecoder().decode(bytes),
};
const titled = {
  contentType: "application/json",
  jsonSchema: { title: "Person", type: "object", properties: { name: { type: "string" } } },
  serialize: (value) => text.encode(JSON.stringify(value)),
  deserialize: (bytes) => JSON.parse(new TextDecoder().decode(bytes)),
};
const anything = {
  contentType: "*/*",
  serialize: (bytes) => bytes,
  deserialize: (bytes) => bytes,
};

const greeter = restate.service({
  name: "greeter",
  handlers: {
    greet: async (ctx, name) => `Hello ${name}!`,
    nothing: async () => {},
    null: async () => null,
    send: async () => "the handler send",
    headers: async (ctx) =>
      [...ctx.request().headers.entries()].filter(([name]) => name !== "traceparent"),
    key: async (ctx) => (ctx.request().id ? "has an id" : "none"),
    fail: async (ctx, { code, message, metadata }) => {
      throw new restate.TerminalError(message, { errorCode: code, metadata });
    },
    slow: async (ctx, ms) => {
      await ctx.sleep(ms);
      return "rested";
    },
    plain: restate.handlers.handler({ input: plain, output: plain }, async (ctx, body) => body),
    titled: restate.handlers.handler({ input: titled, output: titled }, async (ctx, body) => body),
    bytes: restate.handlers.handler(
      { input: restate.serde.binary, output: restate.serde.binary },
      async (ctx, body) => body,
    ),
    anything: restate.handlers.handler(
      { accept: "*/*", input: anything, output: restate.serde.binary },
      async (ctx, body) => body,
    ),
    images: restate.handlers.handler(
      { accept: "image/*", input: restate.serde.binary },
      async (ctx, body) => body.length,
    ),
    hidden: restate.handlers.handler({ ingressPrivate: true }, async () => "hidden"),
  },
});

const priv = restate.service({
  name: "priv",
  options: { ingressPrivate: true },
  handlers: { hi: async () => "hi" },
});

const counter = restate.object({
  name: "counter",
  handlers: {
    add: async (ctx, amount) => {
      const count = ((await ctx.get("count")) ?? 0) + amount;
      ctx.set("count", count);
      return count;
    },
    wait: async (ctx) => {
      const { id, promise } = ctx.awakeable();
      ctx.set("awakeable", id);
      return `got ${await promise}`;
    },
    key: restate.handlers.object.shared(async (ctx) => ctx.key),
    get: restate.handlers.object.shared(async (ctx, name) => (await ctx.get(name)) ?? null),
  },
});

const wf = restate.workflow({
  name: "wf",
  handlers: {
    run: async (ctx, input) => {
      const word = await ctx.promise("word");
      if (word === "fail") throw new restate.TerminalError("told to fail", { errorCode: 418 });
      return `${ctx.key}: ${input} ${word}`;
    },
    say: async (ctx, word) => {
      await ctx.promise("word").resolve(word);
    },
    peek: async (ctx) => (await ctx.promise("word").peek()) ?? null,
  },
});

const server = http2.createServer(
  restate.createEndpointHandler({ services: [greeter, priv, counter, wf] }),
);
server.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
});
