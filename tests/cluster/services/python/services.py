"""The conformance services, in Python. They do what those in Rust and TypeScript do, under names
with another first part; `tests/conformance.rs` drives them.

Listens on a free port and prints it: `listening on 127.0.0.1:PORT`.
"""

import asyncio
import socket
from collections import Counter
from datetime import timedelta

import hypercorn.asyncio
import hypercorn.config
import restate
from restate import RunOptions, TerminalError

# How often each named thing was attempted by this process. Outside of any journal on purpose.
attempts: Counter[str] = Counter()


def count_attempt(name: str) -> int:
    attempts[name] += 1
    return attempts[name]


def fail_at_first(name: str, times: int) -> int:
    attempt = count_attempt(name)
    if attempt <= times:
        raise ValueError(f"attempt {attempt} fails on purpose")
    return attempt


basics = restate.Service("PyBasics")
store = restate.VirtualObject("PyStore")
flow = restate.Workflow("PyFlow")


@basics.handler()
async def echo(ctx: restate.Context, text: str) -> str:
    return text


@basics.handler()
async def header(ctx: restate.Context, name: str) -> str:
    return ctx.request().headers.get(name, "")


@basics.handler()
async def steps(ctx: restate.Context, text: str) -> list[str]:
    return [await ctx.run_typed(f"step-{step}", lambda step=step: f"{text}-{step}") for step in (1, 2, 3)]


@basics.handler()
async def nap(ctx: restate.Context, ms: int) -> str:
    await ctx.sleep(timedelta(milliseconds=ms))
    return "rested"


@basics.handler("callEcho")
async def call_echo(ctx: restate.Context, text: str) -> str:
    return f"called {await ctx.service_call(echo, arg=text)}"


@basics.handler("callFailing")
async def call_failing(ctx: restate.Context, failing: dict) -> str:
    try:
        return await ctx.service_call(fail_terminal, arg=failing)
    except TerminalError as failure:
        return f"caught {failure.status_code}: {failure.message}"


@basics.handler("fanOut")
async def fan_out(ctx: restate.Context, calls: int) -> int:
    answers = [ctx.service_call(echo, arg=str(call)) for call in range(calls)]
    return sum([int(await answer) for answer in await restate.gather(*answers)])


@basics.handler("callStore")
async def call_store(ctx: restate.Context, addition: dict) -> int:
    return await ctx.object_call(add, key=addition["key"], arg=addition["amount"])


@basics.handler("sendAdd")
async def send_add(ctx: restate.Context, addition: dict) -> str:
    delay = timedelta(milliseconds=addition["delayMs"]) if addition["delayMs"] else None
    sent = ctx.object_send(add, key=addition["key"], arg=addition["amount"], send_delay=delay)
    return await sent.invocation_id()


@basics.handler("failTerminal")
async def fail_terminal(ctx: restate.Context, failing: dict) -> str:
    raise TerminalError(failing["message"], status_code=failing["code"])


@basics.handler("failThenSucceed")
async def fail_then_succeed(ctx: restate.Context, retried: dict) -> int:
    return fail_at_first(retried["name"], retried["times"])


@basics.handler("runRetried")
async def run_retried(ctx: restate.Context, retried: dict) -> int:
    options = RunOptions(initial_retry_interval=timedelta(milliseconds=10))
    return await ctx.run_typed("retried", fail_at_first, options, **retried)


@basics.handler("runExhausted")
async def run_exhausted(ctx: restate.Context, name: str) -> str:
    options = RunOptions(initial_retry_interval=timedelta(milliseconds=10), max_attempts=3)
    try:
        return str(await ctx.run_typed("exhausted", fail_at_first, options, name, 1_000_000))
    except TerminalError:
        count = await ctx.run_typed("attempts", lambda: count_attempt(name) - 1)
        return f"gave up after {count}"


@basics.handler("awaitAwakeable")
async def await_awakeable(ctx: restate.Context, key: str) -> str:
    name, value = ctx.awakeable(type_hint=str)
    await ctx.object_call(put, key=key, arg=name)
    return f"got {await value}"


@basics.handler("resolveAwakeable")
async def resolve_awakeable(ctx: restate.Context, by: dict) -> None:
    ctx.resolve_awakeable(by["id"], by["value"])


@basics.handler("rejectAwakeable")
async def reject_awakeable(ctx: restate.Context, by: dict) -> None:
    ctx.reject_awakeable(by["id"], by["value"])


@basics.handler("cancelOther")
async def cancel_other(ctx: restate.Context, invocation: str) -> None:
    ctx.cancel_invocation(invocation)


@basics.handler("catchCancel")
async def catch_cancel(ctx: restate.Context) -> str:
    try:
        await ctx.sleep(timedelta(hours=1))
        return "slept"
    except TerminalError:
        return f"cancelled and {await ctx.run_typed('clean', lambda: 'cleaned')}"


@basics.handler("attachTo")
async def attach_to(ctx: restate.Context, invocation: str) -> str:
    return f"attached {await ctx.attach_invocation(invocation, type_hint=str)}"


@store.handler()
async def add(ctx: restate.ObjectContext, amount: int) -> int:
    total = (await ctx.get("count", type_hint=int) or 0) + amount
    ctx.set("count", total)
    return total


@store.handler("slowAdd")
async def slow_add(ctx: restate.ObjectContext, slow: dict) -> int:
    before = await ctx.get("count", type_hint=int) or 0
    await ctx.sleep(timedelta(milliseconds=slow["ms"]))
    ctx.set("count", before + slow["amount"])
    return before + slow["amount"]


@store.handler(kind="shared")
async def count(ctx: restate.ObjectSharedContext) -> int:
    return await ctx.get("count", type_hint=int) or 0


@store.handler()
async def put(ctx: restate.ObjectContext, value: str) -> None:
    ctx.set("text", value)


@store.handler(kind="shared")
async def text(ctx: restate.ObjectSharedContext) -> str:
    return await ctx.get("text", type_hint=str) or ""


@store.handler(kind="shared")
async def keys(ctx: restate.ObjectSharedContext) -> list[str]:
    return sorted(await ctx.state_keys())


@store.handler()
async def forget(ctx: restate.ObjectContext, name: str) -> None:
    ctx.clear(name)


@store.handler("forgetAll")
async def forget_all(ctx: restate.ObjectContext) -> None:
    ctx.clear_all()


@store.handler("ownKey", kind="shared")
async def own_key(ctx: restate.ObjectSharedContext) -> str:
    return ctx.key()


@flow.main()
async def run(ctx: restate.WorkflowContext, given: str) -> str:
    ctx.set("status", "waiting")
    value = await ctx.promise("go", type_hint=str)
    ctx.set("status", "done")
    return f"{given} {value}"


@flow.handler()
async def resolve(ctx: restate.WorkflowSharedContext, value: str) -> None:
    await ctx.promise("go", type_hint=str).resolve(value)


@flow.handler()
async def reject(ctx: restate.WorkflowSharedContext, reason: str) -> None:
    await ctx.promise("go", type_hint=str).reject(reason)


@flow.handler()
async def status(ctx: restate.WorkflowSharedContext) -> str:
    return await ctx.get("status", type_hint=str) or ""


@flow.handler()
async def peek(ctx: restate.WorkflowSharedContext) -> str:
    return await ctx.promise("go", type_hint=str).peek() or ""


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = "-"
    await hypercorn.asyncio.serve(restate.app([basics, store, flow]), config)


if __name__ == "__main__":
    asyncio.run(main())
