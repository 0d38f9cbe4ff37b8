"""docs/cookbook/{sentry,opentelemetry}.md: the programs, before transports that keep in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_twisted
from support.cookbook import files, running, twistd
from support.processes import connect, free_port
from support.wire import BAD, Paths, Serve, statuses, talk, until
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from twisted_hangup import HangupSite

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = b"traceparent: 00-%b-b7ad6b7169203331-01\r\n" % TRACE.encode()
GET = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n"


def module(page: str, name: str) -> Any:
    """The program *name* of *page*, as a module."""
    made = ModuleType(name.removesuffix(".py"))
    exec(compile(files(page)[name], name, "exec"), vars(made))
    return made


class Fails(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        raise ZeroDivisionError("the resource is to blame")


class TestSentry:
    @pytest.fixture
    def events(self) -> Iterator[list[dict[str, Any]]]:
        """What would be sent to Sentry."""
        sentry_sdk = pytest.importorskip("sentry_sdk")
        events: list[dict[str, Any]] = []

        class Memory(sentry_sdk.transport.Transport):  # type: ignore[misc, name-defined]
            def capture_envelope(self, envelope: Any) -> None:
                events.append(envelope.get_event())

        # Integrations are for a process of its own.
        sentry_sdk.init(
            "https://key@sentry.invalid/1",
            transport=Memory,
            default_integrations=False,
            shutdown_timeout=0,
        )
        yield events
        sentry_sdk.get_client().close()
        sentry_sdk.init()

    @pytest_twisted.ensureDeferred
    async def test_events(
        self, serve: Serve, events: list[dict[str, Any]], expected_errors: Any
    ) -> None:
        """A flood is one event with its report, a hang-up is none, a traceback is one."""
        program = module("sentry", "serve_with_sentry.py")
        site = HangupSite(Paths(fails=Fails()))
        program.watch(site)
        try:
            served = serve(site)
            for _ in range(5):
                await talk(served.port, BAD)
            await served.leave(GET % (b"/slow", b""))
            await talk(served.port, GET % (b"/fails", b""))
        finally:
            globalLogPublisher.removeObserver(program.send_failure)
        assert len(expected_errors.flush(ZeroDivisionError)) == 1
        assert served.codes == ["HPE_INVALID_HEADER_TOKEN"] * 5 + ["ECONNRESET"]
        refused, failed = events
        assert refused["message"] == "HPE_INVALID_HEADER_TOKEN: Invalid header token"
        assert refused["fingerprint"] == ["client error", "HPE_INVALID_HEADER_TOKEN"]
        assert refused["tags"]["status"] in (400, "400")
        report = refused["contexts"]["report"]
        assert report["client"] == "127.0.0.1" and "byte 32" in report["text"]
        [exception] = failed["exception"]["values"]
        assert exception["value"] == "the resource is to blame"
        assert exception["stacktrace"]["frames"][-1]["function"] == "render_GET"

    def test_handler(self, tmp_path: Path) -> None:
        """``twistd hangup`` takes the handler, and answers as ever."""
        pytest.importorskip("sentry_sdk")
        for name, text in files("sentry").items():
            (tmp_path / name).write_text(text)
        (tmp_path / "seen.py").write_text(
            "import sentry_handler, serve_with_sentry\n"
            "def handler(failure, socket):\n"
            "    result = sentry_handler.handler(failure, socket)\n"
            "    print('sent', *serve_with_sentry.last_sent)\n"
            "    return result\n"
        )
        port = free_port()
        with running(tmp_path, *twistd(f"--port={port}", "--on-client-error=seen.handler")):
            client = connect(port).send(BAD)
            assert statuses(client.read_all()) == [400]
            client.close()
        assert "sent HPE_INVALID_HEADER_TOKEN" in (tmp_path / "server.log").read_text()


class TestOpenTelemetry:
    @pytest.fixture
    def program(self) -> Any:
        pytest.importorskip("opentelemetry.sdk")
        return module("opentelemetry", "serve_with_traces.py")

    @pytest.fixture
    def spans(self, program: Any) -> Any:
        """The exporter that has the spans of the program."""
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        program.tracer = provider.get_tracer("test")
        return exporter

    @pytest_twisted.ensureDeferred
    async def test_spans(
        self, serve: Serve, program: Any, spans: Any, expected_errors: Any
    ) -> None:
        """Requests and errors continue the trace of their client, or begin one."""

        class Works(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> int:
                async def work() -> None:
                    waits: Deferred[None] = Deferred()
                    from twisted.internet import reactor

                    reactor.callLater(0, waits.callback, None)
                    await waits
                    program.tracer.start_span("work").end()
                    request.finish()

                ensureDeferred(work())
                return NOT_DONE_YET

        site = HangupSite(Paths(works=Works(), fails=Fails()), requestFactory=program.TracedRequest)
        site.journal.watch(program.trace_client_error)
        served = serve(site)
        await talk(served.port, GET % (b"/works?secret=1", PARENT))
        await talk(served.port, GET % (b"/fast", b""))
        await talk(served.port, GET % (b"/fails", PARENT))
        await talk(served.port, GET % (b"/", PARENT + b"Bad Name: 1\r\n"))
        await served.leave(GET % (b"/slow", PARENT))
        assert len(expected_errors.flush(ZeroDivisionError)) == 1
        await until(lambda: len(spans.get_finished_spans()) == 7)
        work, works, fast, fails, refused, *left = spans.get_finished_spans()
        assert work.parent.span_id == works.context.span_id
        assert works.attributes["url.path"] == "/works"
        assert works.attributes["http.response.status_code"] == 200
        assert works.status.is_ok or works.status.is_unset
        assert fast.parent is None
        assert fails.attributes["http.response.status_code"] == 500
        assert not fails.status.is_ok and not fails.status.is_unset
        assert refused.name == "client error"
        assert refused.attributes["error.type"] == "HPE_INVALID_HEADER_TOKEN"
        assert "Bad" in refused.attributes["twisted_hangup.report"]
        assert {span.name for span in left} == {"GET", "client error"}
        for span in (works, fails, refused, *left):
            assert f"{span.context.trace_id:032x}" == TRACE
            assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"

    def test_program(self, tmp_path: Path, program: Any) -> None:
        """The program runs as it stands, and prints its spans when it ends."""
        port = free_port()
        text = files("opentelemetry")["serve_with_traces.py"].replace("tcp:8000", f"tcp:{port}")
        (tmp_path / "serve_with_traces.py").write_text(text)
        (tmp_path / "public").mkdir()
        with running(tmp_path, sys.executable, "serve_with_traces.py"):
            client = connect(port).send(GET % (b"/", PARENT))
            client.read_all()
            client.close()
        printed = (tmp_path / f"{Path(sys.executable).name}.out").read_text()
        assert f'"trace_id": "0x{TRACE}"' in printed
