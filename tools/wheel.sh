#!/bin/sh
# Build the wheel, the same octets from the same sources wherever and whenever it is built.
# usage: wheel.sh PYTHON DIRECTORY    (PYTHON has setuptools; SOURCE_DATE_EPOCH is its files' time)
set -eu
python=$1
mkdir -p "$2"
target="$(cd "$2" && pwd)"
case $python in */*) python="$(cd "$(dirname "$python")" && pwd)/${python##*/}" ;; esac
cd "$(dirname "$0")/.."
# The commit's time; without git, the first that a zip archive can hold.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}"
export SOURCE_DATE_EPOCH
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# A copy: no permission of a checkout and nothing of an earlier build gets into it.
mkdir "$work/sources"
tar -c --exclude=__pycache__ pyproject.toml README.md CHANGELOG.md LICENSE \
	exporter tools/wheel_tag.py tools/systemd |
	tar -x --no-same-permissions -C "$work/sources"
chmod -R u=rwX,go=rX "$work/sources"
cd "$work/sources"
umask 022
"$python" -c 'import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])' \
	"$work" >"$work/log" 2>&1 || {
	cat "$work/log" >&2
	exit 1
}
mv "$work"/*.whl "$target"
