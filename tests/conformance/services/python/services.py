"""The conformance services with Python's SDK; `CONTRACT.md` says what each handler does.

Listens on `PORT`, or on a free port, and prints it: `listening on 127.0.0.1:PORT`.
"""

import asyncio
import os
import socket
from collections import Counter
from datetime import timedelta

import hypercorn.asyncio
import hypercorn.config
import restate
from restate import InvocationRetryPolicy, RunOptions, TerminalError
from restate.serde import BytesSerde

from commands import commands
from fuzz import fuzz, fuzz_helper

# What this process remembers by name, outside of any journal on purpose.
attempts: Counter[str] = Counter()
mended: set[str] = set()

HOUR = timedelta(hours=1)


def millis(count: float) -> timedelta:
    return timedelta(milliseconds=count)


def count_attempt(name: str) -> int:
    attempts[name] += 1
    return attempts[name]


def fail_until(name: str, needed: int) -> int:
    attempt = count_attempt(name)
    if attempt < needed:
        raise ValueError(f"attempt {attempt} fails on purpose")
    return attempt


def terminal(failure: dict) -> TerminalError:
    return TerminalError(failure["message"], status_code=failure.get("code") or 500, metadata=failure.get("metadata"))


basics = restate.Service("Basics")


@basics.handler()
async def echo(ctx: restate.Context, text: str) -> str:
    return text


@basics.handler()
async def shout(ctx: restate.Context, text: str) -> str:
    return text.upper()


@basics.handler()
async def headers(ctx: restate.Context) -> dict:
    return dict(ctx.request().headers)


@basics.handler("bytes", accept="*/*", content_type="application/octet-stream", input_serde=BytesSerde(), output_serde=BytesSerde())
async def pass_bytes(ctx: restate.Context, data: bytes) -> bytes:
    return data


@basics.handler()
async def nothing(ctx: restate.Context) -> None:
    return None


@basics.handler()
async def nap(ctx: restate.Context, ms: int) -> str:
    await ctx.sleep(millis(ms))
    return "rested"


@basics.handler("ownId")
async def own_id(ctx: restate.Context) -> str:
    return ctx.request().id


@basics.handler()
async def steps(ctx: restate.Context, count: int) -> list[str]:
    return [await ctx.run_typed(f"step-{step}", lambda step=step: f"done-{step}") for step in range(1, count + 1)]


@basics.handler("countRuns")
async def count_runs(ctx: restate.Context, count: int) -> int:
    executed = 0

    def execute() -> None:
        nonlocal executed
        executed += 1

    for _ in range(count):
        await ctx.run_typed("count", execute)
    return executed


@basics.handler()
async def random(ctx: restate.Context) -> dict:
    before = [ctx.random().random(), str(ctx.uuid())]
    kept = await ctx.run_typed("kept", lambda: before)
    await ctx.sleep(millis(20))
    again = [ctx.random().random(), str(ctx.uuid())]
    kept_again = await ctx.run_typed("kept again", lambda: again)
    return {"same": [before, again] == [kept, kept_again], "values": [str(value) for value in kept + kept_again]}


@basics.handler("fanOut")
async def fan_out(ctx: restate.Context, count: int) -> int:
    calls = [ctx.service_call(echo, arg=str(call)) for call in range(count)]
    return sum([int(await call) for call in await restate.gather(*calls)])


@basics.handler("callShout")
async def call_shout(ctx: restate.Context, text: str) -> str:
    return await ctx.service_call(shout, arg=text)


@basics.handler("callWithHeader")
async def call_with_header(ctx: restate.Context, value: str) -> str:
    seen = await ctx.service_call(headers, arg=None, headers={"x-passed-on": value})
    return seen.get("x-passed-on", "")


@basics.handler("cancelOther")
async def cancel_other(ctx: restate.Context, invocation: str) -> None:
    ctx.cancel_invocation(invocation)


@basics.handler("attachTo")
async def attach_to(ctx: restate.Context, invocation: str) -> str:
    return await ctx.attach_invocation(invocation, type_hint=str)


