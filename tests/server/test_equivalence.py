"""What works with Twisted's own site works with ours: the same requests, the same answers.

Every conversation is held twice, in memory: with `twisted.web.server.Site`, its channel and its
requests, and with `HangupSite`.  What was sent and when, how the connection ended, what the access
log and the event log were told, and all that the application saw has to be the same.  `DIFFERENCES`
has what is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import applications as apps
from support.applications import ANSWERS, REQUESTS, SITES, TICK, Answer, Application, Leaf, OnlyGet
from support.conversations import Carrier, Note, Step, difference, hold, note
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from twisted_hangup import HangupSite

# What clients send.


def request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    """A request of HTTP/1.1 to the host ``a``, with the length of its *body* if it has one."""
    lengths = [b"Content-Length: %d" % len(body)] if body else []
    version = b"" if b" HTTP/1." in line else b" HTTP/1.1"
    return b"\r\n".join([line + version, b"Host: a", *fields, *lengths, b"", body])


GET: Final = request(b"GET /")
BROWSER: Final = request(
    b"GET /a/b?c=d",
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0)",
    b"Accept: text/html,*/*;q=0.8",
    b"Accept-Language: en",
    b"Accept-Encoding: gzip, deflate, br",
    b"Cookie: a=b; c=d=e",
    b"Referer: http://a/",
    b"Connection: keep-alive",
)
FORM: Final = b"Content-Type: application/x-www-form-urlencoded"
MULTIPART: Final = b"Content-Type: multipart/form-data; boundary=xyz"
PARTS: Final = (
    b"--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\none\r\n"
    b'--xyz\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\ntwo\r\nlines\r\n--xyz--\r\n"
)
CHUNKED: Final = b"Transfer-Encoding: chunked"
CHUNKS: Final = b"5\r\na=1&b\r\n3;ext=1\r\n=2&\r\n00A\r\n0123456789\r\n0\r\n\r\n"

OLD: Final = b"GET /old HTTP/1.0\r\n\r\n"
CACHED: Final = (b'If-None-Match: "e" x', b"If-Modified-Since: Sun, 06 Nov 1994 08:49:38 GMT")

#: What every application is asked, one after the other.
COMMON: Final = (
    *(GET, BROWSER, request(b"HEAD /"), request(b"POST /form", FORM, body=b"a=b&c=")),
    *(request(b"GET /", *CACHED), BROWSER, request(b"GET /last", b"Connection: close")),
)

#: What is sent to a resource that looks at all there is.  What a target in another form than a
#: path means is not Twisted's affair: see ``test_target``.
MESSAGES: Final[Mapping[str, bytes]] = {
    "GET": GET,
    "GET twice": GET * 2,
    "browser": BROWSER * 3,
    "all": b"".join(COMMON),
    "1.0": OLD,
    **{
        f"target {target.decode('latin-1')}": request(b"GET " + target)
        for target in [
            *(
                b"//",
                b"//a//b",
                b"/%41%20%2Fb/%C3%A9",
                b"/%",
                b"/%zz",
                b"/a;p?q",
                b"/?",
                b"/a?b?c=d",
            ),
            *(
                b"/?a=1&a=2&b=&=c&d&%41=%2B+",
                b"/?a=1;b=2",
                b"/~!*'():@&=+$,;",
                b"/.",
                b"/a/../b",
            ),
            b"/" + b"x" * 5000,
        ]
    },
    "OPTIONS *": request(b"OPTIONS *") + GET,
    **{
        f"method {method.decode()}": request(method + b" /a?b=c", body=b"body") + GET
        for method in [
            b"GET",
            b"HEAD",
            b"PUT",
            b"OPTIONS",
            b"DELETE",
            b"PATCH",
            b"TRACE",
            b"PROPFIND",
            b"QUERY",
        ]
    },
    "methods without bodies": b"".join(
        request(method + b" /") for method in [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"M-SEARCH"]
    ),
    "length 0": request(b"POST /", FORM, b"Content-Length: 0")
    + request(b"GET /", b"Content-Length: 0"),
    "length 00": request(b"POST /", b"Content-Length: 004") + b"body" + GET,
    "form": request(b"POST /?a=0&b=0", FORM + b"; charset=utf-8", body=b"a=%C3%A9+x&a=2&c") + GET,
    "form put": request(b"PUT /?a=0", FORM, body=b"a=1"),
    "form of another case": request(b"POST /", FORM.upper(), body=b"a=1"),
    "type twice": request(b"POST /", FORM, b"Content-Type: text/plain", body=b"a=1"),
    "form chunked": request(b"POST /", FORM, CHUNKED) + CHUNKS + GET,
    "multipart": request(b"POST /?a=0", MULTIPART, body=PARTS) + GET,
    "body of another type": request(b"POST /", b"Content-Type: text/plain", body=b"a=b"),
    "chunked": request(b"PUT /", b"transfer-encoding:  Chunked ") + CHUNKS + GET,
    "chunked, empty": request(b"POST /", CHUNKED) + b"0\r\n\r\n" + GET,
    "chunked, trailers": request(b"POST /", CHUNKED) + b"1\r\nx\r\n0\r\nX-Late: 1\r\n\r\n" + GET,
    "large": request(b"PUT /", body=b"0123456789abcdef" * 8000) + GET,
    "expect": request(b"POST /", b"Expect: 100-continue", body=b"a=b") + GET,
    "expect, capitals": request(b"POST /", b"Expect: 100-Continue", CHUNKED) + CHUNKS,
    "expect, no body": request(b"GET /", b"expect: 100-continue"),
    "expect in 1.0": b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    "1.0 with host": b"GET / HTTP/1.0\r\nHost: b\r\n\r\n",
    "1.0 kept alive": b"GET / HTTP/1.0\r\nHost: b\r\nConnection: keep-alive\r\n\r\n",
    "1.0 HEAD": b"HEAD / HTTP/1.0\r\n\r\n",
    "1.0 POST": b"POST / HTTP/1.0\r\n" + FORM + b"\r\nContent-Length: 3\r\n\r\na=b",
    "close in capitals": request(b"GET /", b"Connection: Close"),
    "kept alive": request(b"GET /", b"Connection: keep-alive") * 2,
    "kept alive by proxy": request(b"GET /", b"Proxy-Connection: keep-alive") + GET,
    "data after close": request(b"GET /", b"Connection: close") + GET,
    "close after others": GET * 2 + request(b"POST /", b"Connection: close", body=b"x"),
    "upgrade": request(
        b"GET /", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"
    )
    + GET,
    "empty line first": b"\r\n" + GET + b"\r\n" + GET,
    "cookies": request(
        b"GET /", b"Cookie: a=b; c=d;e ; f=g=h;;  i = j", b"X: 1", b"cookie: a=c;=k"
    ),
    "cookie, empty": request(b"GET /", b"Cookie:", b"Cookie: x"),
    "login": request(b"GET /", b"Authorization: Basic dXNlcjpwYXNz") + GET,
    "login, broken": request(b"GET /", b"authorization: Basic x"),
    "field names": request(
        b"GET /",
        b"x-tWIce: 1",
        b"X-TWICE: 2",
        b"www-authenticate: a",
        b"ETAG: e",
        b"dnt: 1",
        b"te:",
    ),
    "field values": request(
        b"GET /",
        b"x-a:1",
        b"x-b: \t 2 \t",
        b"x-c: caf\xe9 \xc3\xa9",
        b"x-d:",
        b'x-e: "a,b";c',
        b"x-f: a:b",
    ),
    "fields, many": request(b"GET /", *(b"x-%d: %d" % (n, n) for n in range(100))) + GET,
    "other fields each time": BROWSER + BROWSER.replace(b"a=b", b"a=x") + BROWSER + GET,
    "body, then none": request(b"POST /", b"Content-Length: 1") + b"x" + request(b"POST /"),
}

#: How the network cuts them.
CUTS: Final[Mapping[str, Callable[[bytes], list[Step]]]] = {
    "whole": lambda wire: pieces(wire),
    "head and rest": lambda wire: pieces(wire, wire.index(b"\r\n\r\n") + 4),
    "inside the line": lambda wire: pieces(wire, 5, 15),
    "inside the fields": lambda wire: pieces(wire, 25, wire.index(b"\r\n\r\n") + 2),
    "before the last byte": lambda wire: pieces(wire, len(wire) - 1),
    "in thirds": lambda wire: pieces(wire, len(wire) // 3, 2 * len(wire) // 3),
}
#: Longest message that is also sent byte by byte.
SHORT: Final = 200


def pieces(wire: bytes, *places: int) -> list[Step]:
    """*wire*, cut at these places."""
    ends = sorted({0, len(wire), *(place for place in places if place < len(wire))})
    return [wire[start:end] for start, end in pairwise(ends)]


#: What `same` says where an exception has left Twisted's request and channel, so that the
#: connection was dropped; see "exceptions that leave a request".
ESCAPED: Final = "an exception escapes"


def same(
    application: Application, steps: list[Step], carriers: tuple[Carrier, ...] = ("telling",)
) -> str:
    """Hold a conversation with Twisted's site and with ours; say where they differ, if they do."""
    theirs: dict[Carrier, list[Note]] = {}
    for carrier in carriers:
        # Twisted's site knows no transport that tells.
        known: Carrier = "bare" if carrier == "telling" else carrier
        if known not in theirs:
            theirs[known] = hold(application.served(Site), steps, known)
        ours = hold(application.served(HangupSite), steps, carrier)
        sent = b"".join(step for step in steps if isinstance(step, bytes))
        unclosed = without_close if b" HTTP/1.0\r\n" in sent else list
        stock = unclosed(logged_last(theirs[known]))
        if where := difference(stock, unclosed(logged_last(ours))):
            escaped = any(one.what == "escaped" for one in theirs[known])
            return ESCAPED if escaped else f"\n  {carrier}: {where}"
    return ""


