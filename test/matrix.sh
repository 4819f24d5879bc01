#!/bin/bash
# The tests on each PostgreSQL, each in a Debian of its own, which is kept; the last line is "N passed, N failed".
# usage: matrix.sh [MAJOR]...   without one: 15, 17 and 18.  SUITES: those of check.sh, unless set the ones that need a server only.
# Needs root, or sudo, and the right to mount.  Logs are in build/matrix.  POSTGRES_SOURCE: for the suite core, see core.sh.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. test/child.sh
trap end_child EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

suites=${SUITES:-regress plain isolation pgtap tap}
logs=$PWD/build/matrix
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

# Run a command in a root directory, with mounts that go with it.
inside()
{
	"${as_root[@]}" unshare --mount --pid --fork --kill-child bash -c 'root=$1 source=$2; shift 2
		mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount -t tmpfs -o mode=1777 tmpfs "$root/tmp" &&
			{ [ -z "$source" ] || mount --bind "$source" "$root/mnt"; } &&
			exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 POSTGRES_SOURCE="${source:+/mnt}" "$@"' \
		_ "$1" "${POSTGRES_SOURCE:-}" "${@:2}"
}

# One version: its tree is what git knows of, or could.
version()
{
	local root

	root=$(test/setup.sh debian "$1") || return
	"${as_root[@]}" rm -rf "$root/work" && "${as_root[@]}" mkdir "$root/work" || return
	git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - | "${as_root[@]}" tar -x -C "$root/work" || return
	inside "$root" PG_MAJOR="$1" TAIL="${TAIL:-20}" bash -c 'cd /work && exec test/check.sh "$@"' _ $suites
}

# With its log, and what of it is shown.
run_version()
{
	version "$1" 2>&1 | tee "$logs/$1.log" |
		sed -u -n -E -e "s/^\[[0-9/]+\] +/PostgreSQL $1  /p" -e 's/^(not ok.*|# .*|setup: .*)/    \1/p'
}

mkdir -p "$logs"
passed=0 failed=0
for major in ${*:-15 17 18}; do
	run_child run_version "$major"
	read -r p _ f _ < <(grep -E '^[0-9]+ passed, [0-9]+ failed' "$logs/$major.log" | tail -n 1)
	# What did not come to its end has not passed.
	[ -n "${f:-}" ] || { tail -n 20 "$logs/$major.log"; p=0 f=1; }
	passed=$((passed + p)) failed=$((failed + f)) f=
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
