#!/usr/bin/env python3
"""Holds a Jupyter kernel's WebSocket idle, then runs a cell on the same socket.

    kernel_idle.py --port PORT [--host NAME] [--token TOKEN] [--idle SECONDS]

Everything goes through 127.0.0.1:PORT with the Host header NAME:PORT, so that a subdomain is reached
without a resolver. Nothing is sent while the socket is idle, not even a ping: what is asked is
whether a notebook left open over lunch still works.
"""

import argparse
import asyncio
import http.client
import json
import sys
import time
import uuid

import websockets


def request(options, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=30)
    headers = {
        "Host": f"{options.host}:{options.port}",
        "Authorization": f"token {options.token}",
        "Content-Type": "application/json",
    }
    connection.request(method, path, body="{}" if method == "POST" else None, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status >= 400:
        sys.exit(f"FAIL {method} {path}: {answer.status} {body[:200]!r}")
    return json.loads(body) if body else None


def message(code, session):
    return json.dumps({
        "channel": "shell",
        "header": {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "username": "idle",
            "session": session,
            "date": "",
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "content": {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        },
        "buffers": [],
    })


async def run_cell(socket, session, code, expected):
    await socket.send(message(code, session))
    seen = []
    async with asyncio.timeout(60):
        while expected not in "".join(seen):
            received = json.loads(await socket.recv())
            if received["header"]["msg_type"] == "stream":
                seen.append(received["content"]["text"])


async def hold(options, kernel):
    session = uuid.uuid4().hex
    uri = (
        f"ws://{options.host}:{options.port}/api/kernels/{kernel}/channels"
        f"?session_id={session}&token={options.token}"
    )
    # The name is for the Host header; the connection goes to loopback whatever resolvers say.
    async with websockets.connect(
        uri, host="127.0.0.1", port=options.port, ping_interval=None, max_size=None, proxy=None
    ) as socket:
        await run_cell(socket, session, "print('before', 6 * 7, flush=True)", "before 42")
        print("PASS a cell runs on the kernel socket", flush=True)
        # Read meanwhile: the end of the connection must be seen when it happens.
        deadline = time.monotonic() + options.idle
        while (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(socket.recv(), left)
            except TimeoutError:
                break
        await run_cell(socket, session, "print('after', 6 * 7, flush=True)", "after 42")
        print(f"PASS a cell runs on it after {options.idle:g} s without traffic", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--token", default="")
    parser.add_argument("--idle", type=float, default=300)
    options = parser.parse_args()
    kernel = request(options, "POST", "/api/kernels")["id"]
    try:
        asyncio.run(hold(options, kernel))
    except (websockets.ConnectionClosed, TimeoutError, OSError) as error:
        sys.exit(f"FAIL kernel socket: {type(error).__name__}: {error}")
    finally:
        request(options, "DELETE", f"/api/kernels/{kernel}")


if __name__ == "__main__":
    main()