def logged_last(notes: list[Note]) -> list[Note]:
    """The same with the access log at the end: Twisted writes it before all is sent, we after."""
    return sorted(notes, key=attrgetter("step"))


_CLOSE: Final = (b"Connection", [b"close"])


def without_close(value: Any) -> Any:
    """Leave ``Connection: close`` out of all that was noted; see "closes HTTP/1.0"."""
    if isinstance(value, Note):
        return value._replace(value=without_close(value.value))
    if type(value) in (list, tuple):
        return type(value)(without_close(one) for one in value if one != _CLOSE)
    if isinstance(value, dict):
        return {key: without_close(one) for key, one in value.items()}
    return value.replace(b"Connection: close\r\n", b"") if isinstance(value, bytes) else value


def answering(answer: Answer, kind: Callable[[Answer], Resource] = Leaf) -> Application:
    """An application of one resource."""
    return Application(lambda: kind(answer))


def fail_with(differences: Mapping[str, str]) -> None:
    """Fail a test with the first few of its *differences*, if there are any."""
    shown = [f"{name}: {where}" for name, where in differences.items() if where]
    if shown:
        pytest.fail("\n".join([f"{len(shown)} of {len(differences)} differ", *shown[:5]]))


#: How an application is asked, where all that counts is what it does.
ASKED: Final[Mapping[str, list[Step]]] = {
    "in turn": [step for wire in COMMON for step in (wire, 0.1)],
    "at once": [b"".join(COMMON)],
    "in pieces": CUTS["in thirds"](b"".join(COMMON)),
    "in 1.0": [OLD],
}