@basics.handler("waitSignal")
async def wait_signal(ctx: restate.Context, name: str) -> str:
    return await ctx.signal(name, type_hint=str)


@basics.handler("collectSignals")
async def collect_signals(ctx: restate.Context) -> list[str]:
    seen: list[str] = []
    while (value := await ctx.signal("next", type_hint=str)) != "end":
        seen.append(value)
    return seen


@basics.handler("resolveSignal")
async def resolve_signal(ctx: restate.Context, signal: dict) -> None:
    ctx.resolve_signal(signal["id"], signal["name"], signal["value"])


@basics.handler("rejectSignal")
async def reject_signal(ctx: restate.Context, signal: dict) -> None:
    ctx.reject_signal(signal["id"], signal["name"], signal["reason"])


@basics.handler("callAndCancel")
async def call_and_cancel(ctx: restate.Context) -> str:
    call = ctx.service_call(nap, arg=3_600_000)
    await call.cancel_invocation()
    try:
        return await call
    except TerminalError as failure:
        return str(failure.status_code)


counter = restate.VirtualObject("Counter")


@counter.handler()
async def add(ctx: restate.ObjectContext, amount: int) -> dict:
    before = await ctx.get("count", type_hint=int) or 0
    ctx.set("count", before + amount)
    return {"before": before, "after": before + amount}


@counter.handler("slowAdd")
async def slow_add(ctx: restate.ObjectContext, slow: dict) -> dict:
    before = await ctx.get("count", type_hint=int) or 0
    await ctx.sleep(millis(slow["ms"]))
    after = before + slow["amount"]
    ctx.set("count", after)
    return {"before": before, "after": after}


@counter.handler("addThenFail")
async def add_then_fail(ctx: restate.ObjectContext, amount: int) -> None:
    ctx.set("count", (await ctx.get("count", type_hint=int) or 0) + amount)
    raise TerminalError(ctx.key())


@counter.handler()
async def reset(ctx: restate.ObjectContext) -> None:
    ctx.clear("count")


@counter.handler("get", kind="shared")
async def get_count(ctx: restate.ObjectSharedContext) -> int:
    return await ctx.get("count", type_hint=int) or 0


@counter.handler("ownKey", kind="shared")
async def own_key(ctx: restate.ObjectSharedContext) -> str:
    return ctx.key()


entries = restate.VirtualObject("Map")


@entries.handler()
async def put(ctx: restate.ObjectContext, entry: dict) -> None:
    ctx.set(entry["name"], entry["value"])


@entries.handler(kind="shared")
async def read(ctx: restate.ObjectSharedContext, name: str) -> str:
    return await ctx.get(name, type_hint=str) or ""


@entries.handler(kind="shared")
async def names(ctx: restate.ObjectSharedContext) -> list[str]:
    return sorted(await ctx.state_keys())


@entries.handler()
async def forget(ctx: restate.ObjectContext, name: str) -> None:
    ctx.clear(name)


@entries.handler()
async def clear(ctx: restate.ObjectContext) -> list[dict]:
    found = [{"name": name, "value": await ctx.get(name, type_hint=str)} for name in sorted(await ctx.state_keys())]
    ctx.clear_all()
    return found


@entries.handler()
async def juggle(ctx: restate.ObjectContext) -> list[str]:
    async def value(name: str) -> str:
        return await ctx.get(name, type_hint=str) or "none"

    async def keys() -> str:
        return ",".join(sorted(await ctx.state_keys()))

    ctx.set("a", "1")
    seen = [await value("a")]
    ctx.set("b", "2")
    ctx.clear("a")
    seen.append(await value("a"))
    ctx.clear_all()
    seen += [await value("b"), await keys()]
    ctx.set("c", "3")
    seen.append(await value("c"))
    return seen


texts = restate.VirtualObject("List")


@texts.handler()
async def append(ctx: restate.ObjectContext, text: str) -> None:
    ctx.set("list", (await ctx.get("list", type_hint=list) or []) + [text])


@texts.handler("get", kind="shared")
async def get_list(ctx: restate.ObjectSharedContext) -> list[str]:
    return await ctx.get("list", type_hint=list) or []


