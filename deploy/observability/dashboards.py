"""The dashboards of Grafana: `make dashboards` writes them to grafana/dashboards/, and a test compares.

Expressions name the series of docs/metrics.md and of Envoy, with the labels that prometheus/prometheus.yml
sets. Whoever wants another panel changes this file, not the JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, text, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

FOLDER: Final = Path(__file__).parent / "grafana" / "dashboards"
PROMETHEUS: Final = models.DataSourceRef(type_val="prometheus", uid="exitplane-prometheus")
"""The source of data of grafana/provisioning/datasources/exitplane.yaml."""
TAG: Final = "exitplane"
_REPLICA: Final = 'instance=~"$instance"'
_CLIENTS: Final = 'component="gateway", envoy_http_conn_manager_prefix="clients", fleet=~"$fleet", proxy=~"$proxy"'
_TO_EXITS: Final = 'component="gateway", envoy_cluster_name=~"pool/.*", fleet=~"$fleet", proxy=~"$proxy"'
_TO_TARGETS: Final = 'component="exit", envoy_cluster_name="targets", fleet=~"$fleet", pool=~"$pool"'
_EXITS: Final = 'fleet=~"$fleet", pool=~"$pool"'


@dataclass(frozen=True, slots=True)
class Graph:
    """A panel with lines over time. `series` has the expression of each legend; a legend may name labels: `{{pool}}`."""

    title: str
    unit: str
    series: Mapping[str, str]
    description: str = ""
    width: int = 8
    is_stacked: bool = False
    log_scale: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A panel with one number now, which is red from `alarm_at` on, if given."""

    title: str
    unit: str
    expression: str
    description: str = ""
    alarm_at: float | None = None
    width: int = 4


@dataclass(frozen=True, slots=True)
class Note:
    """A panel with Markdown."""

    title: str
    content: str
    width: int = 24


@dataclass(frozen=True, slots=True)
class Section:
    """A row with its panels, from left to right."""

    title: str
    panels: Sequence[Graph | Figure | Note]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard. `variables` has the query of each variable's values."""

    name: str
    title: str
    description: str
    variables: Mapping[str, str]
    sections: Sequence[Section]


def quantile(share: float, histogram: str, labels: str, *by: str) -> str:
    """Return the expression of a quantile of a histogram, by labels."""
    kept = ", ".join((*by, "le"))
    return f"histogram_quantile({share:g}, sum by ({kept}) (rate({histogram}_bucket{{{labels}}}[$__rate_interval])))"


def rate(counter: str, labels: str, *by: str) -> str:
    """Return the expression of a counter's rate in a second, summed by labels."""
    kept = f"by ({', '.join(by)}) " if by else ""
    return f"sum {kept}(rate({counter}{{{labels}}}[$__rate_interval]))"


FLEET_VARIABLE: Final = {"fleet": "label_values(fleet_pool_state:exitplane_exits:max, fleet)"}
POOL_VARIABLE: Final = {"pool": 'label_values(fleet_pool_state:exitplane_exits:max{fleet=~"$fleet"}, pool)'}
GATEWAY_VARIABLE: Final = {"proxy": 'label_values(up{component="gateway", fleet=~"$fleet"}, proxy)'}
INSTANCE_VARIABLE: Final = {"instance": "label_values(exitplane_build_info, instance)"}