#: Answers that are longer than announced: stock sends on, and ours is in test_response_length.
TOO_LONG: Final = {"length_wrong", "two_producers"}


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - TOO_LONG))
def test_answers(name: str) -> None:
    """Whatever a resource does with a request, its client gets the same."""
    fail_with(
        {
            f"{kind.__name__}, asked {how}": same(answering(ANSWERS[name], kind), steps)
            for kind in (Leaf, OnlyGet)
            for how, steps in ASKED.items()
        }
    )


@pytest.mark.parametrize("name", MESSAGES)
def test_requests(name: str) -> None:
    """Whatever is asked, and however it is cut, a resource sees the same."""
    wire = MESSAGES[name]
    everywhere: tuple[Carrier, ...] = ("telling", "bare", "string", "secure")
    fail_with(
        {cut: same(Application(), cutting(wire)) for cut, cutting in CUTS.items()}
        | {
            answer: same(answering(ANSWERS[answer]), [wire], everywhere)
            for answer in ("viewed", "nothing_looked_at", "content_read", "headers_kept")
        }
    )
    if len(wire) < SHORT:
        assert not same(Application(), pieces(wire, *range(len(wire))), ("telling", "string"))


@pytest.mark.parametrize("name", REQUESTS)
def test_request_classes(name: str) -> None:
    """What a site's ``requestFactory`` makes is called as Twisted calls it."""
    applications = {
        answer: answering(ANSWERS[answer])
        for answer in (
            *("nothing_looked_at", "viewed", "written_now_and_later", "cookies", "etag", "pushed"),
            *("raised", "session"),
        )
    } | {site: SITES[site] for site in ("zipped", "tree")}
    fail_with(
        {
            what: same(application._replace(request=REQUESTS[name]), ASKED["in turn"])
            for what, application in applications.items()
        }
    )