@texts.handler("clear")
async def clear_list(ctx: restate.ObjectContext) -> list[str]:
    found = await ctx.get("list", type_hint=list) or []
    ctx.clear("list")
    return found


failures = restate.VirtualObject("Failures")


@failures.handler("failTerminal")
async def fail_terminal(ctx: restate.ObjectContext, failure: dict) -> None:
    raise terminal(failure)


@failures.handler("callFailing")
async def call_failing(ctx: restate.ObjectContext, failure: dict) -> None:
    await ctx.object_call(fail_terminal, key=str(ctx.uuid()), arg=failure)


@failures.handler("catchFailing")
async def catch_failing(ctx: restate.ObjectContext, failure: dict) -> str:
    try:
        await ctx.object_call(fail_terminal, key=str(ctx.uuid()), arg=failure)
        return "nothing was caught"
    except TerminalError as caught:
        return f"caught {caught.status_code}: {caught.message}"


@failures.handler("failInRun")
async def fail_in_run(ctx: restate.ObjectContext, failure: dict) -> None:
    def fail() -> None:
        raise terminal(failure)

    await ctx.run_typed("fails", fail)


@failures.handler("failUntil")
async def fail_until_handler(ctx: restate.ObjectContext, needed: int) -> int:
    return fail_until(f"failUntil {ctx.key()}", needed)


@failures.handler("runUntil")
async def run_until(ctx: restate.ObjectContext, needed: int) -> int:
    options = RunOptions(initial_retry_interval=millis(10), retry_interval_factor=1.0)
    return await ctx.run_typed("retried", fail_until, options, f"runUntil {ctx.key()}", needed)


@failures.handler("runExhausted")
async def run_exhausted(ctx: restate.ObjectContext, most: int) -> int:
    name = f"runExhausted {ctx.key()}"
    options = RunOptions(initial_retry_interval=millis(10), retry_interval_factor=1.0, max_attempts=most)
    try:
        await ctx.run_typed("exhausted", fail_until, options, name, 1_000_000)
        return -1
    except TerminalError:
        return await ctx.run_typed("attempts", lambda: attempts[name])


holder = restate.VirtualObject("Holder")


@holder.handler()
async def hold(ctx: restate.ObjectContext, invocation: str) -> None:
    ctx.set("id", invocation)


@holder.handler(kind="shared")
async def holds(ctx: restate.ObjectSharedContext) -> str:
    return await ctx.get("id", type_hint=str) or ""


async def take(ctx: restate.ObjectContext) -> str:
    held = await ctx.get("id", type_hint=str)
    if held is None:
        raise TerminalError("nothing is held")
    ctx.clear("id")
    return held


@holder.handler()
async def release(ctx: restate.ObjectContext, payload: str) -> None:
    ctx.resolve_awakeable(await take(ctx), payload)


@holder.handler()
async def refuse(ctx: restate.ObjectContext, reason: str) -> None:
    ctx.reject_awakeable(await take(ctx), reason)


@holder.handler("waitHeld", kind="shared")
async def wait_held(ctx: restate.ObjectSharedContext) -> str:
    name, value = ctx.awakeable(type_hint=str)
    ctx.object_send(hold, key=ctx.key(), arg=name)
    return f"got {await value}"


cancel_runner = restate.VirtualObject("CancelRunner")
cancel_blocker = restate.VirtualObject("CancelBlocker")


@cancel_runner.handler()
async def start(ctx: restate.ObjectContext, operation: str) -> None:
    try:
        await ctx.object_call(block, key=ctx.key(), arg=operation)
    except TerminalError as failure:
        if failure.status_code != 409:
            raise
        ctx.set("cancelled", True)


@cancel_runner.handler("wasCancelled")
async def was_cancelled(ctx: restate.ObjectContext) -> bool:
    return await ctx.get("cancelled", type_hint=bool) or False


