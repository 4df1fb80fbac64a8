"""The agents, each at the hook that its own tests use: nothing is sent anywhere.

A recorder patches redis-py as the agent does in production, runs some work inside a transaction of that agent, and says
what the agent would have sent about the calls of Redis in it: all of it, but for what is another one each time.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

Work = Callable[[], None]
Found = list[dict[str, Any]]


class Recorder(ABC):
    """An agent.

    Attributes:
        package: its name in the index.
        where: the names by which it reports host, port, and what was asked.
    """

    package = ""
    where: tuple[str, str, str]

    @abstractmethod
    def install(self) -> None:
        """Patch redis-py.

        Raises:
            ImportError: the agent is not installed.
        """

    @abstractmethod
    def record(self, work: Work) -> Found:
        """What the agent reports of this work."""


class Sentry(Recorder):
    package = "sentry-sdk"
    where = ("server.address", "server.port", "description")

    def install(self) -> None:
        import sentry_sdk
        from sentry_sdk.integrations.redis import RedisIntegration
        from sentry_sdk.transport import Transport

        self.events: list[Any] = []
        events = self.events

        class Kept(Transport):  # type: ignore[misc]
            def capture_envelope(self, envelope: Any) -> None:
                events.append(envelope)

        sentry_sdk.init(
            dsn="http://key@127.0.0.1:9/1", transport=Kept, traces_sample_rate=1.0, default_integrations=False,
            auto_enabling_integrations=False, integrations=[RedisIntegration()],
        )  # fmt: skip

    def record(self, work: Work) -> Found:
        import sentry_sdk

        self.events.clear()
        with sentry_sdk.start_transaction(name="work"):
            work()
        (envelope,) = self.events
        return [
            {
                "op": span["op"],
                "description": span["description"],
                "tags": span.get("tags"),
                **{name: value for name, value in span["data"].items() if not name.startswith("thread.")},
            }
            for span in envelope.get_transaction_event()["spans"]
        ]


class OpenTelemetry(Recorder):
    package = "opentelemetry-instrumentation-redis"
    where = ("net.peer.name", "net.peer.port", "db.statement")

    def install(self) -> None:
        from opentelemetry.instrumentation.redis import RedisInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        RedisInstrumentor().instrument(tracer_provider=provider)

    def record(self, work: Work) -> Found:
        self.exporter.clear()
        work()
        return [
            {"name": span.name, "status": span.status.status_code.name, **dict(span.attributes or {})}
            for span in self.exporter.get_finished_spans()
        ]


class Datadog(Recorder):
    package = "ddtrace"
    where = ("out.host", "network.destination.port", "redis.raw_command")

    def install(self) -> None:
        os.environ |= {
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false", "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
        }  # fmt: skip
        from ddtrace import patch
        from ddtrace.trace import TraceFilter, tracer

        self.spans: list[Any] = []
        spans = self.spans

        class Kept(TraceFilter):  # type: ignore[misc]
            def process_trace(self, trace: Any) -> None:
                spans.extend(trace)

        tracer.configure(trace_processors=[Kept()])
        patch(redis=True)

    def record(self, work: Work) -> Found:
        from ddtrace.trace import tracer

        self.spans.clear()
        with tracer.trace("work"):
            work()
        return [
            {
                "name": span.name,
                "resource": span.resource,
                "service": span.service,
                "type": span.span_type,
                "error": span.error,
                **{
                    name: value
                    for name, value in (*span.get_tags().items(), *span.get_metrics().items())
                    if not name.startswith(("_dd.", "error.stack"))
                },
            }
            for span in self.spans
            if span.name != "work"
        ]


class NewRelic(Recorder):
    package = "newrelic"
    where = ("host", "port_path_or_id", "operation")

    def install(self) -> None:
        os.environ |= {"NEW_RELIC_DEVELOPER_MODE": "true", "NEW_RELIC_LICENSE_KEY": "0" * 40, "NEW_RELIC_LOG": "stderr"}
        import newrelic.agent
        from newrelic.common.object_wrapper import wrap_function_wrapper

        newrelic.agent.initialize()
        self.application = newrelic.agent.register_application(timeout=20)
        self.transactions: list[Any] = []

        def record_transaction(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            self.transactions.extend(args)
            return wrapped(*args, **kwargs)

        wrap_function_wrapper("newrelic.core.stats_engine", "StatsEngine.record_transaction", record_transaction)

    def record(self, work: Work) -> Found:
        import newrelic.agent

        self.transactions.clear()
        with newrelic.agent.BackgroundTask(self.application, name="work"):
            work()
        (transaction,) = self.transactions
        found: Found = []

        def walk(node: Any) -> None:
            if type(node).__name__ == "DatastoreNode":
                names = ("product", "target", "operation", "instance_hostname", "port_path_or_id", "database_name")
                values = {name: getattr(node, name) for name in names}
                found.append({**values, "host": node.host})
            for child in node.children:
                walk(child)

        walk(transaction.root)
        return found


class Elastic(Recorder):
    package = "elastic-apm"
    where = ("address", "port", "name")

    def install(self) -> None:
        import elasticapm
        from elasticapm.transport.base import Transport

        self.events: list[Any] = []
        events = self.events

        class Kept(Transport):  # type: ignore[misc]
            def start_thread(self, pid: int | None = None) -> None:
                pass

            def stop_thread(self) -> None:
                pass

            def queue(self, event_type: str, data: Any, flush: bool = False) -> None:
                events.append((event_type, data))

        Elastic.kept = Kept
        self.client = elasticapm.Client(
            transport_class="tests.agents.recorders.kept_transport", metrics_interval="0ms", cloud_provider="none",
            central_config=False, service_name="work", span_compression_enabled=False, api_request_time="1s",
        )  # fmt: skip
        elasticapm.instrument()

    kept: Any = None

    def record(self, work: Work) -> Found:
        self.events.clear()
        self.client.begin_transaction("work")
        work()
        self.client.end_transaction("work")
        return [
            {
                **{name: data[name] for name in ("name", "type", "subtype", "action", "outcome")},
                **data["context"].get("destination", {}),
                "context": data["context"],
            }
            for kind, data in self.events
            if kind == "span"
        ]


def kept_transport(*args: Any, **kwargs: Any) -> Any:
    """Elastic's agent wants its transport by name."""
    return Elastic.kept(*args, **kwargs)


RECORDERS: dict[str, type[Recorder]] = {
    "sentry": Sentry, "opentelemetry": OpenTelemetry, "ddtrace": Datadog, "newrelic": NewRelic, "elastic": Elastic,
}  # fmt: skip
