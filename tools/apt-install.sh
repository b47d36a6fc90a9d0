#!/bin/sh
# Install Debian packages, or say plainly what has to be installed by hand.
# usage: apt-install.sh PACKAGE...
set -eu
if ! command -v apt-get >/dev/null; then
	echo "setup: this is not Debian: install the equivalents of: $*" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "setup: run this as root: apt-get install $*" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "setup: installing $*"
apt-get install --yes --quiet --quiet --no-install-recommends "$@" >/dev/null 2>&1 && exit 0
# The package lists may be missing or old.
apt-get update --quiet --quiet
apt-get install --yes --quiet --quiet --no-install-recommends "$@" >/dev/null
