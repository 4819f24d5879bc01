#!/bin/bash
# The tests on each PostgreSQL, each in a Debian of its own, which is kept; the last line is "N passed, N failed".
# usage: matrix.sh [MAJOR]...   without one: 15, 17 and 18.  SUITES: those of check.sh, unless set the ones that need a server only.
# Needs root, or sudo, and the right to mount.  Logs are in build/matrix.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. test/elsewhere.sh
trap end_child EXIT

logs=$PWD/build/matrix
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

# Run a command in a root directory, with mounts that go with it.
inside()
{
	"${as_root[@]}" unshare --mount --pid --fork --kill-child bash -c 'root=$1; shift
		mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount -t tmpfs -o mode=1777 tmpfs "$root/tmp" &&
			exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"' _ "$@"
}

run_one()
{
	local root

	root=$(test/setup.sh debian "$1") || return
	"${as_root[@]}" rm -rf "$root/work" && "${as_root[@]}" mkdir "$root/work" || return
	tree | "${as_root[@]}" tar -x -C "$root/work" || return
	inside "$root" PG_MAJOR="$1" TAIL="${TAIL:-20}" bash -c 'cd /work && exec test/check.sh "$@"' _ $suites
}

run_all "PostgreSQL " ${*:-15 17 18}
