"""The admin port's ASGI application: who may ask, what is answered, who may watch."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from actors.admin.frontend import Pages
from actors.admin.wiring import wire_observation
from actors.console.application import (
    SILENCE_SECONDS,
    STALLED_SECONDS,
    AllowedHosts,
    ConsoleApplication,
)
from actors.console.observer import MAX_WATCHERS
from actors.lifecycle.model_index import ModelIndex
from protocol.api_keys import ApiKeys, Keyring, hash_of
from simulation.world import World
from tests.actors.grpc_rig import model
from tests.console.asgi_rig import Exchange, get
from tests.console.test_observer import OPTIONS

Scenario = Callable[[World, ConsoleApplication], Awaitable[None]]


def serving(
    scenario: Scenario,
    *,
    expected_errors: Sequence[str] = (),
    keyring: Keyring | None = None,
    **options: Any,
) -> None:
    chosen = replace(OPTIONS, **options)

    async def run(world: World) -> None:
        observation = wire_observation(chosen, world.core, server_version="1.2", keyring=keyring)
        assert observation.console is not None
        async with trio.open_nursery() as nursery:
            await nursery.start(observation.run)
            await scenario(world, observation.console.application)
            nursery.cancel_scope.cancel()

    World({"m": model(seconds=0.25)}, options=chosen, expected_errors=expected_errors).run(run)


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8003", True),
        ("127.0.0.1:8003", True),
        ("[::1]:8003", True),
        ("[::1]", True),
        ("10.0.0.7:9", True),
        ("console.example:8003", True),
        ("evil.example:8003", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:8003", False),
        ("", False),
        (":8003", False),
        ("console.example@evil.example", False),
    ],
)
def test_only_names_that_nobody_else_can_point_here_are_allowed(
    host: str, is_allowed: bool
) -> None:
    assert AllowedHosts(["127.0.0.1", "Console.Example", ""]).allows(host) is is_allowed


def test_another_name_is_misdirected_whatever_it_asks_for() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        for headers in ((("host", "evil.example"),), (), (("host", "localhost"),) * 2):
            for path in ("/", "/api/snapshot", "/api/events", "/metrics", "/nowhere"):
                answer = await get(application, path, headers=headers)
                assert answer.status == 421
                assert answer.json() == {
                    "error": "this name is not one of the admin port's; --admin-host adds one"
                }

    serving(scenario)


PATHS = ("/", "/console.js", "/api/snapshot", "/api/events", "/metrics", "/openapi.json", "/nope")
HOST = ("host", "localhost")


def test_cve_2026_24206_the_console_is_no_way_around_a_restriction() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        for path in PATHS:
            answer = await get(application, path, headers=(HOST,))
            assert answer.status == 403
            text = "This API is restricted, expecting header 'X-Key'"
            assert answer.json() == {"error": text}
        known = await get(application, "/api/snapshot", headers=(HOST, ("x-key", "v")))
        assert known.status == 200

    for category in ("statistics", "model-repository"):
        serving(scenario, http_restricted_api=(f"{category}:X-Key=v",))


def test_the_console_asks_for_a_key_and_takes_it_as_a_password() -> None:
    keys = "".join(
        f"[keys.{name}]\nsha256 = '{hash_of(name)}'\ncategories = {categories}\n"
        for name, categories in (
            ("some", "['statistics']"), ("both", "['statistics', 'model-repository']"),
        )
    )  # fmt: skip

    async def scenario(_: World, application: ConsoleApplication) -> None:
        for path in PATHS:
            answer = await get(application, path, headers=(HOST,))
            assert answer.status == 401
            assert answer.told["www-authenticate"].startswith("Basic ")
        for key, status in (("none", 401), ("some", 403), ("both", 200)):
            password = base64.b64encode(f"me:{key}".encode()).decode()
            for given in (f"Basic {password}", f"Bearer {key}"):
                headers = (HOST, ("authorization", given))
                answer = await get(application, "/api/snapshot", headers=headers)
                assert answer.status == status

    serving(scenario, keyring=Keyring(ApiKeys.parse(keys)))


def test_every_answer_forbids_what_the_console_does_not_need() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        for path in ("/", "/console.js", "/api/snapshot", "/metrics", "/openapi.json", "/nowhere"):
            answer = await get(application, path)
            assert answer.told["content-security-policy"].startswith("default-src 'none'; ")
            assert "unsafe" not in answer.told["content-security-policy"]
            assert answer.told["x-content-type-options"] == "nosniff"
            assert answer.told["x-frame-options"] == "DENY"
            assert answer.told["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in answer.told
            assert int(answer.told["content-length"]) == len(answer.body)

    serving(scenario)


def test_pages_and_their_types() -> None:
    async def scenario(world: World, application: ConsoleApplication) -> None:
        await world.infer("m")
        types = {
            "/": "text/html; charset=utf-8",
            "/console.css": "text/css; charset=utf-8",
            "/console.js": "text/javascript; charset=utf-8",
            "/charts.js": "text/javascript; charset=utf-8",
            "/api-docs": "text/html; charset=utf-8",
            "/api-docs.js": "text/javascript; charset=utf-8",
            "/api/snapshot": "application/json",
            "/openapi.json": "application/json",
            "/metrics": "text/plain; charset=utf-8",
            "/metrics/": "text/plain; charset=utf-8",
        }
        for path, kind in types.items():
            answer = await get(application, path)
            assert (answer.status, answer.told["content-type"]) == (200, kind), path
            head = await get(application, path, method="HEAD")
            assert (head.status, head.body) == (200, b"")
        answer = await get(application, "/metrics")
        assert b'nv_inference_request_success{model="m",version="1"} 1\n' in answer.body
        assert b'troupe_phase_duration_seconds_count{model="m",phase="request"' in answer.body
        assert b"_summary_us" not in answer.body
        assert (await get(application, "/openapi.json")).json()["openapi"] == "3.1.0"
        for page in ("/", "/api-docs"):
            text = (await get(application, page)).body.decode()
            assert "http://" not in text
            assert "https://" not in text
            assert " style=" not in text
            assert " on" not in text.replace(" on ", "")

    serving(scenario)


def test_nothing_else_is_served_and_nothing_can_be_changed() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        for path in ("/console.html", "/../observer.py", "/static/console.js", "/api", "/v2"):
            answer = await get(application, path)
            assert (answer.status, answer.json()) == (404, {"error": "Not Found"})
        for path in ("/", "/api/snapshot", "/api/events", "/metrics"):
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                answer = await get(application, path, method=method)
                assert (answer.status, answer.told["allow"]) == (405, "GET, HEAD")
                assert answer.json() == {"error": "Method Not Allowed"}

    serving(scenario)


def test_without_metrics_there_is_no_page_of_them() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        assert (await get(application, "/metrics")).status == 404
        assert (await get(application, "/api/snapshot")).status == 200

    serving(scenario, allow_metrics=False)


def test_events_follow_a_snapshot_until_the_browser_leaves() -> None:
    async def scenario(world: World, application: ConsoleApplication) -> None:
        watching = Exchange(application, "/api/events")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watching.run)
            kind, told = await watching.event()
            assert kind == "snapshot"
            assert [row["name"] for row in told["models"]] == ["m"]
            assert watching.told["content-type"] == "text/event-stream; charset=utf-8"
            await world.infer("m")
            kind, changed = await watching.event()
            assert (kind, changed["tick"]) == ("tick", told["tick"] + 1)
            assert changed["models"][0]["point"]["requests"] == 1
            watching.gone.set()
        assert application._watchers == 0
        head = await get(application, "/api/events", method="HEAD")
        assert (head.status, head.body) == (200, b"")

    serving(scenario)


def test_only_so_many_may_watch() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        watching = [Exchange(application, "/api/events") for _ in range(MAX_WATCHERS)]
        async with trio.open_nursery() as nursery:
            for each in watching:
                nursery.start_soon(each.run)
                await each.event()
            refused = await get(application, "/api/events")
            assert refused.status == 503
            assert refused.json() == {"error": "16 watchers are as many as there may be"}
            assert (await get(application, "/api/snapshot")).status == 200
            watching[0].gone.set()
            await trio.testing.wait_all_tasks_blocked()
            again = Exchange(application, "/api/events")
            nursery.start_soon(again.run)
            await again.event()
            nursery.cancel_scope.cancel()

    serving(scenario)


def test_a_watcher_that_takes_nothing_loses_its_place() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        began_at = trio.current_time()
        await Exchange(application, "/api/events", stalls=True).run()
        assert trio.current_time() - began_at == STALLED_SECONDS
        assert application._watchers == 0

    serving(scenario)


def test_once_the_observer_has_left_nobody_answers_for_it() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        application._observer._mailbox.close()
        answer = await get(application, "/api/snapshot")
        assert answer.status == 503
        assert answer.json() == {"error": "nobody looks at the server any more"}

    serving(scenario)


def test_a_stream_ends_when_nothing_comes_any_more(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World, application: ConsoleApplication) -> None:
        watching = Exchange(application, "/api/events")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watching.run)
            await watching.event()
            began_at = trio.current_time()
            world.core.index.value = None  # type: ignore[assignment]  # makes the observer fail
            await trio.sleep(1.5)
            world.core.index.value = ModelIndex()
        assert trio.current_time() - began_at == SILENCE_SECONDS
        assert (await get(application, "/api/snapshot")).status == 503
        assert "the console ended by an error" in caplog.text

    serving(scenario, expected_errors=["the console ended by an error"])


def test_the_life_of_the_application_is_answered() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        asked = iter(["lifespan.startup", "lifespan.shutdown"])
        said: list[str] = []

        async def receive() -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            return {"type": next(asked)}

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            said.append(message["type"])

        await application({"type": "lifespan"}, receive, send)
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    serving(scenario)


def test_json_can_carry_what_is_no_text() -> None:
    async def scenario(world: World, application: ConsoleApplication) -> None:
        index = world.core.index
        entry = index.value.models["m"]
        odd = replace(entry, reason="\ud800\udcff</script>", versions={})
        index.value = replace(index.value, models={**index.value.models, "odd": odd})
        await trio.sleep(1.0)
        answer = await get(application, "/api/snapshot")
        (reason,) = [row["reason"] for row in answer.json()["models"] if row["version"] == 0]
        assert reason == "??</script>"

    serving(scenario)


def test_a_websocket_is_declined() -> None:
    async def scenario(_: World, application: ConsoleApplication) -> None:
        said: list[str] = []

        async def receive() -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            said.append(message["type"])

        for each in (application, Pages({})):
            await each({"type": "websocket", "path": "/"}, receive, send)
        assert said == ["websocket.close"] * 2

    serving(scenario)


@pytest.mark.parametrize(
    ("address", "is_safe"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.7", False), ("console.example", False),
    ],
)  # fmt: skip
def test_an_admin_port_for_everybody_is_warned_of(
    address: str, is_safe: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(_: World, __: ConsoleApplication) -> None:
        await trio.lowlevel.checkpoint()

    serving(scenario, admin_address=address)
    told = f"the admin port asks for no key: whoever reaches {address}:0 sees" in caplog.text
    assert told is not is_safe
