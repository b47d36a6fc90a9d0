#!/bin/sh
# Install real IPFIX collectors, if they are missing: Debian packages that would start daemons.
set -eu
missing=""
for pair in nfcapd:nfdump nfacctd:pmacct; do
	PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
# Debian asks this file whether a package may start its service. A machine's own answer stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] && [ "$(id -u)" = 0 ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
"$(dirname "$0")/apt-install.sh" $missing
