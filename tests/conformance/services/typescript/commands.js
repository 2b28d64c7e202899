// Runs lists of commands, and so every way of waiting for several things at once.
import * as restate from "@restatedev/restate-sdk";

const { RestatePromise, TerminalError } = restate;
const shared = restate.handlers.object.shared;

function begin(ctx, what) {
  switch (what.type) {
    case "awakeable": {
      const { id, promise } = ctx.awakeable();
      ctx.set(`awakeable-${what.name}`, id);
      return promise;
    }
    case "sleep":
      return ctx.sleep(what.ms).map(() => "slept");
    case "run":
      return ctx.run("returns", async () => {
        await new Promise((resolve) => setTimeout(resolve, 1));
        return what.value;
      });
    case "failingRun":
      return ctx.run("fails", () => {
        throw new TerminalError(what.reason);
      });
    case "signal":
      return ctx.signal(what.name);
    default:
      throw new TerminalError(`nothing begins with ${what.type}`);
  }
}

async function execute(ctx, command) {
  const started = (command.of ?? []).map((what) => begin(ctx, what));
  switch (command.type) {
    case "one":
      return await started[0];
    case "first":
      return await RestatePromise.race(started);
    case "firstSuccess":
      return await RestatePromise.any(started);
    case "all":
      return (await RestatePromise.all(started)).join("|");
    case "settled":
      return (await RestatePromise.allSettled(started))
        .map((one) => (one.status === "fulfilled" ? `ok:${one.value}` : `err:${one.reason.message}`))
        .join("|");
    case "timeout":
      try {
        return await begin(ctx, { type: "awakeable", name: command.name }).orTimeout(command.ms);
      } catch (failure) {
        if (failure instanceof restate.TimeoutError) throw new TerminalError("timed out");
        throw failure;
      }
    case "environment":
      return await ctx.run("environment", () => process.env[command.name] ?? "");
    default:
      throw new TerminalError(`no command ${command.type}`);
  }
}

async function awakeable(ctx, name) {
  const id = await ctx.get(`awakeable-${name}`);
  if (id === null) throw new TerminalError(`no awakeable ${name} yet`);
  return id;
}

export const commands = restate.object({
  name: "Commands",
  handlers: {
    run: async (ctx, list) => {
      let result = "";
      for (const command of list) {
        result = await execute(ctx, command);
        ctx.set("results", [...((await ctx.get("results")) ?? []), result]);
      }
      return result;
    },
    results: shared(async (ctx) => (await ctx.get("results")) ?? []),
    has: shared(async (ctx, name) => (await ctx.get(`awakeable-${name}`)) !== null),
    resolve: shared(async (ctx, { name, value }) => ctx.resolveAwakeable(await awakeable(ctx, name), value)),
    reject: shared(async (ctx, { name, reason }) => ctx.rejectAwakeable(await awakeable(ctx, name), reason)),
  },
});