FLEET: Final = Board(
    "exitplane-fleet",
    "Exitplane / Fleet",
    "Are the countries there, and do the proxies hear the control plane?",
    FLEET_VARIABLE,
    [
        Section(
            "Now",
            [
                Figure(
                    "Exits that serve",
                    "none",
                    'sum(fleet_pool:exitplane_exits_serving:sum{fleet=~"$fleet"})',
                    "Healthy and degraded ones.",
                ),
                Figure(
                    "Exits that should",
                    "none",
                    'sum(fleet_pool:exitplane_exits_wanted:sum{fleet=~"$fleet"})',
                    "All that no operator took out.",
                ),
                Figure(
                    "Pools without an exit",
                    "none",
                    'sum((fleet_pool:exitplane_exits_serving:sum{fleet=~"$fleet"} == bool 0)'
                    ' and (fleet_pool:exitplane_exits_wanted:sum{fleet=~"$fleet"} > 0)) or vector(0)',
                    "Their requests get 503.",
                    alarm_at=1,
                ),
                Figure(
                    "Leaking exits",
                    "none",
                    'sum(fleet_pool_state:exitplane_exits:max{fleet=~"$fleet", state="leaking"})',
                    alarm_at=1,
                ),
                Figure(
                    "Silent gateways",
                    "none",
                    'sum(max by (fleet) (exitplane_gateways{fleet=~"$fleet", state="silent"}))',
                    "Without a heartbeat within EXITPLANE_SILENCE_TIMEOUT_S.",
                    alarm_at=1,
                ),
                Figure(
                    "Alerts",
                    "none",
                    'count(ALERTS{alertname=~"Exitplane.*", alertstate="firing"}) or vector(0)',
                    alarm_at=1,
                ),
            ],
        ),
        Section(
            "Exits and gateways",
            [
                Graph(
                    "Exits by state",
                    "none",
                    {"{{state}}": 'sum by (state) (fleet_pool_state:exitplane_exits:max{fleet=~"$fleet"})'},
                    is_stacked=True,
                    width=12,
                ),
                Graph(
                    "Exits that serve, by pool",
                    "none",
                    {"{{fleet}} {{pool}}": 'fleet_pool:exitplane_exits_serving:sum{fleet=~"$fleet"}'},
                    width=12,
                ),
                Graph(
                    "Gateways",
                    "none",
                    {"{{fleet}} {{state}}": 'max by (fleet, state) (exitplane_gateways{fleet=~"$fleet"})'},
                ),
                Graph(
                    "Proxies with an xDS stream",
                    "none",
                    {"{{role}}": "sum by (role) (exitplane_xds_proxies)"},
                    "Of all fleets.",
                ),
                Graph(
                    "Targets that Prometheus reaches",
                    "none",
                    {"{{component}}": "component:up:count"},
                    "Of those that the control plane lists, of all fleets.",
                ),
            ],
        ),
        Section(
            "Changes",
            [
                Graph(
                    "Revisions",
                    "none",
                    {
                        "committed": "max(exitplane_revision)",
                        "published, by the last replica": "min(exitplane_xds_revision)",
                    },
                ),
                Graph(
                    "Rollouts that not all proxies have",
                    "none",
                    {"groups": "max(exitplane_xds_rollouts_in_progress)"},
                ),
                Graph(
                    "Alerts",
                    "none",
                    {
                        "{{alertname}}": 'count by (alertname) (ALERTS{alertname=~"Exitplane.*", alertstate="firing"})',
                    },
                    "docs/runbook.md has each of them.",
                ),
            ],
        ),
    ],
)

