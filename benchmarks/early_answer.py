"""How many clients read the answer that refuses their upload before they have sent it.

    python benchmarks/early_answer.py [--tries 30] [--node NODE]

Each client POSTs 8 MiB behind a head of 20 KiB, which both servers refuse at once (stock
with 400, ours with 431).  A client that finds the connection reset instead has lost the
answer.  Clients: treq, the standard library's ``http.client``, and Node's
``http.request`` where there is a node.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import subprocess
import sys
from collections import Counter

from servers import KINDS, running

UPLOAD = 8 * 1024 * 1024
FIELDS = {f"X-Padding-{number}": "x" * 1024 for number in range(20)}

NODE_CLIENT = """
const http = require('http');
const [port, tries, fields] = process.argv.slice(1);
const body = Buffer.alloc(8 * 1024 * 1024);
function attempt(left) {
  if (!left) return;
  let said = false;
  const say = (what) => { if (!said) { said = true; console.log(what); attempt(left - 1); } };
  const headers = { ...JSON.parse(fields), 'Content-Length': body.length };
  const request = http.request({ port, method: 'POST', headers, agent: false }, (response) => {
    response.resume();
    say(response.statusCode);
  });
  request.on('error', (error) => say(error.code));
  request.end(body);
}
attempt(Number(tries));
"""


def with_http_client(port: int, tries: int) -> list[str]:
    outcomes = []
    for _ in range(tries):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("POST", "/", body=bytes(UPLOAD), headers=FIELDS)
            outcomes.append(str(connection.getresponse().status))
        except OSError as error:
            outcomes.append(type(error).__name__)
        finally:
            connection.close()
    return outcomes


def with_treq(port: int, tries: int) -> list[str]:
    command = [sys.executable, __file__, "--treq-client", str(port), "--tries", str(tries)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def treq_client(port: int, tries: int) -> None:
    import treq
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react
    from twisted.web.http_headers import Headers

    fields = Headers({name: [value] for name, value in FIELDS.items()})

    async def attempts(reactor: object) -> None:
        for _ in range(tries):
            try:
                url = f"http://127.0.0.1:{port}/"
                response = await treq.post(
                    url, data=bytes(UPLOAD), headers=fields, persistent=False, timeout=20
                )
                print(response.code)
            except Exception as error:
                print(type(error).__name__)

    react(lambda reactor: Deferred.fromCoroutine(attempts(reactor)))


def with_node(node: str, port: int, tries: int) -> list[str]:
    import json

    command = [node, "-e", NODE_CLIENT, str(port), str(tries), json.dumps(FIELDS)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=30)
    parser.add_argument("--node", default=os.environ.get("NODE") or shutil.which("node"))
    parser.add_argument("--treq-client", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.treq_client:
        treq_client(options.treq_client, options.tries)
        return
    clients = {"treq": with_treq, "http.client": with_http_client}
    if options.node:
        clients["node http.request"] = lambda port, tries: with_node(options.node, port, tries)
    else:
        print("no node here: its client is left out")
    lost = False
    for name, client in clients.items():
        for kind in KINDS:
            with running(kind) as server:
                outcomes = client(server.port, options.tries)
            read = sum(outcome.isdigit() for outcome in outcomes)
            lost |= kind == "hangup" and read < options.tries
            told = ", ".join(f"{count} x {what}" for what, count in Counter(outcomes).items())
            print(
                f"{name:<18} {kind:<7} {read:>3} of {options.tries} read it  ({told})", flush=True
            )
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
