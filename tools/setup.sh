#!/bin/sh
# Install what building and running needs, if it is missing, and make the virtual environment.
# usage: setup.sh PYTHON VENV
set -eu
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	echo "setup: Python 3.11 or newer is needed, this is $("$python" --version 2>&1)" >&2
	exit 1
}

missing=""
command -v clang >/dev/null || missing="$missing clang"
[ -e /usr/include/bpf/bpf_helpers.h ] || missing="$missing libbpf-dev"
[ -e /usr/include/linux/bpf.h ] || missing="$missing linux-libc-dev"
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"

if [ -n "$missing" ]; then
	tools=$(dirname "$0")
	"$tools/apt-install.sh" $missing
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
