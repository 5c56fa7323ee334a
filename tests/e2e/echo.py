"""A WebSocket echo with nothing but the standard library, to run inside sandboxes."""

import asyncio
import base64
import hashlib
import sys

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client: its frames of less than 64 KiB, until it closes."""
    head = await reader.readuntil(b"\r\n\r\n")
    (line,) = (e for e in head.split(b"\r\n") if e.lower().startswith(b"sec-websocket-key:"))
    key = line.split(b":", 1)[1].strip() + _GUID
    accept = base64.b64encode(hashlib.sha1(key).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    while True:
        first, second = await reader.readexactly(2)
        size = second & 127
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(size)))
        if first & 15 == 8:
            writer.close()
            return
        length = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, "big")
        writer.write(bytes([first]) + length + data)


async def main() -> None:
    """Serve on the port that the command line names."""
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
