#!/bin/sh
# Install what the tests compare with and send to, if it is missing.
set -eu
here="$(dirname "$0")"
missing=""
for pair in ip:iproute2 tc:iproute2 tshark:tshark ethtool:ethtool sysctl:procps openssl:openssl \
	tmux:tmux jq:jq curl:curl zsh:zsh fish:fish man:man-db groff:groff-base mandoc:mandoc; do
	command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
# The other loader: BCC's Python module is no command, and compiles with some kernel's headers.
[ -e /usr/lib/python3/dist-packages/bcc/libbcc.py ] || missing="$missing python3-bpfcc"
set -- /usr/src/linux-headers-*/include/generated/autoconf.h
[ -e "$1" ] || missing="$missing linux-headers-$(dpkg --print-architecture)"
# A browser without a screen, and letters for it.
command -v chromium-headless-shell >/dev/null || missing="$missing chromium-headless-shell"
[ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ] || missing="$missing fonts-dejavu-core"
# A DNS server. The package dnsmasq would start it as a service; this is the program alone.
[ -x /usr/sbin/dnsmasq ] || missing="$missing dnsmasq-base"
# Kafka's broker, from Maven Central, needs a Java runtime.
command -v java >/dev/null || missing="$missing openjdk-17-jre-headless"
[ -z "$missing" ] || "$here/apt-install.sh" $missing
"$here/setup-ipfix.sh"
"$here/setup-prometheus.sh"
"$here/setup-otelcol.sh"
"$here/setup-flp.sh"
"$here/setup-kubernetes.sh"
"$here/setup-clickhouse.sh"
"$here/setup-helm.sh"
"$here/setup-image.sh"
# Without a network the tests say what is missing.
python3 "$here/fetch-kafka.py" || true
