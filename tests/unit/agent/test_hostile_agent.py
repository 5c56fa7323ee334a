"""The client against an agent that a sandbox's root has replaced: the adversary is this test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from atoll.agent import calls, channel
from atoll.agent.client import AgentClient
from atoll.agent.model import Output, ProcessConfig, ProcessEnd, WatchConfig
from atoll.agent.replies import decode_message
from atoll.errors import AgentFailed, AtollError, Exhausted, PathNotFound, SandboxGone

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ENTRY: dict[str, Any] = {
    "name": "f",
    "type": "file",
    "path": "/f",
    "size": 1,
    "mode": 0o644,
    "permissions": "-rw-r--r--",
    "owner": "user",
    "group": "user",
    "modified_ns": 5,
    "symlink_target": None,
    "is_symlink": False,
    "metadata": {},
}


def frame(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def message(value: object) -> bytes:
    return frame(b"J", json.dumps(value).encode())


@contextlib.asynccontextmanager
async def adversary(script: Script) -> AsyncIterator[AgentClient]:
    """A client whose agent follows a script."""
    tasks: set[asyncio.Future[None]] = set()

    async def dial() -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=theirs)

        async def run() -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                try:
                    await script(reader, writer)
                finally:
                    writer.close()

        tasks.add(asyncio.ensure_future(run()))
        return ours

    client = AgentClient(dial)
    try:
        yield client
    finally:
        await client.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


WATCHING: dict[str, Any] = {"start": {}}


@pytest.mark.parametrize(
    "reply",
    [
        {"events": 1},
        {"events": [1]},
        {"events": [{"name": 1, "type": "create"}]},
        {"events": [{"name": "x", "type": "created"}]},
        {"events": [{"name": "x", "type": "create", "entry": {}}]},
        {},
    ],
    ids=str,
)
async def test_events_are_checked(reply: dict[str, Any]) -> None:
    script = answer(message(WATCHING), message(reply))
    async with adversary(script) as client:
        with pytest.raises(AgentFailed):
            await anext(await client.watch(WatchConfig("/"), user="user"))
    async with adversary(script) as client:
        watcher = await client.watchers.create(WatchConfig("/"), user="user")
        with pytest.raises(AgentFailed):
            await client.watchers.poll(watcher)


@pytest.mark.parametrize("name", ["", "x" * 60_000], ids=["many", "long"])
async def test_the_events_of_a_poll_are_bounded(name: str) -> None:
    batch = message({"events": [{"name": name, "type": "create"}] * 8})

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(message(WATCHING))
        while True:
            writer.write(batch)
            await writer.drain()

    async with adversary(endless) as client:
        watcher = await client.watchers.create(WatchConfig("/"), user="user")
        with pytest.raises(AgentFailed, match="too many events"):
            async with asyncio.timeout(30):
                await client.watchers.poll(watcher)


async def take_request(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readexactly(5)
    request = json.loads(await reader.readexactly(int.from_bytes(head[1:], "big")))
    assert isinstance(request, dict)
    return request


def answer(*parts: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await take_request(reader)
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)

    return script


async def drain(stream: AsyncIterator[object]) -> None:
    """Read to the end."""
    async with asyncio.timeout(5):
        async for _ in stream:
            pass


BAD_ENTRIES: list[Any] = [
    {**ENTRY, "name": 5},
    {**ENTRY, "type": "devil"},
    {**ENTRY, "type": ["file"]},
    {**ENTRY, "size": -1},
    {**ENTRY, "size": True},
    {**ENTRY, "size": 2**64},
    {**ENTRY, "size": 1.5},
    {**ENTRY, "mode": 0o7777},
    {**ENTRY, "modified_ns": 10**30},
    {**ENTRY, "symlink_target": 1},
    {**ENTRY, "is_symlink": None},
    {**ENTRY, "metadata": {"a": 1}},
    {**ENTRY, "metadata": []},
    {},
    [],
    None,
]

BAD_REPLIES = [
    *(message({"ok": {"entry": entry}}) for entry in BAD_ENTRIES),
    message({"ok": 1}),
    message({}),
    message([1]),
    message("x"),
    message({"error": {}}),
    message({"error": {"code": 1, "message": "x"}}),
    message({"error": {"code": "internal", "message": None}}),
    message({"error": {"code": "made_up", "message": "x"}}),
    frame(b"J", b""),
    frame(b"J", b"{"),
    frame(b"J", b"\xff\xfe"),
    frame(b"J", b"[" * 100_000),
    frame(b"J", b"9" * 100_000),
    frame(b"J", b'{"ok":{"entry":NaN}}'),
    frame(b"D", b"data"),
    frame(b"O", b"output"),
    frame(b"X", b""),
    frame(b"X", b"x"),
    frame(b"O", b""),
    frame(b"Z", b"x"),
    frame(b"\0", b"x"),
    b"J\xff\xff\xff\xff",
    b"J" + (4 * 1024 * 1024 + 1).to_bytes(4, "big"),
    b"D" + (256 * 1024 + 1).to_bytes(4, "big"),
    b"HTTP/1.1 200 OK\r\n\r\n",
]


@pytest.mark.parametrize("reply", BAD_REPLIES, ids=itertools.count())
async def test_a_bad_reply_is_the_agents_failure(reply: bytes) -> None:
    async with adversary(answer(reply)) as client:
        with pytest.raises(AgentFailed):
            async with asyncio.timeout(5):
                await client.stat("/f", user="user")


@pytest.mark.parametrize(
    "reply", [*BAD_REPLIES, message({"start": {"pid": "1"}})], ids=itertools.count()
)
async def test_a_bad_start_is_the_agents_failure(reply: bytes) -> None:
    async with adversary(answer(reply)) as client:
        with pytest.raises(AgentFailed):
            async with asyncio.timeout(5):
                await client.start_process(ProcessConfig("x"), user="user")


@pytest.mark.parametrize(
    "reply",
    [
        frame(b"D", b"content of a file"),
        frame(b"X", b""),
        frame(b"O", b""),
        message({"ok": {}}),
        message({"ok": {"exit_code": 256, "exited": True, "status": "s", "error": None}}),
        message({"ok": {"exit_code": 0, "exited": 1, "status": "s", "error": None}}),
        message({"start": {"pid": 1}}),
        message({"error": {"code": "internal", "message": "x"}}),
        frame(b"J", b"nonsense"),
        b"O\xff\xff\xff\xff",
    ],
    ids=itertools.count(),
)
async def test_bad_output_is_the_agents_failure(reply: bytes) -> None:
    script = answer(message({"start": {"pid": 1}}), frame(b"O", b"good"), reply)
    async with adversary(script) as client:
        stream = await client.start_process(ProcessConfig("x"), user="user")
        with pytest.raises(AgentFailed):
            await drain(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize(
    "reply",
    [
        frame(b"O", b"output"),
        message({"ok": {}}),
        frame(b"X", b"") + frame(b"D", b"after the end"),
        frame(b"X", b"") + message({"neither": {}}),
        frame(b"D", b""),
    ],
    ids=itertools.count(),
)
async def test_bad_content_is_the_agents_failure(reply: bytes) -> None:
    script = answer(message({"entry": ENTRY}), frame(b"D", b"good"), reply)
    async with adversary(script) as client:
        reader = await client.read_file("/f", user="user")
        with pytest.raises(AgentFailed):
            await drain(reader)


async def test_an_error_within_a_file_is_raised() -> None:
    words = message({"error": {"code": "not_found", "message": "gone"}})
    async with adversary(answer(message({"entry": ENTRY}), words)) as client:
        with pytest.raises(PathNotFound, match="gone"):
            async for _ in await client.read_file("/f", user="user"):
                pass


async def test_a_connection_that_ends_is_a_sandbox_that_is_gone() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"J\0\0\0\x50{")

    async with adversary(leave) as client:
        with pytest.raises(SandboxGone):
            await client.stat("/f", user="user")


async def test_nobody_answering_the_door_is_a_sandbox_that_is_gone() -> None:
    async def dial() -> socket.socket:
        raise ConnectionRefusedError

    client = AgentClient(dial)
    with pytest.raises(SandboxGone):
        await client.stat("/f", user="user")
    with pytest.raises(AgentFailed, match=r"within 0\.1 s"):
        await client.hello(timeout=0.1)
    await client.close()
    with pytest.raises(SandboxGone):
        await client.stat("/f", user="user")


async def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_ANSWER_SECONDS", 0.1)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with adversary(mute) as client:
        with pytest.raises(AgentFailed, match="did not answer"):
            await client.hello(timeout=0.1)
        with pytest.raises(AgentFailed, match="did not answer"):
            await client.start_process(ProcessConfig("x"), user="user")


async def test_another_protocol_is_told() -> None:
    async with adversary(answer(message({"ok": {"version": 99, "pid": 1}}))) as client:
        with pytest.raises(AgentFailed, match="version 99"):
            await client.hello(timeout=5)


async def test_words_before_a_question_spoil_the_connection() -> None:
    good = message({"ok": {"entry": ENTRY}})
    async with adversary(answer(good, good)) as client:
        for _ in range(5):
            assert (await client.stat("/f", user="user")).name == "f"
            await asyncio.sleep(0.02)  # The second answer comes while nothing is asked.


async def test_a_flood_waits_in_the_sandbox() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await take_request(reader)
        writer.write(message({"start": {"pid": 1}}))
        block = frame(b"O", b"x" * 65536)
        while True:
            writer.write(block)
            await writer.drain()
            sent += len(block)

    async with adversary(flood) as client:
        stream = await client.start_process(ProcessConfig("x"), user="user")
        await asyncio.sleep(0.3)
        assert sent < 4 * 1024 * 1024
        for _ in range(100):
            await anext(stream)
        await stream.close()


async def test_a_flood_of_tiny_frames_is_bounded() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(message({"start": {"pid": 1}}))
        block = frame(b"O", b"x") * 40_000
        while True:
            writer.write(block)
            await writer.drain()

    async with adversary(flood) as client:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stream = await client.start_process(ProcessConfig("x"), user="user")
        await asyncio.sleep(0.3)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
        await stream.close()


async def test_an_endless_listing_is_cut_off() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        batch = message({"entries": [ENTRY] * 1000})
        while True:
            writer.write(batch)
            await writer.drain()

    async with adversary(endless) as client:
        with pytest.raises(AgentFailed, match="too m"):
            async with asyncio.timeout(30):
                await client.list_dir("/", user="user")


async def test_an_endless_list_of_processes_is_cut_off() -> None:
    config: dict[str, Any] = {"cmd": "x" * 1_000_000, "args": [], "envs": {}, "cwd": None}

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        while True:
            writer.write(message({"process": {"pid": 1, "tag": None, "config": config}}))
            await writer.drain()

    async with adversary(endless) as client:
        with pytest.raises(Exhausted, match="too m"):
            async with asyncio.timeout(30):
                await client.list_processes()


def process(args: list[str], envs: dict[str, str]) -> bytes:
    config = {"cmd": "x", "args": args, "envs": envs, "cwd": None}
    return message({"process": {"pid": 1, "tag": None, "config": config}})


def texts(count: int) -> dict[str, str]:
    return {f"{number:x}": "" for number in range(count)}


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (texts(65), texts(65)),
        (texts(30_000), texts(2048)),
        ({"a": "b", "c": "x" * 65_536, "d": "e"}, {"a": "b"}),
    ],
    ids=["many", "flood", "long"],
)
async def test_metadata_is_bounded(metadata: dict[str, str], told: dict[str, str]) -> None:
    """What is too much is left out: the file, and the others beside it, are described all the
    same."""
    entry = {**ENTRY, "metadata": metadata}
    script = answer(message({"entries": [entry]}), message({"ok": {}}))
    async with adversary(script) as client:
        (listed,) = await client.list_dir("/", user="user")
        assert listed.metadata == told
    async with adversary(answer(message({"ok": {"entry": entry}}))) as client:
        assert (await client.stat("/", user="user")).metadata == told


@pytest.mark.parametrize(
    "entry",
    [{**ENTRY, "metadata": texts(64)}, {**ENTRY, "path": "/" + "x" * 400 + "\U0001f600"}],
    ids=["metadata", "wide text"],
)
async def test_a_listing_is_bounded_by_the_memory_it_takes(
    entry: dict[str, Any],
) -> None:
    """Not by its bytes alone, which may be far fewer."""
    batch = frame(b"J", json.dumps({"entries": [entry] * 100}, ensure_ascii=False).encode())
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await take_request(reader)
        while True:
            writer.write(batch)
            sent += len(batch)
            await writer.drain()

    async with adversary(endless) as client:
        with pytest.raises(Exhausted, match="too many entries"):
            async with asyncio.timeout(30):
                await client.list_dir("/", user="user")
    assert sent < calls._GATHERED_LIMIT


@pytest.mark.parametrize(
    "reply",
    [
        process(["x"] * 32_769, {}),
        process([], texts(32_769)),
        process(["\\"] * 400_000, {}),
        process([], texts(300_000)),
        frame(b"J", b'{"a":[' + b"[]," * 1_000_000 + b"1]}"),
        frame(b"J", b'{"a":"\\\\","b":[' + b"{}," * 1_000_000 + b"1]}"),
        process(["x" * 900] * 2_000, {}) * 8,
        process(["x"] * 30_000, {}) * 100,
    ],
    ids=["args", "envs", "many args", "many envs", "lists", "objects", "long", "all together"],
)
async def test_processes_are_bounded(reply: bytes) -> None:
    async with adversary(answer(reply)) as client:
        with pytest.raises(Exhausted):
            async with asyncio.timeout(10):
                await client.list_processes()


async def test_large_processes_within_bounds() -> None:
    args = ['{"a":["b\\\\",[],{}]}' * 5000, "\\", '"', *(str(n) for n in range(10_000))]
    envs = {f"K{number}": "[,]" * 40_000 for number in range(15)}
    async with adversary(answer(process(args, envs), message({"ok": {}}))) as client:
        (found,) = await client.list_processes()
    assert list(found.config.args) == args
    assert found.config.envs == envs


def test_large_replies_of_many_parts_are_not_parsed() -> None:
    deep = b'{"a":"' + b"x" * 600_000 + b'","b":' + b"[" * 600_000
    with pytest.raises(Exhausted, match="parts"):
        decode_message(deep)
    with pytest.raises(AgentFailed, match="malformed"):
        decode_message(b'{"a":"' + b"x" * 600_000)


async def test_few_listings_at_a_time() -> None:
    under_way = most = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while True:
            await take_request(reader)
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.02)
            under_way -= 1
            writer.write(message({"entries": [ENTRY]}) + message({"ok": {}}))

    async with adversary(slow) as client:
        found = await asyncio.gather(*(client.list_dir("/", user="user") for _ in range(8)))
    assert [len(entries) for entries in found] == [1] * 8
    assert most == 2


async def test_listings_that_wait_end_with_the_sandbox() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with adversary(mute) as client:
        waiting = [asyncio.ensure_future(client.list_dir("/", user="user")) for _ in range(5)]
        await asyncio.sleep(0.02)
        await client.close()
        async with asyncio.timeout(5):
            results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [SandboxGone] * 5


async def test_small_pieces_are_joined_and_keep_their_order() -> None:
    end = message({"ok": {"exit_code": 0, "exited": True, "status": "s", "error": None}})
    tiny = b"".join(frame(b"O", b"%d" % (number % 10)) for number in range(100_000))
    output = tiny + frame(b"E", b"e") * 3 + frame(b"O", b"x") + frame(b"P", b"p") + end
    async with adversary(answer(message({"start": {"pid": 1}}), output)) as client:
        stream = await client.attach_process(1)
        await asyncio.sleep(0.1)
        items = [item async for item in stream]
    assert isinstance(items.pop(), ProcessEnd)
    pieces = [item for item in items if isinstance(item, Output)]
    assert len(pieces) < 20
    assert all(type(piece.data) is bytes and len(piece.data) <= 65_536 for piece in pieces)
    assert b"".join(piece.data for piece in pieces) == b"0123456789" * 10_000 + b"eeexp"
    assert [piece.kind for piece in pieces[-3:]] == ["stderr", "stdout", "pty"]


async def test_pieces_that_never_end_leave_others_their_turn() -> None:
    """Whoever receives from a queue that is never empty lets others run."""
    queue = channel.Channel()
    queue.busy = True
    queue.data_received((frame(b"O", b"x" * 1000) + frame(b"E", b"x" * 1000)) * 5000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.ensure_future(count())
    for _ in range(10_000):
        await queue.receive()
    counting.cancel()
    assert turns > 20


async def test_words_about_an_end_are_cut() -> None:
    end = {"exit_code": 1, "exited": True, "status": "s" * 5000, "error": "e" * 5000}
    script = answer(message({"start": {"pid": 1}}), message({"ok": end}))
    async with adversary(script) as client:
        stream = await client.start_process(ProcessConfig("x"), user="user")
        assert await anext(stream) == ProcessEnd(1, True, "s" * 2048, "e" * 2048)


async def test_an_agent_that_answers_an_upload_early_and_reads_no_more() -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        await reader.readexactly(100_000)
        writer.write(message({"error": {"code": "no_space", "message": "full"}}))
        await writer.drain()
        await asyncio.sleep(60)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    async with adversary(early) as client:
        with pytest.raises(AtollError, match="full"):
            async with asyncio.timeout(5):
                await client.write_file("/f", user="user", chunks=endless())


async def test_success_before_the_end_of_an_upload_is_a_lie() -> None:
    async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        await reader.readexactly(100_000)
        writer.write(message({"ok": {"entry": ENTRY}}))
        await reader.read(-1)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000
            await asyncio.sleep(0)

    async with adversary(liar) as client:
        with pytest.raises(AgentFailed, match="before it had everything"):
            async with asyncio.timeout(5):
                await client.write_file("/f", user="user", chunks=endless())


async def test_lone_surrogates_do_not_get_through() -> None:
    reply = frame(b"J", json.dumps({"ok": {"entry": {**ENTRY, "name": "\ud800"}}}).encode())
    async with adversary(answer(reply)) as client:
        assert (await client.stat("/f", user="user")).name == "?"


async def test_noise() -> None:
    """Whatever comes, it is one of our errors, and soon."""
    chance = random.Random(7)
    good = [message({"start": {"pid": 1}}), frame(b"O", b"abc"), message({"ok": {"entry": ENTRY}})]
    for _ in range(300):
        data = bytearray(b"".join(chance.choices(good, k=chance.randint(1, 4))))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)

        async def noisy(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = bytes(data)
        ) -> None:
            await take_request(reader)
            position = 0
            while position < len(data):
                step = chance.randint(1, 20)
                writer.write(data[position : position + step])
                await asyncio.sleep(0)
                position += step

        async with adversary(noisy) as client:
            try:
                async with asyncio.timeout(5):
                    async for _item in await client.start_process(ProcessConfig("x"), user="u"):
                        pass
            except AtollError:
                continue