EXITS: Final = Board(
    "exitplane-exits",
    "Exitplane / Exits",
    "States, observations and traffic of exits.",
    FLEET_VARIABLE | POOL_VARIABLE,
    [
        Section(
            "States",
            [
                Graph(
                    "Exits by state",
                    "none",
                    {"{{state}}": f"sum by (state) (fleet_pool_state:exitplane_exits:max{{{_EXITS}}})"},
                    is_stacked=True,
                ),
                Graph(
                    "Changes of states, in 5 minutes",
                    "none",
                    {"{{state}}": "sum by (state) (increase(exitplane_exit_transitions_total[5m]))"},
                    "By the new state, of all fleets. Exits that flap show here.",
                ),
                Graph(
                    "Last observations",
                    "none",
                    {"{{result}}": "max by (result) (exitplane_exit_observations)"},
                    "Exits of all fleets, by what was observed of their traffic.",
                ),
            ],
        ),
        Section(
            "Pools",
            [
                Graph(
                    "Open requests and tunnels",
                    "none",
                    {"{{fleet}} {{pool}}": f"max by (fleet, pool) (exitplane_exit_open_requests{{{_EXITS}}})"},
                    "As reported with heartbeats.",
                    width=12,
                ),
                Graph(
                    "Traffic in this month",
                    "bytes",
                    {"{{fleet}} {{pool}}": f"max by (fleet, pool) (exitplane_exit_month_bytes{{{_EXITS}}})"},
                    "Both directions to targets, in a calendar month (UTC).",
                    width=12,
                ),
            ],
        ),
        Section(
            "Envoys of exits, the 20 with most",
            [
                Graph(
                    "From targets",
                    "Bps",
                    {
                        "{{proxy}}": f"topk(20, {rate('envoy_cluster_upstream_cx_rx_bytes_total', _TO_TARGETS, 'proxy')})"
                    },
                ),
                Graph(
                    "To targets",
                    "Bps",
                    {
                        "{{proxy}}": f"topk(20, {rate('envoy_cluster_upstream_cx_tx_bytes_total', _TO_TARGETS, 'proxy')})"
                    },
                ),
                Graph(
                    "Connections to targets",
                    "none",
                    {"{{proxy}}": f"topk(20, sum by (proxy) (envoy_cluster_upstream_cx_active{{{_TO_TARGETS}}}))"},
                ),
                Graph(
                    "Connections that failed",
                    "cps",
                    {
                        "{{proxy}}": f"topk(20, {rate('envoy_cluster_upstream_cx_connect_fail', _TO_TARGETS, 'proxy')})",
                    },
                    "To targets, by a refusal or a time-out.",
                ),
                Graph(
                    "Time to connect, 95 %",
                    "ms",
                    {
                        "{{proxy}}": "topk(20, "
                        + quantile(0.95, "envoy_cluster_upstream_cx_connect_ms", _TO_TARGETS, "proxy")
                        + ")",
                    },
                ),
                Graph(
                    "Memory",
                    "bytes",
                    {
                        "{{proxy}}": "topk(20, max by (proxy) "
                        f'(envoy_server_memory_physical_size{{component="exit", {_EXITS}}}))',
                    },
                ),
            ],
        ),
    ],
)

