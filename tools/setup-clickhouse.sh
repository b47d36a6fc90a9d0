#!/bin/sh
# Fetch chDB, ClickHouse's engine as a library: 530 MB, so once per machine, outside the checkout, and
# without pandas, which it would only need for data frames.
set -eu
here="$(dirname "$0")"
version=26.9.0
cache="${TEST_CHDB_CACHE:-$HOME/.cache/flow-exporter/chdb-$version}"
[ -d "$cache/chdb" ] && exit 0
mkdir -p "$(dirname "$cache")"
# One at a time on a machine, and half a library is never seen.
exec 9>"$cache.lock"
flock 9
[ -d "$cache/chdb" ] && exit 0
work="$(mktemp -d "$cache.XXXXXX")"
trap 'rm -rf "$work"' EXIT
echo "setup: fetching chdb-core" >&2
"$here/../.venv/bin/pip" install --quiet --no-deps --target "$work" "chdb-core==$version" || {
	echo "no chdb-core $version: the tests against ClickHouse are skipped" >&2
	exit 0
}
mv "$work" "$cache"
