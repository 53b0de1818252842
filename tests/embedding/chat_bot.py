"""A bot that answers who greets, and remembers whom over its restarts: python chat_bot.py URL [FILE]."""

import asyncio
import sys

from cometd_lite import Client


async def bot(client: Client, place: str | None = None) -> None:
    async with client.follow("chat/lobby", "now", cursor_file=place) as messages:
        async for message in messages:
            said = message.data if isinstance(message.data, dict) else {"text": message.data}
            if said.get("from") != "bot" and "hello" in str(said["text"]).lower():
                # The same answer to the same message, also where this is the second time that we see it.
                answer = {"from": "bot", "text": f"hello, {said.get('from', 'you')}!"}
                await client.push("chat/lobby", answer, idempotency_key=f"bot {message.id}")


async def main() -> None:
    async with Client(sys.argv[1]) as client:
        await bot(client, *sys.argv[2:])


if __name__ == "__main__":
    asyncio.run(main())
