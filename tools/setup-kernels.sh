#!/bin/sh
# Install what other kernels are booted with, if it is missing: each is a Debian package.
set -eu
missing=""
# Their initial file system holds busybox and no libraries.
for pair in qemu-system-x86_64:qemu-system-x86 depmod:kmod; do
	PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
busybox=$(command -v busybox || true)
if [ -z "$busybox" ] || ldd "$busybox" >/dev/null 2>&1; then
	missing="$missing busybox-static"
fi
[ -z "$missing" ] || exec "$(dirname "$0")/apt-install.sh" $missing
