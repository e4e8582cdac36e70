"""The text that Prometheus reads, made of samples. The only module that imports prometheus_client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from model.telemetry.distribution import Distribution
from model.telemetry.metrics import METRICS, Metric, MetricKind, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def render(samples: Iterable[Sample]) -> bytes:
    """Render samples in the text format of Prometheus, with the metrics of the process, and all families even if empty."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Samples(samples))
    return generate_latest(registry)


class _Samples(Collector):
    """Gives samples to prometheus_client as families, in the order of the declaration."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[_Family]:
        families = {metric.name: _family(metric) for metric in METRICS}
        for metric, value, labels in self._samples:
            family = families[metric.name]
            if isinstance(value, Distribution):
                assert isinstance(family, HistogramMetricFamily)
                family.add_metric(labels, value.buckets(), value.sum)
            else:
                assert not isinstance(family, HistogramMetricFamily)
                family.add_metric(labels, value)
        yield from families.values()

    def describe(self) -> Iterator[_Family]:
        return iter(())


def _family(metric: Metric) -> _Family:
    kinds: dict[MetricKind, Callable[..., _Family]] = {
        MetricKind.COUNTER: CounterMetricFamily,
        MetricKind.GAUGE: GaugeMetricFamily,
        MetricKind.HISTOGRAM: HistogramMetricFamily,
    }
    return kinds[metric.kind](metric.name, metric.meaning, labels=metric.labels)
