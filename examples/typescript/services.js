// Three small services with the official TypeScript SDK: a plain service, a virtual object, a
// workflow. Types are in the comments, so that plain Node.js runs this file as it is.
import * as restate from "@restatedev/restate-sdk";

const PAUSE_MS = Number(process.env.PAUSE_MS ?? 2000);

// A service: handlers without a key, as many at a time as are called.
const greeter = restate.service({
  name: "Greeter",
  handlers: {
    /** @param {restate.Context} ctx @param {string} name */
    greet: async (ctx, name) => `Hello ${name}!`,

    // Three steps with a rest after each. Whatever is killed in between, a step that was done
    // is not done again: its result comes from the journal.
    /** @param {restate.Context} ctx @param {string} order */
    steps: async (ctx, order) => {
      const done = [];
      for (const step of ["reserve", "charge", "ship"]) {
        done.push(await ctx.run(step, () => perform(step, order)));
        await ctx.sleep(PAUSE_MS);
      }
      return `${order}: ${done.join(", ")}`;
    },
  },
});

// Stands for an effect on the world: it must not happen twice.
function perform(step, order) {
  console.log(`${step} ${order}`);
  return `${step} done`;
}

// A virtual object: one state per key, and one writer at a time.
const counter = restate.object({
  name: "Counter",
  handlers: {
    /** @param {restate.ObjectContext} ctx @param {number} amount */
    add: async (ctx, amount) => {
      const count = ((await ctx.get("count")) ?? 0) + amount;
      ctx.set("count", count);
      return count;
    },

    // A shared handler reads beside whatever else goes on at the key.
    get: restate.handlers.object.shared(
      /** @param {restate.ObjectSharedContext} ctx */
      async (ctx) => (await ctx.get("count")) ?? 0,
    ),
  },
});

// A workflow: `run` happens once per key; other handlers talk to it while it runs.
const signup = restate.workflow({
  name: "Signup",
  handlers: {
    /** @param {restate.WorkflowContext} ctx @param {string} email */
    run: async (ctx, email) => {
      await ctx.run("send link", () => console.log(`sending a link to ${email}`));
      const by = await ctx.promise("confirmed");
      return `${email} signed up, confirmed by ${by}`;
    },

    /** @param {restate.WorkflowSharedContext} ctx @param {string} by */
    confirm: async (ctx, by) => {
      await ctx.promise("confirmed").resolve(by);
    },
  },
});

restate.serve({
  services: [greeter, counter, signup],
  port: Number(process.env.PORT ?? 9080),
});
