#!/bin/sh
# Build an OCI image: Debian's packages, PyPI's wheels and the agent's own, nothing of them run.
# usage: image.sh PYTHON DIRECTORY|--base [ARCHITECTURE]
#
# PYTHON has what the extra "image" names. DIRECTORY gets image-ARCHITECTURE/, an OCI layout, its
# bill of materials and a lock: the digest of everything that went in. IMAGE_LOCK builds from what a
# lock names, or fails. IMAGE_EXTRAS adds extras of pyproject.toml, with commas. Inputs and the layer
# that they make are kept in IMAGE_CACHE, and made anew when a dependency has changed; --base makes
# only those. SOURCE_DATE_EPOCH is the time of the agent's own files, by default the commit's.
set -eu
python=$1 target=$2
here="$(cd "$(dirname "$0")" && pwd)"
architecture="${3:-$(dpkg --print-architecture)}"
cache="${IMAGE_CACHE:-$HOME/.cache/flow-exporter/image}"
lock="${IMAGE_LOCK:-}"
extras="${IMAGE_EXTRAS-kafka-codecs}"
cd "$here/.."
mkdir -p "$cache"
missing=""
command -v umoci >/dev/null || missing="$missing umoci"
command -v eu-strip >/dev/null || missing="$missing elfutils"
[ -z "$missing" ] || "$here/apt-install.sh" $missing
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}"
export SOURCE_DATE_EPOCH
work="$(mktemp -d "$cache/work.XXXXXX")"
trap 'rm -rf "$work"' EXIT

"$python" "$here/image/requirements.py" pyproject.toml "$extras" >"$work/requirements"
# What is fetched is decided by this, and what the layer is by that and by how it is made.
recipe="$(cat "$work/requirements" constraints.txt "$here/image/packages" "$here/image/fetch.sh" \
	${lock:+"$lock"} | sha256sum | cut -c1-12)"
how="$(cat "$here"/image/assemble.py "$here"/image/layer.py "$here"/image/unpack.py | sha256sum | cut -c1-12)"

# One build at a time on a machine, and half a layer is never seen.
exec 9>"$cache/lock"
flock 9
inputs="$cache/inputs-$architecture-$recipe"
if [ ! -e "$inputs/lock" ]; then
	echo "image: fetching packages for $architecture" >&2
	"$here/image/fetch.sh" "$python" "$architecture" "$work/requirements" "$inputs" "$lock"
fi
ln -sfn "$inputs" "$cache/inputs-$architecture"
base="$cache/base-$architecture-$recipe-$how"
if [ ! -e "$base/index.json" ]; then
	mkdir "$work/base"
	"$python" "$here/image/assemble.py" base "$inputs" "$work/base" "$work/base.tar"
	umoci init --layout "$work/layout"
	umoci new --image "$work/layout:base"
	umoci raw add-layer --image "$work/layout:base" --history.created 1970-01-01T00:00:00Z \
		--history.created_by "Debian and Python packages" "$work/base.tar"
	rm -rf "$base"
	mv "$work/layout" "$base"
fi

[ "$target" != --base ] || exit 0

mkdir -p "$target"
"$here/wheel.sh" "$python" "$work/wheel"
mkdir "$work/agent"
bill="$work/image-$architecture.cdx.json"
"$python" "$here/image/assemble.py" agent "$inputs" "$work/agent" \
	"$work/agent.tar" "$work"/wheel/*.whl "$bill"
cp -R "$base" "$work/image"
image="$work/image:base"
created="$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)"
version="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' exporter/__init__.py)"
umoci raw add-layer --image "$image" --tag "$version" --history.created "$created" \
	--history.created_by "flow-exporter $version" "$work/agent.tar"
umoci config --image "$work/image:$version" --no-history --created "$created" \
	--os linux --architecture "$architecture" --config.user 65532:65532 \
	--config.entrypoint /usr/bin/flow-exporter --config.cmd run --config.workingdir / \
	--config.env PATH=/usr/bin --config.env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
	--config.label org.opencontainers.image.title=flow-exporter \
	--config.label "org.opencontainers.image.version=$version" \
	--config.label org.opencontainers.image.licenses=Apache-2.0
umoci rm --image "$image"
umoci gc --layout "$work/image"
chmod -R u=rwX,go=rX "$work/image"
rm -rf "$target/image-$architecture"
mv "$work/image" "$target/image-$architecture"
mv "$bill" "$target"
cp "$inputs/lock" "$target/image-$architecture.lock"
sed -n 's/.*"digest":"\(sha256:[0-9a-f]*\)".*/\1/p' "$target/image-$architecture/index.json"
