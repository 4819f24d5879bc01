#!/bin/bash
# Install what is missing to build and test; quick when nothing is.
# usage: setup.sh                  the compiler, PostgreSQL and the test tools
#        setup.sh build [asserts]  the extension, built and installed; with asserts in a tree of its own
#        setup.sh airflow VERSION  a Python environment with that Airflow; prints its directory
#                                  VERSION-celery: with Celery too; VERSION-tests: with what Airflow's own tests need
#        setup.sh redis            Redis, of which no service starts; prints the server program
#        setup.sh pgspot           the linter of extension scripts, in an environment of its own; prints the program
#        setup.sh debian MAJOR     a Debian in a directory of its own that has PostgreSQL 15, 17 or 18; prints the directory
#        setup.sh debian upgrade   the same, that can have both 15 and 17
#        setup.sh source           the source of the installed PostgreSQL; prints the directory
#        setup.sh server KIND      a PostgreSQL built from it to find more faults, see sharp.sh; prints the directory
set -u

pg=${PG_MAJOR:-15}
cache=${AIRFLOW_BP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/airflow_bp}
packages=(build-essential zlib1g-dev curl "postgresql-$pg" "postgresql-server-dev-$pg" "postgresql-$pg-pgtap"
	"postgresql-$pg-cron" libipc-run-perl libtap-parser-sourcehandler-pgtap-perl util-linux procps)

say()
{
	echo "setup: $*" >&2
}

die()
{
	say "$@"
	exit 1
}

# Run a command quietly, up to three times: the network may fail.
try()
{
	local out try

	for try in 1 2 3; do
		out=$("$@" 2>&1) && return
		[ "$try" = 3 ] || { say "failed, once more: $*"; sleep $((try * 3)); }
	done
	printf '%s\n' "$out" | tail -n 30 >&2
	return 1
}

as_root()
{
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "root is needed to run: $*"
	fi
}

apt_install()
{
	try as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
		-o DPkg::Lock::Timeout=300 "$@"
}

installed()
{
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Debian makes and starts a server of its own with the package, unless told not to at that moment.
install_packages()
{
	local missing=() package no_main=/etc/postgresql-common/createcluster.d/airflow_bp.conf

	for package in "${packages[@]}"; do
		installed "$package" || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "this system has no apt; install by hand: ${missing[*]}"
	say "package lists"
	try as_root apt-get update -q -o DPkg::Lock::Timeout=300 || say "some package lists are old"
	say "packages: ${missing[*]}"
	as_root mkdir -p "${no_main%/*}"
	echo 'create_main_cluster = false' | as_root tee "$no_main" >/dev/null
	apt_install "${missing[@]}"
	local status=$?
	as_root rm -f "$no_main"
	return $status
}

# A Python from 3.10 to 3.MOST; a name on the path may still be a stub that does not run.
find_python()
{
	local candidate

	for candidate in python3.12 python3.11 python3.10 python3.13 python3.14 python3 /usr/bin/python3 \
		"$HOME"/.pyenv/versions/3.1[0-4].*/bin/python3; do
		"$candidate" -c 'import sys, venv, ensurepip
if not (3, 10) <= sys.version_info[:2] <= (3, int(sys.argv[1])): sys.exit(1)
print(sys.executable)' "$1" 2>/dev/null && return
	done
	return 1
}

need_python()
{
	python=$(find_python "$1") && return
	say "Python"
	try as_root apt-get update -q -o DPkg::Lock::Timeout=300
	apt_install python3 python3-venv && python=$(find_python "$1") || die "a Python from 3.10 to 3.$1 is needed"
}

need_uv()
{
	if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
		uv=uv
		return
	fi
	uv=$cache/uv/bin/uv
	"$uv" --version >/dev/null 2>&1 && return
	say "uv"
	rm -rf "$cache/uv"
	"$python" -m venv "$cache/uv" && try "$cache/uv/bin/pip" install -q uv || die "uv cannot be installed"
}

# The last day whose packages are known to work with the version, and the newest Python 3 that it runs on.
newest()
{
	case ${1%-*} in
		3.0.6) echo 2025-09-05 12 ;;
		3.1.8) echo 2026-03-20 13 ;;
		3.2.2) echo 2026-06-05 14 ;;
		3.3.2) echo 2026-09-25 14 ;;
		*) die "Airflow $1 is not among those tested: 3.0.6, 3.1.8, 3.2.2, 3.3.2" ;;
	esac
}

# Print the environment's directory; only a finished one has the stamp.
airflow()
{
	local newest day minor dir=$cache/airflow-$1 stamp=$cache/airflow-$1/finished more=()

	newest=$(newest "$1") || exit 1
	read -r day minor <<<"$newest"
	case $1 in
		*-celery) more=("apache-airflow-providers-celery[redis]") ;;
		*-tests) more=(apache-airflow-providers-git aioresponses kgb pytest-asyncio pytest-mock pytest-rerunfailures pytest-timeouts
			pytest-unordered pytz requests-mock "time-machine[dateutil]") ;;
	esac
	mkdir -p "$cache" || exit 1
	exec 9>"$cache/airflow-$1.lock"
	flock 9
	if [ ! -e "$stamp" ] || ! "$dir/bin/python" -c '' 2>/dev/null; then
		export UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
		need_python "$minor"
		need_uv
		say "Airflow $1"
		rm -rf "$dir"
		"$uv" venv -q -p "$python" "$dir" || exit 1
		try "$uv" pip install -q -p "$dir/bin/python" --exclude-newer "$day" "apache-airflow[postgres]==${1%-*}" \
			apache-airflow-providers-standard pytest "${more[@]}" || die "Airflow $1 cannot be installed"
		touch "$stamp"
	fi
	echo "$dir"
}

