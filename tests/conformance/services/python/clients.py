"""What the official client of Python does at an ingress: `clients.py URL KEY`. Prints `ok`, or what differs."""

import asyncio
import sys

import restate

from services import add, echo, fail_terminal, get_count, headers, hold, nap, run, status


async def main(url: str, key: str) -> None:
    async with restate.create_client(url) as client:
        # Calls, with headers and with idempotency keys.
        assert await client.service_call(echo, arg="hello") == "hello"
        seen = await client.service_call(headers, arg=None, headers={"x-mine": "yes"})
        assert seen["x-mine"] == "yes", seen
        for _ in range(2):
            added = await client.object_call(add, key=f"py-{key}", arg=2, idempotency_key=f"py-once-{key}")
            assert added == {"before": 0, "after": 2}, added
        assert await client.object_call(get_count, key=f"py-{key}", arg=None) == 2

        # Failures.
        try:
            await client.object_call(fail_terminal, key=key, arg={"message": "no way", "code": 409})
            raise AssertionError("no failure")
        except restate.HttpError as error:
            assert error.status_code == 409, error
            assert "no way" in (error.body or error.message), error

        # Sends, repeated. Not delayed: this client writes a delay as a number without a unit, which is refused.
        sent = await client.service_send(nap, arg=10, idempotency_key=f"py-nap-{key}")
        again = await client.service_send(nap, arg=10, idempotency_key=f"py-nap-{key}")
        assert sent.invocation_id == again.invocation_id
        assert await client.service_call(nap, arg=10, idempotency_key=f"py-nap-{key}") == "rested"

        # Objects and workflows. Not bytes: the generic call names no content type, which JSON handlers refuse.
        held = await client.object_send(hold, key=f"py-held-{key}", arg="an id")
        assert held.invocation_id.startswith("inv_")
        started = await client.workflow_send(run, key=f"py-{key}", arg="in")
        assert started.invocation_id.startswith("inv_")
        while await client.workflow_call(status, key=f"py-{key}", arg=None) != "waiting":
            await asyncio.sleep(0.025)
    print("ok")


asyncio.run(main(sys.argv[1], sys.argv[2]))
