"""docs/cookbook/grafana.md: rules, configurations and dashboard, before a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from support.cookbook import COOKBOOK, check, files, running, twistd
from support.processes import BIN, connect, free_port
from support.wire import BAD, GOOD, PATIENCE, wait_for

FILES: Final = files("grafana")
DASHBOARD: Final = json.loads((COOKBOOK / "grafana-dashboard.json").read_text())
TLS: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
TOKEN: Final = "0123456789abcdef"

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool")

#: A program with an agent and an outbox, to which nobody listens.
PROGRAM: Final = """\
from twisted.application.internet import StreamServerEndpointService, TimerService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted_hangup import HangupAgent, HangupSite, RetryAgent
from twisted_hangup.metrics import Metrics
from twisted_hangup.outbox import Outbox

DEAD = "http://127.0.0.1:{dead}/"
metrics = Metrics(HangupSite(Resource()))
agent = RetryAgent(HangupAgent.from_reactor(reactor), on_attempt=metrics.count_attempt)
outbox = Outbox("outbox.sqlite")
metrics.watch_outbox(outbox)
root = Resource()
root.putChild(b"metrics", metrics.resource())

def ask():
    agent.request(b"GET", DEAD.encode()).addErrback(lambda failure: None)
    ensureDeferred(outbox.send("POST", DEAD)).addErrback(lambda failure: None)

application = Application("queue")
for service in (
    outbox,
    TimerService(0.5, ask),
    StreamServerEndpointService(
        serverFromString(reactor, "tcp:{port}:interface=127.0.0.1"), HangupSite(root)
    ),
):
    service.setServiceParent(application)
"""


def targets() -> Iterator[tuple[str, str]]:
    """Title of its panel, and text of each query of the dashboard, its variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], re.sub(r"\$(job|instance)\b", ".*", text)


def metrics_in(text: str) -> set[str]:
    return {*re.findall(r"\bhangup_\w+", text)}


def test_metrics_are_those_of_the_page() -> None:
    """They ask for metrics of docs/metrics.md, and the dashboard for all of them."""
    page = (COOKBOOK.parent / "metrics.md").read_text()
    known = {*re.findall(r"^\| `(hangup_\w+)` \|", page, re.M)}
    shown = {re.sub(r"_bucket$", "", name) for _, text in targets() for name in metrics_in(text)}
    assert shown == known
    alerts = re.findall(
        r"expr: (.*?)\n +(?:for|labels):", (COOKBOOK / "alerts.yml").read_text(), re.S
    )
    assert len(alerts) == 7
    assert {name for text in alerts for name in metrics_in(text)} <= known


def test_alerts_are_told() -> None:
    """The page has a row for each alert, and for no other."""
    rows = re.findall(r"^\| `(Hangup\w+)` \|", (COOKBOOK / "grafana.md").read_text(), re.M)
    assert rows == re.findall(r"- alert: (\w+)", (COOKBOOK / "alerts.yml").read_text())


@needs_promtool
def test_promtool_checks(tmp_path: Path) -> None:
    """Both configurations, the rules, what they fire at, and each query of the dashboard."""
    for name in ("alerts.yml", "alerts_test.yml"):
        shutil.copy((COOKBOOK if name == "alerts.yml" else Path(__file__).parent) / name, tmp_path)
    token = tmp_path / "hangup-token"
    token.write_text(TOKEN)
    for name, text in FILES.items():
        if "prometheus" in Path(name).name:
            path = tmp_path / Path(name).name
            path.write_text(text.replace("/etc/prometheus/hangup-token", str(token)))
            check(tmp_path, "promtool", "check", "config", path)
    check(tmp_path, "promtool", "check", "rules", "--lint-fatal", "alerts.yml")
    check(tmp_path, "promtool", "test", "rules", "alerts_test.yml")
    rules = [{"record": f"a:{n}", "expr": text} for n, (_, text) in enumerate(targets())]
    queries = tmp_path / "queries.yml"  # JSON is YAML
    queries.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in check(tmp_path, "promtool", "check", "rules", queries)