# Debian's package of the server starts a service; the tools are the same program, which goes by its name.
redis()
{
	local own=$cache/redis-server

	command -v redis-server && return
	if ! "$own" --version >/dev/null 2>&1; then
		mkdir -p "$cache" || exit 1
		say "Redis"
		try as_root apt-get update -q -o DPkg::Lock::Timeout=300
		apt_install redis-tools && ln -sf "$(command -v redis-check-rdb)" "$own" && "$own" --version >/dev/null ||
			die "Redis cannot be installed"
	fi
	echo "$own"
}

# Of the version whose findings test/spot.sh knows.
pgspot()
{
	local dir=$cache/pgspot

	mkdir -p "$cache" || exit 1
	exec 9>"$dir.lock"
	flock 9
	if ! "$dir/bin/pgspot" --version >/dev/null 2>&1; then
		need_python 14
		say "pgspot"
		rm -rf "$dir"
		"$python" -m venv "$dir" && try "$dir/bin/pip" install -q pgspot==0.9.4 pglast==7.21 || die "pgspot cannot be installed"
	fi
	echo "$dir/bin/pgspot"
}

# The Debian whose packages have a PostgreSQL.
suite_of()
{
	case $1 in
		15) echo bookworm ;;
		17) echo trixie ;;
		18) echo sid ;;
		upgrade) echo upgrade ;;
		*) die "PostgreSQL $1 is not among those tested: 15, 17, 18" ;;
	esac
}

# Only a finished directory has the stamp.  How packages are fetched is as here.
debian()
{
	local suite dir conf more=()

	suite=$(suite_of "$1") || exit 1
	dir=$cache/debian-$suite conf=$cache/apt.conf
	if [ "$suite" = upgrade ]; then
		suite=trixie
		more=('--customize-hook=sed s/trixie/bookworm/ "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/bookworm.list"')
	fi
	mkdir -p "$cache" || exit 1
	exec 9>"$dir.lock"
	flock 9
	if [ ! -e "$dir.finished" ]; then
		installed mmdebstrap || { try as_root apt-get update -q -o DPkg::Lock::Timeout=300; apt_install mmdebstrap; } ||
			die "mmdebstrap cannot be installed"
		say "Debian ${dir##*-}"
		as_root rm -rf "$dir"
		apt-config dump | grep -E '^Acquire::(http|https|Retries|Check)' >"$conf"
		try as_root mmdebstrap --variant=minbase --include=ca-certificates --aptopt="$conf" "${more[@]}" "$suite" "$dir" 9>&- ||
			die "Debian $suite cannot be installed"
		touch "$dir.finished"
	fi
	echo "$dir"
}

# The system's package sources with Types: deb-src, in a directory of our own: no system file changes and no root is needed.
# Debian's patches move directories, so they are left out.
fetch_source()
{
	local dir=$1 list host candidate apt archives=(grep -qsF) hosts

	mapfile -t hosts < <(apt-cache policy "postgresql-$pg" | sed -nE 's|^ +[0-9]+ https?://([^ ]+) .*|\1|p' | sort -u)
	for host in "${hosts[@]}"; do
		archives+=(-e "$host")
	done
	[ ${#hosts[@]} -gt 0 ] || archives=(true)
	mkdir -p "$dir/etc/sources" "$dir/lists/partial" "$dir/cache/archives/partial" || return
	for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
		case $list in
			*.list) sed -n 's/^deb /deb-src /p' "$list" ;;
			*.sources) sed 's/^Types:.*/Types: deb-src/' "$list" ;;
			*) continue ;;
		esac >"$dir/etc/sources/$(basename "$list")"
		# Only the archives that have the installed package.
		"${archives[@]}" "$dir/etc/sources/$(basename "$list")" || rm "$dir/etc/sources/$(basename "$list")"
	done 2>/dev/null
	apt=(-q -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$dir/etc/sources" -o "Dir::State::lists=$dir/lists"
		-o "Dir::Cache=$dir/cache" -o "Acquire::Retries=3" -o "APT::Sandbox::User=")
	apt-get update "${apt[@]}" || echo "some source lists could not be read"
	cd "$dir" || return
	# The installed version, or the nearest that can be had.
	for candidate in "$2" $(apt-cache "${apt[@]}" showsrc "postgresql-$pg" | sed -n 's/^Version: //p' | sort -Vr); do
		apt-get source "${apt[@]}" --download-only "postgresql-$pg=$candidate" && break
	done || return
	mkdir tree && tar -x -f postgresql-*.orig.tar.* -C tree --strip-components=1
}

