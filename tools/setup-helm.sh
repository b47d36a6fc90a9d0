#!/bin/sh
# Build helm and kubeconform, which the tests of the chart use, once per machine, and get the Prometheus
# operator's definitions of its resources: all from the Go module proxy.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
cache="${TEST_HELM_CACHE:-$HOME/.cache/flow-exporter/helm}"
recipe="$(cd "$here/helm" && cat go.mod go.sum "$here/setup-helm.sh" | sha256sum | cut -c1-12)"
target="$cache/$recipe"
[ -x "$target/helm" ] && { ln -sfn "$target" "$cache/bin"; exit 0; }
program="$target/helm"
sources="$here/helm"
what="helm and kubeconform"
without="the tests of the Helm chart are skipped"
jobs="${TEST_HELM_JOBS:-}"
. "$here/build-once.sh"

operator=github.com/prometheus-operator/prometheus-operator

build() {
	mkdir -p out/crd &&
		nice -n 15 go build -ldflags "-s -w" -o out tool &&
		go mod download "$operator" &&
		cp "$(go list -m -f '{{.Dir}}' "$operator")"/example/prometheus-operator-crd/*_podmonitors.yaml \
			"$(go list -m -f '{{.Dir}}' "$operator")"/example/prometheus-operator-crd/*_prometheusrules.yaml \
			"$(go list -m -f '{{.Dir}}' "$operator")"/example/prometheus-operator-crd/*_servicemonitors.yaml out/crd &&
		chmod -R u+w out
}

build >"$work/build.log" 2>&1 || {
	cat "$work/build.log" >&2
	exit 1
}
mv "$work/out" "$target"
ln -sfn "$target" "$cache/bin"
