// Interprets random programs. A program's effect on counters is known beforehand, whatever is retried.
import * as restate from "@restatedev/restate-sdk";

const { TerminalError } = restate;

const Fuzz = { name: "Fuzz" };
const FuzzHelper = { name: "FuzzHelper" };

function check(holds, problem) {
  if (!holds) throw new TerminalError(problem);
}

export const fuzz = restate.object({
  name: Fuzz.name,
  handlers: {
    counter: restate.handlers.object.shared(async (ctx) => (await ctx.get("counter")) ?? 0),

    interpret: async (ctx, program) => {
      const helper = ctx.serviceClient(FuzzHelper);
      const later = ctx.serviceSendClient(FuzzHelper);
      // By the index of the command that began it: what to wait for, and what must come of it.
      const begun = new Map();
      for (const [index, command] of program.entries()) {
        switch (command.op) {
          case "set":
            ctx.set(`key-${command.key}`, `value-${command.key}`);
            break;
          case "get": {
            const value = await ctx.get(`key-${command.key}`);
            check(value === null || value === `value-${command.key}`, `read ${value}`);
            break;
          }
          case "clear":
            ctx.clear(`key-${command.key}`);
            break;
          case "increment":
            ctx.set("counter", ((await ctx.get("counter")) ?? 0) + 1);
            break;
          case "incrementLater":
            later.increment(ctx.key, restate.rpc.sendOpts({ delay: command.ms }));
            break;
          case "sleep":
            await ctx.sleep(command.ms);
            break;
          case "run":
            check((await ctx.run("value", () => `run-${index}`)) === `run-${index}`, "a run changed its result");
            break;
          case "slowRun":
            await ctx.run("slow", () => new Promise((resolve) => setTimeout(resolve, 1)));
            break;
          case "flakyRun":
            await ctx.run("flaky", () => {
              if (Math.random() < 0.5) throw new Error("fails on purpose");
            });
            break;
          case "caughtCall":
            try {
              await helper.fail();
              check(false, "a failure was expected");
            } catch (failure) {
              if (!(failure instanceof TerminalError)) throw failure;
              check(failure.message === "always fails", failure.message);
            }
            break;
          case "call":
            begun.set(index, [helper.echo(`echo-${index}`), `echo-${index}`]);
            break;
          case "slowCall":
            begun.set(index, [helper.echoLater({ ms: command.ms, text: `echo-${index}` }), `echo-${index}`]);
            break;
          case "failingCall":
            begun.set(index, [helper.fail().map((_, failure) => (failure ? "failed" : "succeeded")), "failed"]);
            break;
          case "awakeable": {
            const { id, promise } = ctx.awakeable();
            later.resolve(id);
            begun.set(index, [promise, "resolved"]);
            break;
          }
          case "rejectedAwakeable": {
            const { id, promise } = ctx.awakeable();
            later.reject(id);
            begun.set(index, [promise.map((_, failure) => (failure ? "rejected" : "resolved")), "rejected"]);
            break;
          }
          case "dance": {
            const { id, promise } = ctx.awakeable();
            later.dance({ key: ctx.key, id });
            ctx.resolveAwakeable(await promise, "go");
            break;
          }
          case "nested":
            begun.set(index, [ctx.objectClient(Fuzz, command.key).interpret(command.program), "done"]);
            break;
          case "await": {
            const [promise, expected] = begun.get(command.index);
            begun.delete(command.index);
            const result = await promise;
            check(result === expected, `command ${command.index}: ${result} instead of ${expected}`);
            break;
          }
          default:
            throw new TerminalError(`no command ${command.op}`);
        }
      }
      return "done";
    },
  },
});

export const fuzzHelper = restate.service({
  name: FuzzHelper.name,
  handlers: {
    echo: async (_, text) => text,
    echoLater: async (ctx, { ms, text }) => {
      await ctx.sleep(ms);
      return text;
    },
    fail: async () => {
      throw new TerminalError("always fails");
    },
    increment: async (ctx, key) => {
      ctx.objectSendClient(Fuzz, key).interpret([{ op: "increment" }]);
    },
    resolve: async (ctx, id) => ctx.resolveAwakeable(id, "resolved"),
    reject: async (ctx, id) => ctx.rejectAwakeable(id, "rejected on purpose"),
    dance: async (ctx, { key, id }) => {
      const { id: ours, promise } = ctx.awakeable();
      ctx.resolveAwakeable(id, ours);
      await promise;
      ctx.objectSendClient(Fuzz, key).interpret([{ op: "increment" }]);
    },
  },
});
