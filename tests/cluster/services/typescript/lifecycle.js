// The services of `tests/lifecycle.rs`: handlers that fail as often as they are told, and an object that takes its time.
//
// Listens on a free port and prints it: `listening on 127.0.0.1:PORT`.
import * as http2 from "node:http2";

import * as restate from "@restatedev/restate-sdk";

// How often each named thing was attempted by this process. Outside of any journal on purpose.
const attempts = new Map();

function attemptOf(name, times) {
  const attempt = (attempts.get(name) ?? 0) + 1;
  attempts.set(name, attempt);
  if (attempt <= times) throw new Error(`attempt ${attempt} fails on purpose`);
  return attempt;
}

const basics = restate.service({
  name: "TsBasics",
  handlers: {
    echo: async (ctx, text) => text,

    failThenSucceed: async (ctx, { name, times }) => attemptOf(name, times),

    // Tells who took the step, which is in the journal from then on, and which attempt got through.
    stepThenFail: async (ctx, { name, times }) => {
      const process_id = await ctx.run("step", () => process.pid);
      return { process_id, attempt: attemptOf(name, times) };
    },
  },
});

const store = restate.object({
  name: "TsStore",
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
  },
});

const server = http2.createServer(restate.createEndpointHandler({ services: [basics, store] }));
server.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
});