TARGETS: Final = (
    *(b"/", b"/leaf", b"/leaf/x/", b"/branch/a%20b", b"/branch/", b"/branch", b"/asked", b"/moved"),
    *(b"/later", b"/raised", b"/answered", b"/none?a=b", b"/bare/x/", b"/?write", b"/named"),
)


@pytest.mark.parametrize("name", SITES)
def test_sites(name: str) -> None:
    """Whatever a site is made of, its clients get the same."""
    if name == "klein":
        pytest.importorskip("klein")
    user = b"Authorization: Basic dXNlcjpwYXNzd29yZA=="
    session = b"Cookie: TWISTED_SESSION=" + b"0" * 64
    fields = (b"Accept-Encoding: gzip", user, session, CACHED[0])
    methods = ((b"GET", b""), (b"HEAD", b""), (b"POST", b"x=y"), (b"PATCH", b"x"))
    for method, body in methods:
        asked: list[Step] = []
        for target in TARGETS:
            asked += [request(method + b" " + target, *fields, body=body), 0.1]
        assert not same(SITES[name], asked)
    assert not same(SITES[name], [request(b"OPTIONS *", *fields)])
    for steps in ASKED.values():
        assert not same(SITES[name], steps, ("telling", "bare"))


def test_files(tmp_path: Path) -> None:
    """Files are served alike: ranges, types, folders, what has not changed."""
    application = Application(apps.files(tmp_path))
    fail_with(
        {
            f"{method.decode()} {target.decode()} {field.decode()}": same(
                application, [request(method + b" " + target, field) + GET]
            )
            for target in (b"/", b"/text.txt", b"/empty.css", b"/folder", b"/folder/", b"/none")
            for method in (b"GET", b"HEAD", b"POST")
            for field in (
                *(b"X: 1", b"Range: bytes=0-9", b"Range: bytes=-3", b"Range: bytes=900000-"),
                *(b"Range: x", b"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"),
            )
        }
    )


#: What takes time, and what the client does meanwhile.
PATIENCE: Final[Mapping[str, list[Step]]] = {
    "reads late": ["stall", GET, 1.0, "read"],
    "reads after two": ["stall", GET * 2, 1.0, "read"],
    "asks again meanwhile": [GET, BROWSER, TICK / 2, GET],
    "asks again later": [GET, TICK, BROWSER, 3 * TICK, GET, 1.0, GET],
    "asks in part": [GET + BROWSER[:30], TICK, BROWSER[30:], 1.0, GET],
    "sends a slow body": [request(b"PUT /", b"Content-Length: 4") + b"a", 1.0, b"bc", 1.0, b"d"],
    "asks for much": [GET * 8],
    "asks for more than is kept": [request(b"GET /", b"x: " + b"y" * 4000) * 9, 1.0, GET],
    "ends when it has all": [GET, 1.0, "fin"],
    "is idle": [GET, 55.0, GET],
}


