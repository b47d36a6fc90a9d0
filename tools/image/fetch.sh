#!/bin/sh
# Fetch what an image is made of, for any machine: Debian's packages and PyPI's wheels, unrun.
# usage: fetch.sh PYTHON ARCHITECTURE REQUIREMENTS DIRECTORY [LOCK]
#
# ARCHITECTURE is Debian's word: amd64, arm64. REQUIREMENTS is a file for pip. DIRECTORY gets debs/,
# wheels/ and lock: the SHA-256 of each. With LOCK, exactly those files are fetched or nothing.
set -eu
python=$1 architecture=$2 requirements=$3 target=$4 lock=${5:-}
here="$(cd "$(dirname "$0")" && pwd)"
suite=bookworm
mirror="${IMAGE_MIRROR:-http://deb.debian.org/debian}"
security="${IMAGE_SECURITY_MIRROR:-http://deb.debian.org/debian-security}"
case $architecture in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*)
	echo "image: no such architecture: $architecture (amd64 or arm64)" >&2
	exit 2
	;;
esac

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/debs" "$work/wheels" "$work/lists/partial" "$work/cache/archives/partial"
: >"$work/status"
key="signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
{
	echo "deb [$key] $mirror $suite main"
	echo "deb [$key] $mirror $suite-updates main"
	echo "deb [$key] $security $suite-security main"
} >"$work/sources.list"

# apt with nothing of this machine's own but its keys.
fetch() {
	apt-get --quiet --quiet \
		-o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" \
		-o "APT::Sandbox::User=" -o "APT::Get::List-Cleanup=false" \
		-o "Acquire::Languages=none" -o "Acquire::Check-Valid-Until=${IMAGE_VALID_UNTIL:-true}" \
		-o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=-" \
		-o "Dir::State=$work" -o "Dir::State::Lists=$work/lists" -o "Dir::State::Status=$work/status" \
		-o "Dir::Cache=$work/cache" "$@"
}

if [ -n "$lock" ]; then
	# The name of a package's file holds its version: NAME_VERSION_ARCHITECTURE.deb
	packages="$(sed -n 's,^.*  debs/\([^_]*\)_\([^_]*\)_.*$,\1=\2,p' "$lock" | sed 's/%3a/:/')"
	sed -n 's,^\([0-9a-f]*\)  wheels/\([^-]*\)-\([^-]*\)-.*$,\2==\3 --hash=sha256:\1,p' \
		"$lock" >"$work/requirements"
	requirements="$work/requirements"
else
	packages="$(sed '/^#/d' "$here/packages")"
fi
fetch update
(cd "$work/debs" && fetch download $packages)

# Any glibc that Debian's is not older than.
set --
for minor in $(seq 5 36); do
	set -- "$@" --platform "manylinux_2_${minor}_$machine"
done
"$python" -m pip download --quiet --only-binary :all: --implementation cp --python-version 3.11 \
	--abi cp311 --abi abi3 --abi none "$@" --platform "manylinux2014_$machine" --platform any \
	${lock:+--no-deps --require-hashes} \
	--dest "$work/wheels" --constraint "$here/../../constraints.txt" --requirement "$requirements"

(cd "$work" && find debs wheels -type f | LC_ALL=C sort | xargs sha256sum) >"$work/lock"
if [ -n "$lock" ] && ! diff "$lock" "$work/lock" >&2; then
	echo "image: these are not the files of $lock" >&2
	exit 1
fi
rm -rf "$target"
mkdir -p "$(dirname "$target")"
mkdir "$work/inputs"
mv "$work/debs" "$work/wheels" "$work/lock" "$work/inputs"
mv "$work/inputs" "$target"