TRAFFIC: Final = Board(
    "exitplane-traffic",
    "Exitplane / Traffic and users",
    "What clients ask of the gateways, and what they get.",
    FLEET_VARIABLE | GATEWAY_VARIABLE,
    [
        Section(
            "Clients of gateways",
            [
                Graph(
                    "Requests by status",
                    "reqps",
                    {
                        "{{envoy_response_code_class}}xx": rate(
                            "envoy_http_downstream_rq_xx", _CLIENTS, "envoy_response_code_class"
                        )
                    },
                    "A tunnel counts as one request. 4xx: no or wrong credentials, a forbidden target; 5xx: no exit, or the target's own.",
                    is_stacked=True,
                ),
                Graph(
                    "Share of requests that fail (5xx)",
                    "percentunit",
                    {
                        "{{proxy}}": rate(
                            "envoy_http_downstream_rq_xx", f'{_CLIENTS}, envoy_response_code_class="5"', "proxy"
                        )
                        + " / "
                        + rate("envoy_http_downstream_rq_xx", _CLIENTS, "proxy")
                    },
                ),
                Graph(
                    "Open requests and tunnels",
                    "none",
                    {"{{proxy}}": f"sum by (proxy) (envoy_http_downstream_rq_active{{{_CLIENTS}}})"},
                ),
                Graph(
                    "From clients",
                    "Bps",
                    {"{{proxy}}": rate("envoy_http_downstream_cx_rx_bytes_total", _CLIENTS, "proxy")},
                ),
                Graph(
                    "To clients",
                    "Bps",
                    {"{{proxy}}": rate("envoy_http_downstream_cx_tx_bytes_total", _CLIENTS, "proxy")},
                ),
                Graph(
                    "Connections of clients",
                    "none",
                    {"{{proxy}}": f"sum by (proxy) (envoy_http_downstream_cx_active{{{_CLIENTS}}})"},
                ),
                Graph(
                    "Duration of requests and tunnels",
                    "ms",
                    {
                        f"{share:.0%}": quantile(share, "envoy_http_downstream_rq_time", _CLIENTS)
                        for share in (0.5, 0.95, 0.99)
                    },
                    "Tunnels last as long as clients keep them.",
                    log_scale=True,
                ),
                Graph(
                    "Requests that clients or Envoy reset",
                    "reqps",
                    {
                        "by the client": rate("envoy_http_downstream_rq_rx_reset", _CLIENTS),
                        "by Envoy": rate("envoy_http_downstream_rq_tx_reset", _CLIENTS),
                    },
                ),
                Graph(
                    "Connections beyond the limit",
                    "cps",
                    {
                        "{{proxy}}": rate(
                            "envoy_listener_downstream_global_cx_overflow",
                            'component="gateway", fleet=~"$fleet", proxy=~"$proxy"',
                            "proxy",
                        )
                    },
                    "Closed at once, because a gateway has --max-downstream-connections.",
                ),
            ],
        ),
        Section(
            "Between gateways and exits",
            [
                Graph(
                    "Requests to exits",
                    "reqps",
                    {"{{proxy}}": rate("envoy_cluster_upstream_rq_total", _TO_EXITS, "proxy")},
                ),
                Graph(
                    "Connections to exits that failed",
                    "cps",
                    {"{{proxy}}": rate("envoy_cluster_upstream_cx_connect_fail", _TO_EXITS, "proxy")},
                ),
                Graph(
                    "Retries",
                    "reqps",
                    {"{{proxy}}": rate("envoy_cluster_upstream_rq_retry", _TO_EXITS, "proxy")},
                    "By another exit of the pool.",
                ),
                Graph(
                    "Healthy exits, as gateways see them",
                    "none",
                    {"{{proxy}}": f"sum by (proxy) (envoy_cluster_membership_healthy{{{_TO_EXITS}}})"},
                    "Of all pools. Gateways that differ show here.",
                ),
                Graph(
                    "Memory of gateways' Envoys",
                    "bytes",
                    {
                        "{{proxy}}": "max by (proxy) (envoy_server_memory_physical_size"
                        '{component="gateway", fleet=~"$fleet", proxy=~"$proxy"})'
                    },
                ),
                Graph(
                    "Traffic in this month, by pool",
                    "bytes",
                    {
                        "{{fleet}} {{pool}}": 'topk(20, max by (fleet, pool) (exitplane_exit_month_bytes{fleet=~"$fleet"}))'
                    },
                    "The 20 pools with most.",
                ),
            ],
        ),
        Section(
            "Users",
            [
                Note(
                    "Users have no series",
                    "A user, a target or an address is no label, so that neither the number of users nor what they visit is in "
                    "Prometheus. `exitplane get users` and `exitplane explain URL --user USER` show single ones.",
                )
            ],
        ),
    ],
)

