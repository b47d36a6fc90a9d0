#!/bin/sh
# Build the API server of Kubernetes, and etcd behind it, once per machine: their own sources, from
# the Go module proxy. Takes minutes; the binaries stay outside the checkout.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
cache="${TEST_KUBERNETES_CACHE:-$HOME/.cache/flow-exporter/kubernetes}"
version="$(sed -n 's/^\tk8s.io\/kubernetes //p' "$here/kubernetes/go.mod")"
recipe="$(cd "$here/kubernetes" && cat go.mod go.sum ./*/main.go | sha256sum | cut -c1-12)"
target="$cache/$version-$recipe"
[ -x "$target/kube-apiserver" ] && { ln -sfn "$target" "$cache/bin"; exit 0; }
program="$target/kube-apiserver"
sources="$here/kubernetes"
what="the API server of Kubernetes $version"
without="the tests against a Kubernetes API server are skipped"
jobs="${TEST_KUBERNETES_JOBS:-}"
. "$here/build-once.sh"
mkdir out
nice -n 15 go build -ldflags "-s -w" -o out ./... >"$work/build.log" 2>&1 || {
	cat "$work/build.log" >&2
	exit 1
}
mv "$work/out" "$target"
ln -sfn "$target" "$cache/bin"
