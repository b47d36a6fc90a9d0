# Sourced by what builds programs of Go modules, once per machine, outside the checkout.
#
# Needs: here, this directory; cache; program, which is there once all is built; sources, a directory;
# what and without, in words; jobs, empty for one for each CPU. Ends the script if the program is
# there, or no compiler can be had. Else it goes on in a copy of the sources, and nobody else builds.
if ! command -v go >/dev/null; then
	go=$(python3 "$here/fetch-go.py") || {
		echo "no Go compiler: $without" >&2
		exit 0
	}
	PATH="${go%/go}:$PATH"
fi
mkdir -p "$cache"
# One build at a time on a machine, and half a binary is never seen.
exec 9>"$cache/lock"
flock 9
[ -x "$program" ] && exit 0
work="$(mktemp -d "$cache/build.XXXXXX")"
trap 'rm -rf "$work"' EXIT
cp -R "$sources/." "$work"
cd "$work"
echo "building $what, once: takes minutes" >&2
export CGO_ENABLED=0 GOFLAGS="-p=${jobs:-$(nproc)} -buildvcs=false -trimpath"
