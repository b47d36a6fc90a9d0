// What the builder's sources are compiled with. Its own go.mod is not used: "go mod tidy" wants the
// modules of everybody's tests too, and not every registry has them all.
module flow-exporter/otelcol

go 1.26.0

require (
	github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter v0.164.1
	github.com/open-telemetry/opentelemetry-collector-contrib/extension/bearertokenauthextension v0.164.1
	go.opentelemetry.io/collector/confmap/provider/fileprovider v1.70.0
	go.opentelemetry.io/collector/exporter/debugexporter v0.164.0
	go.opentelemetry.io/collector/internal/statusutil v0.164.0
	go.opentelemetry.io/collector/otelcol v0.164.0
	go.opentelemetry.io/collector/receiver/otlpreceiver v0.164.0
)

// How an HTTP code and a gRPC status become one another in an error answer: the one module of the
// receiver's that not every registry has.
replace go.opentelemetry.io/collector/internal/statusutil => ../statusutil
