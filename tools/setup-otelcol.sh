#!/bin/sh
# Build the OpenTelemetry Collector that the tests send to, once per machine: its own builder, and
# modules from the Go module proxy. Takes minutes; the binary stays outside the checkout.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
cache="${TEST_OTELCOL_CACHE:-$HOME/.cache/flow-exporter/otelcol}"
version="$(sed -n 's/^  version: //p' "$here/otelcol/builder.yaml")"
recipe="$(cd "$here/otelcol" && cat builder.yaml go.mod statusutil/* | sha256sum | cut -c1-12)"
target="$cache/otelcol-$recipe"
[ -x "$target" ] && { ln -sfn "$target" "$cache/otelcol"; exit 0; }
program="$target"
sources="$here/otelcol"
what="the OpenTelemetry Collector $version"
without="the tests against an OpenTelemetry Collector are skipped"
jobs="${TEST_OTELCOL_JOBS:-}"
. "$here/build-once.sh"

build() {
	nice -n 15 go run "go.opentelemetry.io/collector/cmd/builder@v$version" \
		--config builder.yaml --skip-compilation --skip-get-modules &&
		mv go.mod out && cd out && nice -n 15 go build -mod=mod -ldflags "-s -w" -o otelcol
}

build >"$work/build.log" 2>&1 || {
	cat "$work/build.log" >&2
	exit 1
}
mv "$work/out/otelcol" "$target"
ln -sfn "$target" "$cache/otelcol"
