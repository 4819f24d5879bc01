#!/bin/bash
# What a tool can see of the house style; prints TAP.
cd "$(dirname "$0")/.." || exit 1
status=0

# Succeeds when no line of the files matches; shows those that do.
check()
{
	local name=$1 found
	shift

	if found=$("$@") && [ -n "$found" ]; then
		printf '%s\n' "$found" | head -n 20 | sed 's/^/# /'
		echo "not ok - $name"
		status=1
	else
		echo "ok - $name"
	fi
}

mapfile -t c < <(ls src/*.[ch] test/unit/*.[ch] 2>/dev/null)
mapfile -t sql < <(ls src/*.sql)
mapfile -t all < <(ls src/*.[ch] src/*.sql test/*.sh test/*/*.sh test/*.py test/*/*.py test/fixtures/load.sql Makefile README.md 2>/dev/null)

# Lines with a text in them may be long.
too_long()
{
	awk -v limit="$1" '/^COMMENT|^\t*\x27|"/ { next } { line = $0; gsub(/\t/, "    ", line) } length(line) > limit { print FILENAME ":" FNR ": " length(line) " columns" }' "${@:2}"
}

# Functions begin at a line "{" and end at a line "}".
long_functions()
{
	awk '/^{/ { begun = FNR } /^}/ && begun { if (FNR - begun > 100) print FILENAME ":" begun ": " FNR - begun " lines"; begun = 0 }' "$@"
}

# A placeholder or a replaced function in an install script can be taken over by whoever made the object first.
unguarded()
{
	grep -nE '^CREATE (OR REPLACE|.*IF NOT EXISTS)' "$@" /dev/null
}

# What is in src and not in the lists of the Makefile.
unlisted()
{
	comm -23 <({ ls src/*.c | sed 's/c$/o/'; ls src/*.sql; } | sort) <(grep -oE 'src/[a-z_.]+' Makefile | sort)
}

check "the Makefile lists all of src" unlisted
check "no blanks at the end of a line" grep -nE '[ 	]+$' "${all[@]}"
check "C is indented by tabs" grep -nE '^ {2,}[^ *]' "${c[@]}"
check "braces of blocks stand on their own lines" grep -nE '^\s*(if|for|while|switch|else|do)\b.*\{\s*$' "${c[@]}"
check "C lines end by column 110" too_long 110 src/*.[ch]
check "SQL lines end by column 160" too_long 160 "${sql[@]}"
check "C functions have at most 100 lines" long_functions "${c[@]}"
check "the install script only creates" unguarded "${sql[@]}"
exit $status