@cancel_blocker.handler()
async def block(ctx: restate.ObjectContext, operation: str) -> None:
    name, released = ctx.awakeable(type_hint=str)
    await ctx.object_call(hold, key=ctx.key(), arg=name)
    await released
    match operation:
        case "call":
            await ctx.object_call(block, key=ctx.key(), arg=operation)
        case "sleep":
            await ctx.sleep(HOUR)
        case "awakeable":
            await ctx.awakeable(type_hint=str)[1]
        case "signal":
            await ctx.signal("never", type_hint=str)
        case "race":
            awakeable = ctx.awakeable(type_hint=str)[1]
            await restate.select(a=ctx.sleep(HOUR), b=awakeable, c=ctx.signal("never", type_hint=str))
        case "attach":
            await ctx.attach_invocation(ctx.request().id, type_hint=str)
        case _:
            raise TerminalError(f"no operation {operation}")


@cancel_blocker.handler()
async def unlocked(ctx: restate.ObjectContext) -> None:
    return None


kill_runner = restate.VirtualObject("KillRunner")
kill_chain = restate.VirtualObject("KillChain")


@kill_runner.handler("start")
async def start_chain(ctx: restate.ObjectContext) -> None:
    await ctx.object_call(recurse, key=ctx.key(), arg=None)


@kill_chain.handler()
async def recurse(ctx: restate.ObjectContext) -> None:
    name, released = ctx.awakeable(type_hint=str)
    ctx.object_send(hold, key=ctx.key(), arg=name)
    await released
    await ctx.object_call(recurse, key=ctx.key(), arg=None)


@kill_chain.handler("unlocked")
async def chain_unlocked(ctx: restate.ObjectContext) -> None:
    return None


once = InvocationRetryPolicy(initial_interval=millis(1), max_attempts=1, on_max_attempts="kill")
drifting = restate.VirtualObject("Drifting", invocation_retry_policy=once)


def is_odd(ctx: restate.ObjectContext, handler: str) -> bool:
    return count_attempt(f"{handler} {ctx.key()}") % 2 == 1


@drifting.handler("sleepOrCall")
async def sleep_or_call(ctx: restate.ObjectContext) -> None:
    if is_odd(ctx, "sleepOrCall"):
        await ctx.sleep(millis(100))
    else:
        await ctx.object_call(get_count, key="drift", arg=None)
    ctx.object_send(add, key=ctx.key(), arg=1)


@drifting.handler("callDifferent")
async def call_different(ctx: restate.ObjectContext) -> None:
    if is_odd(ctx, "callDifferent"):
        await ctx.object_call(get_count, key="drift", arg=None)
    else:
        await ctx.object_call(reset, key="drift", arg=None)
    ctx.object_send(add, key=ctx.key(), arg=1)


@drifting.handler("sendDifferent")
async def send_different(ctx: restate.ObjectContext) -> None:
    if is_odd(ctx, "sendDifferent"):
        ctx.object_send(get_count, key="drift", arg=None)
    else:
        ctx.object_send(reset, key="drift", arg=None)
    await ctx.sleep(millis(100))
    ctx.object_send(add, key=ctx.key(), arg=1)


@drifting.handler("setDifferent")
async def set_different(ctx: restate.ObjectContext) -> None:
    ctx.set("a" if is_odd(ctx, "setDifferent") else "b", "value")
    await ctx.sleep(millis(100))
    ctx.object_send(add, key=ctx.key(), arg=1)


gate = restate.Workflow("Gate")


@gate.main()
async def run(ctx: restate.WorkflowContext, given: str) -> str:
    ctx.set("status", "waiting")
    value = await ctx.promise("gate", type_hint=str)
    ctx.set("status", "through")
    return f"{given} {value}"


@gate.handler("open")
async def open_gate(ctx: restate.WorkflowSharedContext, value: str) -> None:
    await ctx.promise("gate", type_hint=str).resolve(value)


@gate.handler()
async def shut(ctx: restate.WorkflowSharedContext, reason: str) -> None:
    await ctx.promise("gate", type_hint=str).reject(reason)


@gate.handler()
async def peek(ctx: restate.WorkflowSharedContext) -> str:
    return await ctx.promise("gate", type_hint=str).peek() or ""


