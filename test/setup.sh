#!/bin/bash
# Install what is missing to build and test; quick when nothing is.
# usage: setup.sh                  the compiler, PostgreSQL and the test tools
#        setup.sh build [asserts]  the extension, built and installed; with asserts in a tree of its own
#        setup.sh airflow VERSION  a Python environment with that Airflow; prints its directory
#                                  VERSION-celery: with Celery too; VERSION-tests: with what Airflow's own tests need
#        setup.sh redis            Redis, of which no service starts; prints the server program
#        setup.sh debian MAJOR     a Debian in a directory of its own that has PostgreSQL 15, 17 or 18; prints the directory
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

# Airflow runs on Python 3.10 to 3.12; a name on the path may still be a stub that does not run.
find_python()
{
	local candidate

	for candidate in python3.12 python3.11 python3.10 python3 /usr/bin/python3 \
		"$HOME"/.pyenv/versions/3.1[012].*/bin/python3; do
		"$candidate" -c 'import sys, venv, ensurepip
if not (3, 10) <= sys.version_info[:2] <= (3, 12): sys.exit(1)
print(sys.executable)' 2>/dev/null && return
	done
	return 1
}

need_python()
{
	python=$(find_python) && return
	say "Python"
	try as_root apt-get update -q -o DPkg::Lock::Timeout=300
	apt_install python3 python3-venv && python=$(find_python) || die "Python 3.10, 3.11 or 3.12 is needed"
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

# The last day whose packages are known to work with the version.
newest_day()
{
	case ${1%-*} in
		3.0.6) echo 2025-09-05 ;;
		3.1.8) echo 2026-03-20 ;;
		3.2.2) echo 2026-06-05 ;;
		3.3.2) echo 2026-09-25 ;;
		*) die "Airflow $1 is not among those tested: 3.0.6, 3.1.8, 3.2.2, 3.3.2" ;;
	esac
}

# Print the environment's directory; only a finished one has the stamp.
airflow()
{
	local day dir=$cache/airflow-$1 stamp=$cache/airflow-$1/finished more=()

	day=$(newest_day "$1") || exit 1
	case $1 in
		*-celery) more=("apache-airflow-providers-celery[redis]") ;;
		*-tests) more=(aioresponses kgb pytest-asyncio pytest-mock pytest-rerunfailures pytest-timeouts pytest-unordered requests-mock
			"time-machine[dateutil]") ;;
	esac
	mkdir -p "$cache" || exit 1
	exec 9>"$cache/airflow-$1.lock"
	flock 9
	if [ ! -e "$stamp" ] || ! "$dir/bin/python" -c '' 2>/dev/null; then
		export UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
		need_python
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

# The Debian whose packages have a PostgreSQL.
suite_of()
{
	case $1 in
		15) echo bookworm ;;
		17) echo trixie ;;
		18) echo sid ;;
		*) die "PostgreSQL $1 is not among those tested: 15, 17, 18" ;;
	esac
}

# Only a finished directory has the stamp.  How packages are fetched is as here.
debian()
{
	local suite dir conf

	suite=$(suite_of "$1") || exit 1
	dir=$cache/debian-$suite conf=$cache/apt.conf
	mkdir -p "$cache" || exit 1
	exec 9>"$cache/debian-$suite.lock"
	flock 9
	if [ ! -e "$dir.finished" ]; then
		installed mmdebstrap || { try as_root apt-get update -q -o DPkg::Lock::Timeout=300; apt_install mmdebstrap; } ||
			die "mmdebstrap cannot be installed"
		say "Debian $suite"
		as_root rm -rf "$dir"
		apt-config dump | grep -E '^Acquire::(http|https|Retries|Check)' >"$conf"
		try as_root mmdebstrap --variant=minbase --include=ca-certificates --aptopt="$conf" "$suite" "$dir" 9>&- ||
			die "Debian $suite cannot be installed"
		touch "$dir.finished"
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
			cd build/asserts || exit 1
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
	debian) debian "${2:?major version of PostgreSQL}" ;;
	*) sed -n '2,9s/^# //p' "$0" >&2; exit 2 ;;
esac
