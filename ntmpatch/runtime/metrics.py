"""Metrics of the servers of a process, over HTTP on the hub, as Prometheus reads them.

Nothing is counted for them: a scrape reads the counters that the servers have anyhow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.runtime.serve import Servers

MAX_CONNECTIONS = 16


class MetricsService:
    """Answers ``GET /metrics`` at ``bind``; OSError if it cannot be bound."""

    def __init__(self, bind: Endpoint, servers: Servers) -> None:
        registry = CollectorRegistry()
        registry.register(_Collector(servers))
        self._server = WSGIServer(
            (bind.host, bind.port),
            make_wsgi_app(registry),
            log=None,
            error_log=None,
            spawn=Pool(MAX_CONNECTIONS),
        )
        self._server.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.stop(timeout=0)


class _Collector:
    """Reads the servers at every scrape."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def describe(self) -> list[Any]:
        """Nothing ahead of a scrape."""
        return []

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """All families as they are now."""
        drops = CounterMetricFamily(
            "ntmpatch_drops", "Discarded packets and messages", labels=["server", "reason"]
        )
        requests = CounterMetricFamily(
            "ntmpatch_requests",
            "Requests by message and outcome",
            labels=["server", "message", "outcome"],
        )
        peers = GaugeMetricFamily("ntmpatch_peers", "Keys in the tunnel's table", labels=["server"])
        load = GaugeMetricFamily("ntmpatch_load", "0 idle to 1 full", labels=["server"])
        draining = GaugeMetricFamily("ntmpatch_draining", "1 from SIGTERM on", labels=["server"])
        for role, station in self._servers.stations.items():
            party = station.party
            for reason, count in self._servers.drops[role].by_name().items():
                drops.add_metric([role, reason], count)
            for (message, outcome), count in list(party.answers.items()):
                requests.add_metric([role, message, outcome], count)
            peers.add_metric([role], len(station.station.tunnel.peers))
            draining.add_metric([role], party.draining)
            if role in ("ns", "rs"):
                load.add_metric([role], party.load)
        yield from (drops, requests, peers, load, draining)
        yield from self._of_roles()

    def _of_roles(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        stations = self._servers.stations
        if "dc" in stations:
            nodes = GaugeMetricFamily("ntmpatch_nodes", "Nodes that the DC has located")
            nodes.add_metric([], len(stations["dc"].party.locations))
            answers = CounterMetricFamily("ntmpatch_dns_answers", "DNS queries answered")
            answers.add_metric([], sum(dns.answers for dns in self._servers.dns))
            yield from (nodes, answers)
        if "rs" in stations:
            relay = stations["rs"].party
            table = relay.table
            sessions = GaugeMetricFamily("ntmpatch_relay_sessions", "Sessions of the relay")
            sessions.add_metric([], len(table))
            relayed = CounterMetricFamily("ntmpatch_relay_bytes", "Bytes that the relay passed on")
            relayed.add_metric([], table.forwarded_bytes)
            seen = CounterMetricFamily("ntmpatch_stun_answers", "STUN Binding requests answered")
            seen.add_metric([], relay.reflexive.answers)
            yield from (sessions, relayed, seen)