def test_dashboard_is_grafanas() -> None:
    """Grafana's own records know every key of it: what they read and write again is the same."""
    pytest.importorskip("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))

    def unknown(mine: Any, theirs: Any, where: str) -> Iterator[str]:
        if isinstance(mine, dict):
            for key, value in mine.items():
                if isinstance(theirs, dict) and key in theirs:
                    yield from unknown(value, theirs[key], f"{where}.{key}")
                else:
                    yield f"{where}.{key}"
        elif isinstance(mine, list):
            for number, (value, other) in enumerate(zip(mine, theirs, strict=True)):
                yield from unknown(value, other, f"{where}[{number}]")
        elif mine != theirs:
            yield f"{where}: {mine!r} is {theirs!r}"

    assert not [*unknown(DASHBOARD, written, "")]


def test_panels_fill_the_screen() -> None:
    """No panel lies on another one, and each row is as wide as the screen."""
    places: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert places.setdefault((x, y), panel["title"]) == panel["title"]
    assert {x for x, _ in places} == {*range(24)}
    assert len(places) == 24 * (max(y for _, y in places) + 1)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def ask(port: int, path: str, **query: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        answer = json.load(response)
    assert answer["status"] == "success"
    return answer["data"]


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no Prometheus")
def test_prometheus_scrapes(tmp_path: Path) -> None:
    """Each query of the dashboard has an answer of a Prometheus that scrapes real servers."""
    port, status, remote, queue, dead, prometheus = (free_port() for _ in range(6))
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "queue.tac").write_text(PROGRAM.format(port=queue, dead=dead))
    shutil.copy(COOKBOOK / "alerts.yml", tmp_path)
    config = FILES["/etc/prometheus/prometheus.yml"].replace("15s", "1s")
    config = config.replace('"127.0.0.1:9000"', f'"127.0.0.1:{status}", "127.0.0.1:{queue}"')
    with_token = FILES["prometheus-token.yml"].removeprefix("scrape_configs:\n")
    with_token = with_token.replace("job_name: hangup", "job_name: remote")
    with_token = with_token.replace("/etc/prometheus/hangup-token", str(tmp_path / "token"))
    config += with_token.replace("192.0.2.7:9000", f"127.0.0.2:{remote}")
    (tmp_path / "prometheus.yml").write_text(config)
    proxy = twistd(f"--port={port}", f"--proxy=http://127.0.0.1:{dead}", f"--status={status}")
    outside = [
        *("--port=0", f"--status=tcp:{remote}:interface=127.0.0.2"),
        *("--status-token-file=token", "--workers=2"),
    ]
    with ExitStack() as programs:
        for command in (
            proxy,
            twistd(*outside),
            [str(BIN / "twistd"), "-ny", "queue.tac", "--pidfile=queue.pid", "--logfile=queue.log"],
            [
                "prometheus",
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=tsdb",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ],
        ):
            programs.enter_context(running(tmp_path, *command))
        for listens in (port, prometheus):
            connect(listens).close()

        def empty() -> list[str]:
            for wire in (BAD, TLS, GOOD.replace(b"Host", b"Connection: close\r\nHost")):
                client = connect(port).send(wire)
                client.read_all()
                client.close()
            connect(port).send(b"GET / HTTP/1.1\r\nHo").reset()
            return [
                f"{title}: {text}"
                for title, text in targets()
                if not ask(prometheus, "query", query=text)["result"]
            ]

        def up() -> set[str]:
            return {target["health"] for target in ask(prometheus, "targets")["activeTargets"]}

        wait_for(lambda: up() == {"up"})
        unanswered = [""]

        def all_answered() -> bool:
            unanswered[:] = empty()
            return not unanswered

        try:
            wait_for(all_answered)
        except AssertionError:
            pytest.fail("\n".join(unanswered))
        assert len(ask(prometheus, "rules")["groups"][0]["rules"]) == 7
