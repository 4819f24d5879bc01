#!/bin/bash
# pg_upgrade of a server with the extension at work, in a Debian of its own that has both versions, which is kept.
# The last line is "N passed, N failed".  Needs root, or sudo, and the right to mount.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. test/child.sh
. test/root.sh
trap end_child EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

old=15 new=17

if [ "${1:-}" = --inside ]; then
	PG_MAJOR=$old test/setup.sh && PG_MAJOR=$old test/setup.sh build asserts && rm -rf build/asserts || exit 1
	export PG_MAJOR=$new OLD_BINDIR=/usr/lib/postgresql/$old/bin
	exec test/check.sh upgrade
fi
root=$(test/setup.sh debian upgrade) && put_tree "$root" || exit 1
run_child inside "$root" bash -c 'cd /work && exec test/upgrade.sh --inside'
