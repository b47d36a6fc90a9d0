#!/bin/sh
# What the tests of the image need: what builds it and runs it, the larger of its layers, and
# containerd's seccomp profile, from the Go module proxy. All of it once per machine.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
missing=""
for pair in umoci:umoci eu-strip:elfutils runc:runc skopeo:skopeo \
	systemd-nspawn:systemd-container systemd-analyze:systemd; do
	PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] || "$here/apt-install.sh" $missing
if command -v dpkg-deb >/dev/null; then
	# Without a network the tests say what is missing.
	"$here/image.sh" "${PYTHON:-$here/../.venv/bin/python}" --base ||
		echo "no image: the tests of it are skipped" >&2
fi
cache="${TEST_SECCOMP_CACHE:-$HOME/.cache/flow-exporter/seccomp}"
recipe="$(cd "$here/seccomp" && cat go.mod go.sum main.go | sha256sum | cut -c1-12)"
program="$cache/seccomp-$recipe"
if [ ! -x "$program" ]; then
	sources="$here/seccomp"
	what="containerd's seccomp profile"
	without="the tests of the image are skipped"
	jobs=""
	. "$here/build-once.sh"
	nice -n 15 go build -ldflags "-s -w" -o seccomp . >"$work/build.log" 2>&1 || {
		cat "$work/build.log" >&2
		exit 1
	}
	mv seccomp "$program"
fi
ln -sfn "$program" "$cache/seccomp"