server_version()
{
	dpkg-query -W -f '${Version}' "postgresql-$pg" 2>/dev/null || echo "$pg"
}

# Only a finished directory has its final name.
pg_source()
{
	local version dir out

	version=$(server_version)
	dir=$cache/source-$version
	mkdir -p "$cache" || exit 1
	exec 9>"$cache/source.lock"
	flock 9
	if [ ! -d "$dir" ]; then
		say "the source of PostgreSQL $version"
		rm -rf "$dir.part"
		out=$( (fetch_source "$dir.part" "$version") 2>&1 9>&-) && mv "$dir.part/tree" "$dir" ||
			die "the source cannot be had: $(printf '%s\n' "$out" | tail -n 20)"
		rm -rf "$dir.part"
	fi
	echo "$dir"
}

# What the extension is built with is what the server was built with.
flags_of()
{
	case $1 in
		cassert) ;;
		sanitize) echo "CFLAGS=-Og -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
		exec) echo "CPPFLAGS=-DEXEC_BACKEND" ;;
		valgrind) echo "CPPFLAGS=-DUSE_VALGRIND" ;;
		*) die "no server $1; there are: cassert sanitize exec valgrind" ;;
	esac
}

# One assertion of PostgreSQL does not hold: a transaction locks a row FOR NO KEY UPDATE, updates it and rolls that back to a savepoint,
# releases it and updates the row again, to another page.  MultiXactIdExpand() then keeps the update that is no more.
# Other extensions are those of the system: their files fit, as the major version is the same.
make_server()
{
	local source=$1 dir=$2 build=$2.build heapam=src/backend/access/heap/heapam.c library share
	shift 2

	# Its programs leak what they end with.
	export ASAN_OPTIONS=detect_leaks=0
	rm -rf "$dir" "$build"
	mkdir -p "$build" && cd "$build" || return
	"$source/configure" -q --prefix="$dir" --disable-rpath --without-readline --enable-tap-tests --enable-debug --enable-cassert CFLAGS=-Og "$@" &&
		sed '/Assert(HEAP_XMAX_IS_LOCKED_ONLY(infomask_lock_old_tuple));/d' "$source/$heapam" >$heapam &&
		make -s -j "$(nproc)" && make -s install && make -s -j "$(nproc)" -C contrib/pg_stat_statements install || return
	library=$(/usr/lib/postgresql/$pg/bin/pg_config --pkglibdir) share=$(/usr/lib/postgresql/$pg/bin/pg_config --sharedir)
	cp "$library/pg_cron.so" "$("$dir/bin/pg_config" --pkglibdir)" &&
		cp "$share"/extension/{pg_cron,pgtap}* "$("$dir/bin/pg_config" --sharedir)/extension" || return
	cd / && rm -rf "$build"
}

# Only a finished directory has the stamp.
server()
{
	local source dir flags out

	dir=$cache/server-$1-$(server_version)
	out=$(flags_of "$1") || exit 1
	mapfile -t flags < <(printf '%s' "$out")
	mkdir -p "$cache" || exit 1
	exec 8>"$cache/server-$1.lock"
	flock 8
	if [ ! -e "$dir/finished" ]; then
		source=$(pg_source) || exit 1
		if [ "$1" = valgrind ] && ! installed valgrind; then
			try as_root apt-get update -q -o DPkg::Lock::Timeout=300
			apt_install valgrind || die "valgrind cannot be installed"
		fi
		say "PostgreSQL, $1"
		out=$(make_server "$source" "$dir" "${flags[@]}" 2>&1 8>&-) || die "it does not build: $(printf '%s\n' "$out" | tail -n 40)"
		touch "$dir/finished"
	fi
	echo "$dir"
}

# Built by the caller, installed by root where that is needed.
build()
{
	local out as=() flags=()

	. "$(dirname "$0")/pg_config.sh"
	cd "$(dirname "$0")/.." || exit 1
	flags=("PG_CONFIG=$PG_CONFIG")
	say "build${1:+ with $1}"
	if [ "${1:-}" = asserts ]; then
		mkdir -p build/asserts/src && cp -u Makefile airflow_bp.control build/asserts/ && cp -u src/*.[ch] src/*.sql build/asserts/src/ &&
			{ [ ! -d updates ] || cp -ru updates build/asserts/; } && cd build/asserts || exit 1
		flags+=(ASSERT=1)
	fi
	out=$(make -s "${flags[@]}" 2>&1) || { printf '%s\n' "$out" | tail -n 40 >&2; die "the extension does not build"; }
	[ -w "$("$PG_CONFIG" --pkglibdir)" ] || as=(as_root)
	"${as[@]}" make -s install "${flags[@]}" >/dev/null
}

case ${1:-} in
	'') install_packages ;;
	build) build "${2:-}" ;;
	airflow) airflow "${2:?version}" ;;
	redis) redis ;;
	pgspot) pgspot ;;
	debian) debian "${2:?major version of PostgreSQL}" ;;
	source) pg_source ;;
	server) server "${2:?kind}" ;;
	*) sed -n '3,13s/^# //p' "$0" >&2; exit 2 ;;
esac
