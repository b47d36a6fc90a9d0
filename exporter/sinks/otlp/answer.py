"""
What a collector's answers mean.

Source: https://opentelemetry.io/docs/specs/otlp: failures, throttling, partial success.
"""

from __future__ import annotations

import email.utils
import time
from typing import Any

from exporter.errors import SinkError

#: Retry-After is believed up to here, in seconds.
_LONGEST = 300.0
#: Characters of a collector's own words that are passed on.
_WORDS = 300

#: gRPC statuses after which the same may be sent again; RESOURCE_EXHAUSTED only if the collector
#: says when.
RETRYABLE = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)

#: HTTP codes -> reason; the others are ``http_4xx`` and the like.
_REASONS = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    413: "too_large",
    429: "throttled",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}
_RETRYABLE_CODES = frozenset({429, 502, 503, 504})

#: What a signal consists of.
_RECORDS = {"logs": "log records", "spans": "spans", "metrics": "data points"}

#: In the words of Go's gRPC and HTTP servers.
_TOO_LARGE = ("larger than max", "too large")

#: Where a gRPC status carries its details.
DETAILS_KEY = "grpc-status-details-bin"


def words(text: str) -> str:
    """A collector's words on one line, cut, and without what a terminal would obey."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line[:_WORDS])


def is_too_large(text: str) -> bool:
    """Whether a refusal is about the message's size."""
    return any(phrase in text for phrase in _TOO_LARGE)


def check_partial_success(response: bytes, signal: str, rows: int, records: int) -> None:
    """
    Look whether everything was taken.

    Args:
        response: An ``Export...ServiceResponse``.
        signal: ``logs``, ``spans`` or ``metrics``.
        rows: Flows in the message.
        records: Log records, spans or data points in it.

    Raises:
        SinkError: ``rejected``, with the number of flows; a data point is worth its share of them.
    """
    from google.protobuf.message import DecodeError

    answer: Any
    try:
        if signal == "logs":
            from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

            answer = logs_service_pb2.ExportLogsServiceResponse.FromString(response)
            rejected = answer.partial_success.rejected_log_records
        elif signal == "spans":
            from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

            answer = trace_service_pb2.ExportTraceServiceResponse.FromString(response)
            rejected = answer.partial_success.rejected_spans
        else:
            from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

            answer = metrics_service_pb2.ExportMetricsServiceResponse.FromString(response)
            rejected = answer.partial_success.rejected_data_points
    except DecodeError:
        # It said 200 or OK: it has what it was sent.
        return
    if rejected <= 0:
        return
    lost = min(-(-rows * rejected // max(records, 1)), rows)
    said = words(answer.partial_success.error_message)
    detail = f"{rejected} of {records} {_RECORDS[signal]}: "
    raise SinkError("rejected", detail + (said or "no reason given"), retryable=False, rows=lost)


def from_http(code: int, body: bytes, content_type: str) -> SinkError:
    """The error that a code other than 2xx means."""
    said = _status_message(body) if "protobuf" in content_type else body.decode(errors="replace")
    reason = _REASONS.get(code, f"http_{code // 100}xx" if 100 <= code < 600 else "http")
    if code == 400 and is_too_large(said):
        reason = "too_large"
    return SinkError(reason, words(f"HTTP {code} {said}"), retryable=code in _RETRYABLE_CODES)


def retry_after(header: str) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 if it is neither."""
    if header.isascii() and header.isdigit():
        return min(float(header), _LONGEST)
    try:
        when = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return min(max(when.timestamp() - time.time(), 0.0), _LONGEST)


def retry_info(details: bytes) -> float | None:
    """Seconds that a gRPC status (its details) asks to wait; ``None`` if it does not ask."""
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    try:
        for detail in status_pb2.Status.FromString(details).details:
            if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                info = error_details_pb2.RetryInfo.FromString(detail.value)
                delay: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                return min(max(delay, 0.0), _LONGEST)
    except DecodeError:
        pass
    return None


def _status_message(body: bytes) -> str:
    from google.protobuf.message import DecodeError
    from google.rpc import status_pb2

    try:
        return str(status_pb2.Status.FromString(body).message)
    except DecodeError:
        return ""
