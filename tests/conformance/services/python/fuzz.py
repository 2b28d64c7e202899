"""Interprets random programs. A program's effect on counters is known beforehand, whatever is retried."""

import asyncio
import random
from datetime import timedelta

import restate
from restate import TerminalError

fuzz = restate.VirtualObject("Fuzz")
fuzz_helper = restate.Service("FuzzHelper")


def check(holds: bool, problem: str) -> None:
    if not holds:
        raise TerminalError(problem)


async def slow() -> None:
    await asyncio.sleep(0.001)


def flaky() -> None:
    if random.random() < 0.5:
        raise ValueError("fails on purpose")


@fuzz.handler(kind="shared")
async def counter(ctx: restate.ObjectSharedContext) -> int:
    return await ctx.get("counter", type_hint=int) or 0


@fuzz.handler()
async def interpret(ctx: restate.ObjectContext, program: list[dict]) -> str:
    # By the index of the command that began it: what to wait for, and what must come of it.
    begun: dict = {}
    for index, command in enumerate(program):
        match command["op"]:
            case "set":
                ctx.set(f"key-{command['key']}", f"value-{command['key']}")
            case "get":
                value = await ctx.get(f"key-{command['key']}", type_hint=str)
                check(value in (None, f"value-{command['key']}"), f"read {value}")
            case "clear":
                ctx.clear(f"key-{command['key']}")
            case "increment":
                ctx.set("counter", (await ctx.get("counter", type_hint=int) or 0) + 1)
            case "incrementLater":
                ctx.service_send(increment, arg=ctx.key(), send_delay=timedelta(milliseconds=command["ms"]))
            case "sleep":
                await ctx.sleep(timedelta(milliseconds=command["ms"]))
            case "run":
                value = await ctx.run_typed("value", lambda index=index: f"run-{index}")
                check(value == f"run-{index}", "a run changed its result")
            case "slowRun":
                await ctx.run_typed("slow", slow)
            case "flakyRun":
                await ctx.run_typed("flaky", flaky)
            case "caughtCall":
                try:
                    await ctx.service_call(fail, arg=None)
                    raise ValueError("a failure was expected")
                except TerminalError as failure:
                    check(failure.message == "always fails", failure.message)
            case "call":
                begun[index] = (ctx.service_call(echo, arg=f"echo-{index}"), f"echo-{index}")
            case "slowCall":
                request = {"ms": command["ms"], "text": f"echo-{index}"}
                begun[index] = (ctx.service_call(echo_later, arg=request), f"echo-{index}")
            case "failingCall":
                begun[index] = (ctx.service_call(fail, arg=None), TerminalError)
            case "awakeable":
                name, value = ctx.awakeable(type_hint=str)
                ctx.service_send(resolve, arg=name)
                begun[index] = (value, "resolved")
            case "rejectedAwakeable":
                name, value = ctx.awakeable(type_hint=str)
                ctx.service_send(reject, arg=name)
                begun[index] = (value, TerminalError)
            case "dance":
                name, value = ctx.awakeable(type_hint=str)
                ctx.service_send(dance, arg={"key": ctx.key(), "id": name})
                ctx.resolve_awakeable(await value, "go")
            case "nested":
                call = ctx.object_call(interpret, key=command["key"], arg=command["program"])
                begun[index] = (call, "done")
            case "await":
                future, expected = begun.pop(command["index"])
                try:
                    result = await future
                except TerminalError as failure:
                    check(expected is TerminalError, failure.message)
                else:
                    check(result == expected, f"command {command['index']}: {result} instead of {expected}")
            case other:
                raise TerminalError(f"no command {other}")
    return "done"


@fuzz_helper.handler()
async def echo(ctx: restate.Context, text: str) -> str:
    return text


@fuzz_helper.handler("echoLater")
async def echo_later(ctx: restate.Context, request: dict) -> str:
    await ctx.sleep(timedelta(milliseconds=request["ms"]))
    return request["text"]


@fuzz_helper.handler()
async def fail(ctx: restate.Context) -> None:
    raise TerminalError("always fails")


@fuzz_helper.handler()
async def increment(ctx: restate.Context, key: str) -> None:
    ctx.object_send(interpret, key=key, arg=[{"op": "increment"}])


@fuzz_helper.handler()
async def resolve(ctx: restate.Context, awakeable: str) -> None:
    ctx.resolve_awakeable(awakeable, "resolved")


@fuzz_helper.handler()
async def reject(ctx: restate.Context, awakeable: str) -> None:
    ctx.reject_awakeable(awakeable, "rejected on purpose")


@fuzz_helper.handler()
async def dance(ctx: restate.Context, request: dict) -> None:
    ours, value = ctx.awakeable(type_hint=str)
    ctx.resolve_awakeable(request["id"], ours)
    await value
    ctx.object_send(interpret, key=request["key"], arg=[{"op": "increment"}])
