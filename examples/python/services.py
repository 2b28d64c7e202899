"""Three small services with the official Python SDK: a plain service, a virtual object, a workflow."""

import asyncio
import os
from datetime import timedelta

import hypercorn.asyncio
import hypercorn.config
import restate
from restate import (
    Context,
    ObjectContext,
    ObjectSharedContext,
    WorkflowContext,
    WorkflowSharedContext,
)

PAUSE = timedelta(milliseconds=int(os.environ.get("PAUSE_MS", "2000")))

# A service: handlers without a key, as many at a time as are called.
greeter = restate.Service("Greeter")


@greeter.handler()
async def greet(ctx: Context, name: str) -> str:
    return f"Hello {name}!"


@greeter.handler()
async def steps(ctx: Context, order: str) -> str:
    """Three steps with a rest after each. Whatever is killed in between, a step that was done
    is not done again: its result comes from the journal."""
    done = []
    for step in ("reserve", "charge", "ship"):
        done.append(await ctx.run_typed(step, perform, step=step, order=order))
        await ctx.sleep(PAUSE)
    return f"{order}: {', '.join(done)}"


def perform(step: str, order: str) -> str:
    """Stands for an effect on the world: it must not happen twice."""
    print(step, order, flush=True)
    return f"{step} done"


# A virtual object: one state per key, and one writer at a time.
counter = restate.VirtualObject("Counter")


@counter.handler()
async def add(ctx: ObjectContext, amount: int) -> int:
    count = (await ctx.get("count", type_hint=int) or 0) + amount
    ctx.set("count", count)
    return count


@counter.handler(kind="shared")
async def get(ctx: ObjectSharedContext) -> int:
    """A shared handler reads beside whatever else goes on at the key."""
    return await ctx.get("count", type_hint=int) or 0


# A workflow: `run` happens once per key; other handlers talk to it while it runs.
signup = restate.Workflow("Signup")


@signup.main()
async def run(ctx: WorkflowContext, email: str) -> str:
    await ctx.run_typed("send link", print, restate.RunOptions(), f"sending a link to {email}")
    by = await ctx.promise("confirmed", type_hint=str)
    return f"{email} signed up, confirmed by {by}"


@signup.handler()
async def confirm(ctx: WorkflowSharedContext, by: str) -> None:
    await ctx.promise("confirmed", type_hint=str).resolve(by)


if __name__ == "__main__":
    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{os.environ.get('PORT', '9080')}"]
    asyncio.run(hypercorn.asyncio.serve(restate.app([greeter, counter, signup]), config))
