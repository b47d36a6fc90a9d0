#!/bin/sh
# Install what the tests compare with, if it is missing: each is a Debian package.
set -eu
missing=""
for pair in ip:iproute2 tc:iproute2 tshark:tshark ethtool:ethtool sysctl:procps openssl:openssl; do
	command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] || exec "$(dirname "$0")/apt-install.sh" $missing
