"""Runs lists of commands, and so every way of waiting for several things at once."""

import asyncio
import os
from datetime import timedelta

import restate
from restate import RestateDurableFuture, TerminalError

commands = restate.VirtualObject("Commands")


def begin(ctx: restate.ObjectContext, what: dict) -> RestateDurableFuture:
    match what["type"]:
        case "awakeable":
            name, value = ctx.awakeable(type_hint=str)
            ctx.set(f"awakeable-{what['name']}", name)
            return value
        case "sleep":
            return ctx.sleep(timedelta(milliseconds=what["ms"]))
        case "run":

            async def returns() -> str:
                await asyncio.sleep(0.001)
                return what["value"]

            return ctx.run_typed("returns", returns)
        case "failingRun":

            def fails() -> str:
                raise TerminalError(what["reason"])

            return ctx.run_typed("fails", fails)
        case "signal":
            return ctx.signal(what["name"], type_hint=str)
        case other:
            raise TerminalError(f"nothing begins with {other}")


async def outcome(future: RestateDurableFuture) -> str:
    value = await future
    # A sleep has no value of its own.
    return "slept" if value is None else value


async def execute(ctx: restate.ObjectContext, command: dict) -> str:
    started = [begin(ctx, what) for what in command.get("of", [])]
    match command["type"]:
        case "one":
            return await outcome(started[0])
        case "first":
            completed, _ = await restate.wait_completed(*started)
            return await outcome(completed[0])
        case "firstSuccess":
            failure = TerminalError("nothing was started")
            async for future in restate.as_completed(*started):
                try:
                    return await outcome(future)
                except TerminalError as failed:
                    failure = failed
            raise failure
        case "all":
            async for future in restate.as_completed(*started):
                await future
            return "|".join([await outcome(future) for future in started])
        case "settled":
            await restate.gather(*started)
            results = []
            for future in started:
                try:
                    results.append(f"ok:{await outcome(future)}")
                except TerminalError as failed:
                    results.append(f"err:{failed.message}")
            return "|".join(results)
        case "timeout":
            awaited = begin(ctx, {"type": "awakeable", "name": command["name"]})
            timer = ctx.sleep(timedelta(milliseconds=command["ms"]))
            match await restate.select(awaited=awaited, timer=timer):
                case ["awaited", value]:
                    return value
                case _:
                    raise TerminalError("timed out")
        case "environment":
            return await ctx.run_typed("environment", lambda: os.environ.get(command["name"], ""))
        case other:
            raise TerminalError(f"no command {other}")


@commands.handler()
async def run(ctx: restate.ObjectContext, program: list[dict]) -> str:
    result = ""
    for command in program:
        result = await execute(ctx, command)
        ctx.set("results", (await ctx.get("results", type_hint=list) or []) + [result])
    return result


@commands.handler(kind="shared")
async def results(ctx: restate.ObjectSharedContext) -> list[str]:
    return await ctx.get("results", type_hint=list) or []


@commands.handler(kind="shared")
async def has(ctx: restate.ObjectSharedContext, name: str) -> bool:
    return await ctx.get(f"awakeable-{name}", type_hint=str) is not None


async def awakeable(ctx: restate.ObjectSharedContext, name: str) -> str:
    found = await ctx.get(f"awakeable-{name}", type_hint=str)
    if found is None:
        raise TerminalError(f"no awakeable {name} yet")
    return found


@commands.handler(kind="shared")
async def resolve(ctx: restate.ObjectSharedContext, by: dict) -> None:
    ctx.resolve_awakeable(await awakeable(ctx, by["name"]), by["value"])


@commands.handler(kind="shared")
async def reject(ctx: restate.ObjectSharedContext, by: dict) -> None:
    ctx.reject_awakeable(await awakeable(ctx, by["name"]), by["reason"])
