"""The simulator's own controls, under /_sim: break a provider, and watch."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Literal

from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.faults import NATURES, Fault
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.wire import answer as whole_answer
from monitor.simulator.wire import json_answer

if TYPE_CHECKING:
    from monitor.simulator.server import FleetServer

Forced = Fault | Literal["healthy"]
HEALTHY: Literal["healthy"] = "healthy"

_ROUTES = {
    "GET /": "this list",
    "GET /_sim/log": "requests seen: counts per endpoint and fault, and the last ones",
    "GET /_sim/faults": "every fault by name, what it sends and the outcome that it deserves",
    "GET /_sim/monitor.yaml": "a configuration for this fleet",
    "GET /_sim/env": "the keys that it refers to, as shell exports",
    "POST /_sim/fault": '{"endpoint": id, provider or "*", "fault": name, "healthy" or null}',
    "POST /_sim/speed": '{"factor": 2.0, "endpoint": id, provider or "*"}: divide every wait',
}


def answer(server: FleetServer, request: Request) -> bytes:
    """The whole response. BadRequest for what is not there or makes no sense."""
    route = f"{request.method} {request.path}"
    if route not in _ROUTES:
        raise BadRequest(404, f"No such control: {route}. There are: {', '.join(_ROUTES)}.")
    if request.method == "POST":
        if "origin" in request.headers:
            raise BadRequest(403, "Not from a web page: a request with an Origin header changes nothing here.")
        return json_answer(200, _change(server, request))
    if request.path == "/_sim/monitor.yaml":
        return whole_answer(
            200, fleet_yaml(server.fleet, server.base_url, kinds_interval="2m").encode(), "application/yaml"
        )
    if request.path == "/_sim/env":
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in fleet_env(server.fleet).items())
        return whole_answer(200, "".join(lines).encode(), "text/plain; charset=utf-8")
    if request.path == "/_sim/log":
        return json_answer(200, server.log())
    if request.path == "/_sim/faults":
        faults = {fault: {"wire": nature.wire, "outcome": nature.outcome} for fault, nature in NATURES.items()}
        return json_answer(200, faults)
    providers = {
        slug: {"dialect": provider.dialect, "base_url": server.base_url(slug)}
        for slug, provider in server.fleet.providers.items()
    }
    return json_answer(200, {"simulated": True, "routes": _ROUTES, "providers": providers})


def _change(server: FleetServer, request: Request) -> dict[str, object]:
    given = object_of(request.body)
    target = given.get("endpoint", "*" if request.path == "/_sim/speed" else None)
    if not isinstance(target, str):
        raise BadRequest(400, 'Name an endpoint: write {"endpoint": "openai/gpt-4o-mini@northwind", ...}.')
    try:
        if request.path == "/_sim/speed":
            factor = given.get("factor")
            if not isinstance(factor, int | float) or isinstance(factor, bool):
                raise BadRequest(400, 'Give a factor: write {"factor": 2.0}.')
            server.set_speed(target, factor)
            return {"endpoint": target, "factor": factor}
        fault = given.get("fault")
        if fault is not None and not isinstance(fault, str):
            raise BadRequest(400, 'A fault is a name or null: write {"endpoint": "*", "fault": "stall"}.')
        server.set_forced(target, None if fault is None else forced_of(fault))
    except KeyError:
        raise BadRequest(404, f"The fleet has no endpoint or provider {target!r}.") from None
    except ValueError as error:
        raise BadRequest(400, str(error)) from None
    return {"endpoint": target, "fault": fault}


def forced_of(name: str) -> Forced:
    """The fault of that name, or "healthy"; BadRequest with all the names if there is none."""
    if name == HEALTHY:
        return HEALTHY
    try:
        return Fault(name)
    except ValueError:
        raise BadRequest(400, f"No fault is called {name!r}: write healthy, {', '.join(Fault)}.") from None