CONTROL_PLANE: Final = Board(
    "exitplane-control-plane",
    "Exitplane / Control plane",
    "The replicas: how fast changes reach proxies, and what replicas need for that.",
    INSTANCE_VARIABLE,
    [
        Section(
            "xDS",
            [
                Graph(
                    "Commit to ACK, 99 %",
                    "s",
                    {"{{type}}": "type:exitplane_xds_convergence_seconds:p99"},
                    "Of all replicas. A change that waits for its rollout counts from its commit.",
                    log_scale=True,
                ),
                Graph(
                    "Publication and queue, 99 %",
                    "s",
                    {
                        "publication": quantile(0.99, "exitplane_xds_publication_seconds", _REPLICA),
                        "queue": quantile(0.99, "exitplane_xds_queue_seconds", _REPLICA),
                    },
                    log_scale=True,
                ),
                Graph(
                    "Streams",
                    "none",
                    {
                        "{{instance}}": f"sum by (instance) (exitplane_xds_streams{{{_REPLICA}}})",
                        "{{instance}}, an update waits": f"sum by (instance) (exitplane_xds_pending_streams{{{_REPLICA}}})",
                    },
                ),
                Graph("Pushes", "ops", {"{{type}}": rate("exitplane_xds_pushes_total", _REPLICA, "type")}),
                Graph(
                    "Answers",
                    "ops",
                    {
                        "ACK": rate("exitplane_xds_acks_total", _REPLICA),
                        "NACK {{type}}": rate("exitplane_xds_nacks_total", _REPLICA, "type"),
                        "old nonce": rate("exitplane_xds_expired_nonces_total", _REPLICA),
                    },
                ),
                Graph(
                    "Bytes of pushes",
                    "Bps",
                    {"{{type}}": rate("exitplane_xds_response_bytes_sum", _REPLICA, "type")},
                ),
                Graph(
                    "Streams admitted and refused",
                    "ops",
                    {
                        "admitted": rate("exitplane_xds_streams_admitted_total", _REPLICA),
                        "refused: {{reason}}": rate("exitplane_xds_streams_refused_total", _REPLICA, "reason"),
                    },
                ),
                Graph(
                    "Publications",
                    "ops",
                    {
                        "revisions": rate("exitplane_xds_published_revisions_total", _REPLICA),
                        "publications": rate("exitplane_xds_publications_total", _REPLICA),
                        "updates": rate("exitplane_xds_updates_total", _REPLICA),
                        "updates that were merged": rate("exitplane_xds_updates_coalesced_total", _REPLICA),
                        "change-sets released": rate("exitplane_xds_change_sets_released_total", _REPLICA),
                    },
                ),
                Graph(
                    "Size of snapshots",
                    "bytes",
                    {"{{type}}": f"max by (type) (exitplane_xds_snapshot_bytes{{{_REPLICA}}})"},
                ),
                Graph(
                    "Resources",
                    "none",
                    {"{{type}}": f"max by (type) (exitplane_xds_snapshot_resources{{{_REPLICA}}})"},
                    log_scale=True,
                ),
            ],
        ),
        Section(
            "API",
            [
                Graph(
                    "Requests", "reqps", {"{{status}}": rate("exitplane_api_request_seconds_count", _REPLICA, "status")}
                ),
                Graph(
                    "Time until the response, 99 %",
                    "s",
                    {
                        "{{method}} {{route}}": "topk(10, "
                        + quantile(0.99, "exitplane_api_request_seconds", _REPLICA, "method", "route")
                        + ")"
                    },
                    "The ten slowest routes.",
                    log_scale=True,
                ),
                Graph(
                    "Heartbeats",
                    "ops",
                    {
                        "stored": rate("exitplane_heartbeats_stored_total", _REPLICA),
                        "waiting (number)": f"sum(exitplane_heartbeats_pending{{{_REPLICA}}})",
                    },
                ),
                Graph(
                    "Time to store heartbeats, 99 %",
                    "s",
                    {"a batch": quantile(0.99, "exitplane_heartbeat_flush_seconds", _REPLICA)},
                ),
                Graph(
                    "Connections",
                    "none",
                    {
                        "{{listener}} {{state}}": f"sum by (listener, state) (exitplane_connections{{{_REPLICA}}})",
                        "open requests": f"sum(exitplane_api_open_requests{{{_REPLICA}}})",
                    },
                ),
                Graph(
                    "Connections of strangers that were closed",
                    "cps",
                    {
                        "{{listener}} {{reason}}": rate(
                            "exitplane_connections_closed_total", _REPLICA, "listener", "reason"
                        )
                    },
                ),
            ],
        ),
        Section(
            "PostgreSQL and keeper",
            [
                Graph(
                    "Reached",
                    "none",
                    {
                        "{{instance}} PostgreSQL": f"exitplane_database_up{{{_REPLICA}}}",
                        "{{instance}} NOTIFY, {{listener}}": f"exitplane_listen_connected{{{_REPLICA}}}",
                        "{{instance}} leads the keeper": f"exitplane_keeper_leader{{{_REPLICA}}}",
                    },
                    "1: yes.",
                ),
                Graph(
                    "Connections to PostgreSQL",
                    "none",
                    {
                        "{{instance}} {{state}}": f"exitplane_database_pool_connections{{{_REPLICA}}}",
                        "{{instance}} at most": f"exitplane_database_pool_size{{{_REPLICA}}}",
                    },
                ),
                Graph(
                    "Age of the last",
                    "s",
                    {
                        "heartbeats stored": "max(exitplane_ingest_watermark_age_seconds)",
                        "round of the keeper": "time() - max(exitplane_keeper_last_round_timestamp_seconds)",
                    },
                ),
                Graph(
                    "Rounds of the keeper, 99 %",
                    "s",
                    {"duration": quantile(0.99, "exitplane_keeper_round_seconds", _REPLICA)},
                ),
                Graph(
                    "Certificates end in",
                    "s",
                    {"{{kind}}": "min by (kind) (exitplane_certificate_expiry_timestamp_seconds) - time()"},
                    log_scale=True,
                ),
                Graph("Spans", "ops", {"{{result}}": rate("exitplane_traces_spans_total", _REPLICA, "result")}),
            ],
        ),
        Section(
            "Processes",
            [
                Graph(
                    "Processors",
                    "none",
                    {
                        "{{instance}}": "sum by (instance) (rate(process_cpu_seconds_total"
                        f'{{component="replica", {_REPLICA}}}[$__rate_interval]))'
                    },
                    "1: the event loop has one whole processor, and cannot take more.",
                ),
                Graph(
                    "Memory",
                    "bytes",
                    {"{{instance}}": f'process_resident_memory_bytes{{component="replica", {_REPLICA}}}'},
                ),
                Graph(
                    "Versions",
                    "none",
                    {
                        "{{version}}, Python {{python}}": f"count by (version, python) (exitplane_build_info{{{_REPLICA}}})"
                    },
                    "Replicas of each version.",
                ),
            ],
        ),
    ],
)