@pytest.mark.parametrize("name", PATIENCE)
def test_time(name: str) -> None:
    """Whatever takes time, the same happens, at the same time."""
    steps = PATIENCE[name]
    answers = [
        *("nothing_looked_at", "written_often", "written_later", "written_now_and_later"),
        *("finished_later", "pushed", "pulled", "notified", "raised", "session", "viewed_later"),
    ]
    differences = {
        answer: same(answering(ANSWERS[answer]), steps, ("telling", "bare")) for answer in answers
    }
    if b"".join(step for step in steps if isinstance(step, bytes)) == GET:
        differences |= {
            answer.__name__: same(answering(answer), steps, ("telling", "bare"))
            for answer in (apps.pulled_much, apps.pushed_much)
        }
    fail_with(differences)


# What is changed while it runs.


@pytest.mark.parametrize("hook", apps.HOOKS)
def test_patched_class(hook: str) -> None:
    """What somebody puts in the place of a method of Twisted's own class is called, too."""
    owner = next(one for one in Request.__mro__ if hook in vars(one))
    method = vars(owner)[hook]

    def patch(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hook.startswith("__"):
            note("patched", hook, args, kwargs)
        return method(self, *args, **kwargs)

    with mock.patch.object(owner, hook, patch):
        fail_with(
            {
                answer: same(answering(ANSWERS[answer]), ASKED["in turn"])
                for answer in ("nothing_looked_at", "cookies", "written_now_and_later", "session")
            }
        )


#: What is set on a site that has served already.
CHANGES: Final[Mapping[str, tuple[str, Any]]] = {
    "request class": ("requestFactory", apps.Shouts),
    "request function": ("requestFactory", apps.function),
    "request without queue": ("requestFactory", apps.Alone),
    "resource": ("resource", Leaf(ANSWERS["headers_many"])),
    "log": ("log", lambda request: note("own log", request.uri, request.code)),
    "files": ("getContentFile", apps.OwnFiles().getContentFile),
    "forms": ("_parsePOSTFormSubmission", False),
    "sessions": ("sessionFactory", apps.OwnSessions.sessionFactory),
    "log formatter": ("_logFormatter", lambda now, request: f"own line {request.uri!r}"),
    "finding": ("getResourceFor", lambda request: Leaf(ANSWERS["cookies"])),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_site(name: str) -> None:
    """What is changed on a site counts for what comes next, on open connections as well."""
    attribute, value = CHANGES[name]
    known = BROWSER + request(b"GET /", b"Cookie: TWISTED_SESSION=" + b"0" * 64)

    def change(asked: Any) -> bytes:
        setattr(asked.channel.site, attribute, value)
        return ANSWERS["session"](asked)  # type: ignore[no-any-return]

    def held(kind: type[Site], changed: bool) -> list[list[Note]]:
        site = answering(ANSWERS["session"]).served(kind)
        before = hold(site, [known])
        if changed:
            setattr(site, attribute, value)
        after = hold(site, [*ASKED["in turn"], known])
        changing = answering(change if changed else ANSWERS["session"]).served(kind)
        asked = hold(changing, [*ASKED["in turn"], known])
        return [logged_last(notes) for notes in (before, after, asked)]

    stock = held(Site, changed=True)
    assert not difference(stock, held(HangupSite, changed=True))
    assert stock != held(Site, changed=False)


# Anything.


def tokens(*words: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(words)


TARGET: Final = st.builds(
    lambda path, query: b"/" + b"/".join(path) + query,
    st.lists(tokens(b"", b"a", b"leaf", b"branch", b"a%20b", b"%2F", b"..", b"%C3%A9"), max_size=3),
    tokens(b"", b"?", b"?a=b", b"?a=1&a=%C3%A9&b=&c", b"?write"),
)
FIELD: Final = tokens(
    *(b"Accept: */*", b"accept-ENCODING: gzip", b"Cookie: a=b; c", b"cookie: d=e", b"X-Twice: 1"),
    *(b"x-twice:2", b"Referer: http://a/%C3%A9", b"User-Agent: m\xe9", b"Connection: keep-alive"),
    *(b"Expect: 100-continue", b"Range: bytes=0-1", b"Authorization: Basic dXNlcjpwYXNzd29yZA=="),
    *(CACHED[0], CACHED[1], b"Content-Type: text/plain", FORM, b"X-Empty:"),
)
BODY: Final = tokens(b"", b"", b"x", b"a=b&c=d", CHUNKS)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A valid request."""
    method = draw(tokens(b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"DELETE", b"PATCH"))
    fields = draw(st.lists(FIELD, max_size=5, unique=True))
    body = draw(BODY)
    if body == CHUNKS:
        return request(method + b" " + draw(TARGET), *fields, CHUNKED) + body
    return request(method + b" " + draw(TARGET), *fields, body=body)


@st.composite
def conversations(draw: st.DrawFn) -> list[Step]:
    """Up to four requests on one connection, cut anywhere, with pauses anywhere."""
    several = [*draw(st.lists(messages(), min_size=1, max_size=3))]
    several += draw(st.sampled_from([[], [], [several[-1]], [OLD], [COMMON[-1]]]))
    wire = b"".join(several)
    ends = [sum(map(len, several[:count])) for count in range(1, len(several))]
    anywhere = st.lists(st.integers(1, len(wire)) | st.sampled_from([*ends, 1]), max_size=4)
    cuts = draw(st.just(ends) | anywhere)
    pauses = st.sampled_from([[], [], [], [TICK / 2], [2 * TICK], [1.0]])
    return [step for piece in pieces(wire, *cuts) for step in (piece, *draw(pauses))]


APPLICATIONS: Final = st.one_of(
    st.builds(
        lambda kind, answer, factory: answering(ANSWERS[answer], kind)._replace(
            request=REQUESTS[factory]
        ),
        st.sampled_from([Leaf, OnlyGet]),
        st.sampled_from([*ANSWERS]),
        st.sampled_from([*REQUESTS]),
    ),
    st.sampled_from([site for name, site in SITES.items() if name != "klein"]),
)


@settings(max_examples=200, derandomize=True, database=None)
@given(APPLICATIONS, conversations(), st.sampled_from(["telling", "telling", "bare"]))
def test_anything(application: Application, steps: list[Step], carrier: Carrier) -> None:
    """Whatever is asked of whatever, the same happens."""
    assert same(application, steps, (carrier,)) in ("", ESCAPED)


# What is not the same.


class Difference(NamedTuple):
    """Something that ours does otherwise, on purpose.

    Attributes:
        steps: What a client does where it shows.
        stock: What happens with Twisted's own site, as `gist` tells it.
        ours: What happens with ours.
        reason: Why.
        application: Of what it is asked.
    """

    steps: list[Step]
    stock: str
    ours: str
    reason: str
    application: Application = answering(apps.nothing_looked_at)


STRICT: Final = "docs/deviations.md, and Node's parser, which decides what a request is"
LEAVES: Final = "ARCHITECTURE.md: no exception of a request leaves the channel"

DIFFERENCES: Final[Mapping[str, Difference]] = {
    "default answer": Difference(
        [request(b"GET /", b"no colon")],
        "400, ended fin",
        "400 close, ended fin",
        "the answer to a broken request is Node's, byte for byte",
    ),
    "default answer after another": Difference(
        [GET + request(b"GET /", b"no colon")],
        "access 200, 200, 400, ended fin",
        "access 200, 200, 400 close, ended fin",
        "the same, in its turn",
    ),
    "default answer to a broken body": Difference(
        [request(b"POST /", CHUNKED) + b"x"],
        "",
        "400 close, ended fin",
        "a byte is judged in the read that brings it",
    ),
    "host missing": Difference(
        [b"GET / HTTP/1.1\r\n\r\n"], "access 200, 200", "400 close, ended fin", STRICT
    ),
    "hosts": Difference(
        [request(b"GET /", b"Host: b")], "access 200, 200", "400 close, ended fin", STRICT
    ),
    "method unknown": Difference(
        [request(b"BREW /")],
        "access 200, 200",
        "400 close, ended fin",
        "Node knows its methods; Limits.methods takes more",
    ),
    "method in lower case": Difference(
        [request(b"get /")], "access 200, 200", "400 close, ended fin", STRICT
    ),
    "target without slash": Difference(
        [request(b"GET x")], "access 200, 200", "400 close, ended fin", STRICT
    ),
    "target with fragment": Difference(
        [request(b"GET /#x")], "access 200, 200", "400 close, ended fin", STRICT
    ),
    "value with a control byte": Difference(
        [request(b"GET /", b"x: \x01")], "access 200, 200", "400 close, ended fin", STRICT
    ),
    "value folded": Difference(
        [request(b"GET /", b"x: 1\r\n 2")],
        "access 200, 200",
        "400 close, ended fin",
        "RFC 9112, section 5.2; Lenience.obs_fold takes it",
    ),
    "coding identity": Difference(
        [request(b"POST /", b"Transfer-Encoding: identity")],
        "access 200, 200",
        "400 close, ended fin",
        "RFC 9112, section 7: there is no such coding any more",
    ),
    "coding in HTTP/1.0": Difference(
        [b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        "access 200, 200, ended fin",
        "400 close, ended fin",
        STRICT,
    ),
    "CONNECT": Difference(
        [request(b"CONNECT a:80")],
        "access 200, 200",
        "access 501, 501 close, ended fin",
        "RFC 9110, section 9.3.6: a 200 would open a tunnel",
    ),
    "expectation unknown": Difference(
        [request(b"GET /", b"Expect: more")],
        "access 200, 200",
        "access 417, 417 close, ended fin",
        "RFC 9110, section 10.1.1",
    ),
    "empty lines": Difference(
        [b"\r\n\r\n" + GET],
        "400, ended fin",
        "access 200, 200",
        "RFC 9112, section 2.2: at least one; Limits.leading_crlf",
    ),
    "fields, 501": Difference(
        [request(b"GET /", *(b"x: %d" % n for n in range(500)))],
        "400, ended fin",
        "access 200, 200",
        "Limits.head_fields",
    ),
    "head too large": Difference(
        [request(b"GET /", b"x: " + b"y" * 16_500)],
        "ended fin",
        "431 close, ended fin",
        "RFC 6585, section 5: say why",
    ),
    "Connection in two fields": Difference(
        [request(b"GET /", b"Connection: keep-alive", b"Connection: close")],
        "access 200, 200",
        "access 200, 200 close, ended fin",
        "RFC 9110, section 5.3: two fields are one list",
    ),
    "closes HTTP/1.0": Difference(
        [OLD],
        "access 200, 200, ended fin",
        "access 200, 200 close, ended fin",
        "RFC 9112, section 9.6: say so; left out of all other comparisons",
    ),
    "end inside a head": Difference(
        [GET[:20], "fin"], "ended fin", "400 close, ended fin", "Node answers what is cut short"
    ),
    "end inside a body": Difference(
        [request(b"PUT /", b"Content-Length: 2") + b"x", "fin"],
        "ended fin",
        "400 close, ended fin",
        "the same",
    ),
    "slow head": Difference(
        [GET[:20], 30.0, GET[20:25], 31.0],
        "",
        "408 close, ended fin",
        "a deadline is fixed from its start, and a byte does not stretch it",
    ),
    "idle": Difference(
        [GET, 62.0],
        "access 200, 200, ended fin",
        "access 200, 200",
        "65 seconds: balancers in front keep a connection for 60, and have to close first",
    ),
    "client left": Difference(
        [GET, "fin"],
        "ended fin, raised RuntimeError",
        "access 499, ended fin",
        "the access log tells of it, and nothing is raised for it",
        answering(apps.finished_later),
    ),
    "client left, and a waiter": Difference(
        [GET, "fin"],
        "200, notified Failure ConnectionDone, notified Failure ConnectionDone, ended fin, "
        "raised RuntimeError",
        "200, access 499, notified Failure ClientGone, notified Failure ClientGone, ended fin",
        "the reason is Twisted's, and knows more",
        answering(apps.notified),
    ),
    "client left, and its body": Difference(
        [GET, "fin"],
        "ended fin, closed True",
        "access 499, ended fin, closed False",
        "an application may go on reading what a client has sent",
        answering(apps.content_of_a_lost_client),
    ),
    "waiting afterwards": Difference(
        [GET],
        "access 200, 200",
        "notified None, access 200, 200",
        "notifyFinish() fires whenever it is called",
        answering(apps.notified_afterwards),
    ),
    "raised after a write": Difference(
        [GET],
        "error ValueError, access 500, 200",
        "error ValueError, access 200, 200, ended fin",
        "a page after a response that has begun is not what was announced",
        answering(apps.raised_after_write),
    ),
    "exceptions that leave a request": Difference(
        [GET * 2],
        "access 200, error ValueError, escaped RuntimeError, ended fin",
        "error ValueError, error ValueError, access 200, access 200, 200, 200",
        LEAVES,
        answering(apps.raised_after_finish),
    ),
    "written after the end": Difference(
        [GET * 2],
        "access 200, error RuntimeError, escaped RuntimeError, ended fin",
        "error RuntimeError, error RuntimeError, access 200, access 200, 200, 200",
        LEAVES,
        answering(apps.finished_then_returned),
    ),
    "no room for the next": Difference(
        [GET * 2],
        "producer True False, access 200, producer True False, escaped NotPaused, stopped, 200, "
        "ended fin",
        "producer True False, producer True False, access 200, access 200, 200, 200",
        "a request waits until its client has taken most of the answers before it",
        answering(apps.pulled_much),
    ),
    "fields of its own": Difference(
        [GET],
        "same fields True, access 200, 200",
        "same fields False, access 200, 200",
        "a head that is not complete makes no request, so that all fields are there at once",
        answering(apps.nothing_looked_at)._replace(request=apps.KeepsFields),
    ),
}


def gist(notes: list[Note]) -> str:
    """What happened, in a few words: responses, lines in the access log, errors and the end."""
    words: list[str] = []
    for _, what, value in notes:
        if what == "sent":
            for code, rest in re.findall(rb"HTTP/1\.[01] (\d{3}) (.*?)\r\n\r\n", value[0], re.S):
                words.append(f"{code.decode()}{' close' * (b'Connection: close' in rest)}")
        elif what == "access":
            words.append(f"access {value[0].split()[-4]}")
        elif what == "logged":
            words += [value[-1].replace("Failure", "error")] if value[-1] else []
        elif what in ("ended", "raised", "escaped"):
            words.append(f"{what} {value[0]}")
        elif what == "leaves":
            break
        elif what not in ("saw", "seen by the log"):
            words.append(" ".join(map(str, (what, *value))))
    return ", ".join(words)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences(name: str) -> None:
    """What is not the same is what the table says."""
    row = DIFFERENCES[name]
    for kind, told in ((Site, row.stock), (HangupSite, row.ours)):
        assert gist(hold(row.application.served(kind), row.steps, "bare")) == told


def test_tracebacks() -> None:
    """A page with a traceback shows the same, and our frames among Twisted's."""
    application = answering(ANSWERS["raised"])._replace(site=apps.Tracebacks)
    pages = [
        b"".join(
            one.value[0] for one in hold(application.served(kind), [GET]) if one.what == "sent"
        )
        for kind in (Site, HangupSite)
    ]
    for page in pages:
        assert b"500 Internal" in page and b"in render" in page and b"applications.py" in page
    assert [b"twisted_hangup" in page for page in pages] == [False, True]
