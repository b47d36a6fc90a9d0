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
if ! command -v go >/dev/null; then
	go=$(python3 "$here/fetch-go.py") || {
		echo "no Go compiler: the tests against a Kubernetes API server are skipped" >&2
		exit 0
	}
	PATH="${go%/go}:$PATH"
fi
mkdir -p "$cache"
# One build at a time on a machine, and half a binary is never seen.
exec 9>"$cache/lock"
flock 9
[ -x "$target/kube-apiserver" ] && exit 0
work="$(mktemp -d "$cache/build.XXXXXX")"
trap 'rm -rf "$work"' EXIT
cp -R "$here/kubernetes/." "$work"
cd "$work"
mkdir out
echo "building the API server of Kubernetes $version, once: takes minutes" >&2
export CGO_ENABLED=0 GOFLAGS="-p=${TEST_KUBERNETES_JOBS:-$(nproc)} -buildvcs=false -trimpath"
nice -n 15 go build -ldflags "-s -w" -o out ./... >"$work/build.log" 2>&1 || {
	cat "$work/build.log" >&2
	exit 1
}
mv "$work/out" "$target"
ln -sfn "$target" "$cache/bin"