BOARDS: Final = (FLEET, EXITS, TRAFFIC, CONTROL_PLANE)


def build(board: Board) -> models.Dashboard:
    """Build the dashboard in Grafana's classic schema."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.name)
        .description(board.description)
        .tags([TAG])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Exitplane")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
        )
    )
    for name, query in board.variables.items():
        made.with_variable(
            dashboard.QueryVariable(name)
            .datasource(PROMETHEUS)
            .query(query)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
        )
    ids = count(1)
    for section in board.sections:
        made.with_row(dashboard.Row(section.title).id(next(ids)))
        for panel in section.panels:
            made.with_panel(_panel(panel).id(next(ids)))
    return made.build()


def render(board: Board) -> str:
    """Return the text of the dashboard's file."""
    return json.dumps(build(board), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _panel(panel: Graph | Figure | Note) -> timeseries.Panel | stat.Panel | text.Panel:
    match panel:
        case Graph():
            return _graph(panel)
        case Figure():
            return _figure(panel)
        case Note():
            return text.Panel().title(panel.title).content(panel.content).span(panel.width).height(3)


def _graph(graph: Graph) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(graph.title)
        .description(graph.description)
        .datasource(PROMETHEUS)
        .unit(graph.unit)
        .min(0)
        .span(graph.width)
        .height(8)
        .fill_opacity(40 if graph.is_stacked else 0)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .calcs([])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if graph.is_stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    if graph.log_scale:
        panel.scale_distribution(
            common.ScaleDistributionConfig()
            .type(common_models.ScaleDistribution.SYMLOG)
            .log(10)
            .linear_threshold(0.001)
        )
    for number, (legend, expression) in enumerate(graph.series.items()):
        panel.with_target(_query(number, expression).legend_format(legend).range())
    return panel


def _figure(figure: Figure) -> stat.Panel:
    steps = [models.Threshold(value=None, color="green")]
    if figure.alarm_at is not None:
        steps.append(models.Threshold(value=figure.alarm_at, color="red"))
    return (
        stat.Panel()
        .title(figure.title)
        .description(figure.description)
        .datasource(PROMETHEUS)
        .unit(figure.unit)
        .span(figure.width)
        .height(4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_query(0, figure.expression).instant())
    )


def _query(number: int, expression: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(chr(ord("A") + number)).datasource(PROMETHEUS).expr(expression)


def main() -> int:
    """Write the files, or with `--check` only name those that differ. Gives the exit status."""
    wanted = {FOLDER / f"{board.name}.json": render(board) for board in BOARDS}
    found = {path: path.read_text() for path in FOLDER.glob("*.json")}
    if sys.argv[1:] == ["--check"]:
        differing = [path.name for path in wanted | found if wanted.get(path) != found.get(path)]
        print("\n".join(differing))
        return 1 if differing else 0
    for path in found.keys() - wanted.keys():
        path.unlink()
    for path, content in wanted.items():
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