@gate.handler()
async def wait(ctx: restate.WorkflowSharedContext) -> str:
    return await ctx.promise("gate", type_hint=str)


@gate.handler()
async def status(ctx: restate.WorkflowSharedContext) -> str:
    return await ctx.get("status", type_hint=str) or ""


relay = restate.Service("Relay")


def target(request: dict) -> dict:
    return {
        "service": request["service"],
        "handler": request["handler"],
        "arg": request["message"].encode(),
        "key": request.get("key"),
        "idempotency_key": request.get("idempotencyKey"),
        "scope": request.get("scope"),
        "limit_key": request.get("limitKey"),
    }


def relay_send(ctx: restate.Context, request: dict) -> restate.SendHandle:
    delay = request.get("delayMs")
    return ctx.generic_send(**target(request), send_delay=millis(delay) if delay else None)


@relay.handler("call")
async def relay_call(ctx: restate.Context, request: dict) -> str:
    return (await ctx.generic_call(**target(request))).decode()


@relay.handler("send")
async def relay_send_handler(ctx: restate.Context, request: dict) -> str:
    return await relay_send(ctx, request).invocation_id()


@relay.handler()
async def many(ctx: restate.Context, requests: list[dict]) -> None:
    calls = []
    for request in requests:
        if request["oneWay"]:
            relay_send(ctx, request)
        else:
            calls.append(ctx.generic_call(**target(request)))
    for call in calls:
        await call


own_version = os.environ.get("CONFORMANCE_VERSION", "1")
versioned = restate.VirtualObject("Versioned")


@versioned.handler()
async def version(ctx: restate.ObjectContext) -> str:
    return own_version


@versioned.handler()
async def spanning(ctx: restate.ObjectContext) -> list[str]:
    first = own_version
    name, value = ctx.awakeable(type_hint=str)
    await ctx.object_call(hold, key=ctx.key(), arg=name)
    between = await value
    return [first, between, own_version]


thrice = InvocationRetryPolicy(
    initial_interval=millis(5), max_interval=millis(5), max_attempts=3, on_max_attempts="pause"
)
fragile = restate.VirtualObject("Fragile", invocation_retry_policy=thrice)


@fragile.handler("echo")
async def fragile_echo(ctx: restate.ObjectContext, text: str) -> str:
    if ctx.key() not in mended:
        raise ValueError("broken on purpose")
    return text


@fragile.handler("runThenFail")
async def run_then_fail(ctx: restate.ObjectContext, text: str) -> str:
    whole = ctx.key() in mended
    value = await ctx.run_typed("value", lambda: "new" if whole else "old")
    if ctx.key() not in mended:
        raise TerminalError("broken on purpose")
    return f"{text} from {value}"


@fragile.handler("versionOrFail")
async def version_or_fail(ctx: restate.ObjectContext) -> str:
    if own_version == "1":
        raise ValueError("broken in version 1")
    return own_version


@fragile.handler(kind="shared")
async def mend(ctx: restate.ObjectSharedContext) -> None:
    mended.add(ctx.key())


hidden = restate.Service("Hidden", ingress_private=True)


@hidden.handler()
async def greet(ctx: restate.Context, name: str) -> str:
    return f"Hello {name}"


short = restate.Service("Short", idempotency_retention=timedelta(seconds=2), journal_retention=timedelta(0))


@short.handler("attempt")
async def short_attempt(ctx: restate.Context, name: str) -> int:
    return await ctx.run_typed("count", lambda: count_attempt(f"short {name}"))


ALL = [
    basics, counter, entries, texts, failures, holder, cancel_runner, cancel_blocker, kill_runner, kill_chain,
    drifting, gate, relay, versioned, fragile, hidden, short, commands, fuzz, fuzz_helper,
]  # fmt: skip


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "0"))))
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = "-"
    key = os.environ.get("CONFORMANCE_IDENTITY_KEY")
    await hypercorn.asyncio.serve(restate.app(ALL, identity_keys=[key] if key else None), config)


if __name__ == "__main__":
    asyncio.run(main())
