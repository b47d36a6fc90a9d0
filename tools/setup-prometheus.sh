#!/bin/sh
# Unpack the Prometheus that the tests scrape with: Debian's package, not installed, so that no
# service is made of it. It needs nothing but libc; what it would show in a browser is left out.
set -eu
cache="${TEST_PROMETHEUS_CACHE:-$HOME/.cache/flow-exporter/prometheus}"
[ -x "$cache/prometheus" ] && [ -x "$cache/promtool" ] && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
	echo "not Debian: the tests against Prometheus are skipped; put prometheus and promtool into $cache" >&2
	exit 0
fi
mkdir -p "$cache"
work="$(mktemp -d "$cache/unpack.XXXXXX")"
trap 'rm -rf "$work"' EXIT
cd "$work"
echo "setup: fetching prometheus"
apt-get download --quiet --quiet prometheus >/dev/null 2>&1 || {
	# The package lists may be missing or old.
	apt-get update --quiet --quiet
	apt-get download --quiet --quiet prometheus
}
dpkg-deb --extract prometheus_*.deb unpacked
mv unpacked/usr/bin/prometheus unpacked/usr/bin/promtool "$cache"
