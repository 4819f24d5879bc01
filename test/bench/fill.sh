#!/bin/bash
# Time the engine of admission, without a server.
# usage: fill.sh
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
set -eu -o pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/airflow_bp.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

"${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -I"$top/src" -o "$scratch/fill" \
	"$top/test/bench/fill.c" "$top"/src/{admit,admit_line,admit_fill,heap}.c -lm
"$scratch/fill"
