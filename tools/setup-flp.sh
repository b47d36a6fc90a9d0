#!/bin/sh
# Build NetObserv's flowlogs-pipeline, which the tests send to, once per machine: its own sources,
# from the Go module proxy. Takes minutes; the binary stays outside the checkout.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
cache="${TEST_FLP_CACHE:-$HOME/.cache/flow-exporter/flp}"
module="github.com/netobserv/flowlogs-pipeline"
version="$(sed -n "s|^\t$module ||p" "$here/flp/go.mod")"
recipe="$(cd "$here/flp" && cat go.mod go.sum | sha256sum | cut -c1-12)"
target="$cache/flp-$version-$recipe"
[ -x "$target" ] && { ln -sfn "$target" "$cache/flowlogs-pipeline"; exit 0; }
program="$target"
sources="$here/flp"
what="flowlogs-pipeline $version"
without="the tests against NetObserv's flowlogs-pipeline are skipped"
jobs="${TEST_FLP_JOBS:-}"
. "$here/build-once.sh"
nice -n 15 go build -ldflags "-s -w" -o out "$module/cmd/flowlogs-pipeline" \
	>"$work/build.log" 2>&1 || {
	cat "$work/build.log" >&2
	exit 1
}
mv "$work/out" "$target"
ln -sfn "$target" "$cache/flowlogs-pipeline"
