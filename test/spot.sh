#!/bin/bash
# What another role could plant for the install and update scripts to fall into; prints TAP.
# pgspot reads them a statement at a time, as it leaves out all that follows one that it cannot read.
cd "$(dirname "$0")/.." || exit 1
. test/pg_config.sh
pgspot=$(test/setup.sh pgspot) || exit 1
dir=$(mktemp -d "${TMPDIR:-/tmp}/airflow_bp.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
status=0

# Known: a procedure that commits can pin no search_path, and names everything in full;
# an update replaces functions, and PostgreSQL lets it replace only what belongs to the extension (test/look.sh sees to the install script);
# dlq_batch_next(), which selects into a field of a record, cannot be read: its search_path is pinned, see test/pgtap/contract.sql.
known='^(PS002: |PS005: Function without explicit search_path: airflow_bp\.dlq_retry_all\(|[^ ]*airflow_bp\.dlq_batch_next .* is not a known variable$)'

# The findings, and what could not be read with the name of the function.
findings()
{
	local script=$1 path piece

	rm -f "$dir"/*
	path=$(grep -m 1 '^SET LOCAL search_path = ' "$script")
	csplit -s -z -n 4 -f "$dir/" "$script" '/^\(CREATE\|DO\|ALTER\) /' '{*}' || return
	for piece in "$dir"/*; do
		# It cannot read a body of expressions, whose names are bound as it is made, by the path of the script.
		if grep -qE '^(RETURN |BEGIN ATOMIC$)' "$piece"; then
			rm "$piece"
		else
			{ echo "$path"; cat "$piece"; } >"$piece.sql" && mv "$piece.sql" "$piece"
		fi
	done
	"$pgspot" "$dir"/* | awk '/^\// { file = substr($1, 1, length($1) - 1); next }
		/^(PS|TOTAL)/ { print; next }
		/^ *(Errors:.*)?$/ { next }
		{ name = "?"; while ((getline line < file) > 0) if (split(line, word, /[ (]/) > 2 && word[1] == "CREATE") { name = word[3]; break }; print name $0 }'
}

script=airflow_bp--$(sed -n 's/^EXTVERSION = //p' Makefile).sql
make -s "PG_CONFIG=$PG_CONFIG" "$script" || exit 1
for script in "$script" updates/*.sql; do
	[ -e "$script" ] || continue
	found=$(findings "$script")
	# Its last line says that it came to its end.
	if [[ $found != *TOTAL:* ]] || grep -v '^TOTAL' <<<"$found" | grep -vE "$known" | sed 's/^/# /' | grep .; then
		echo "not ok - spot $script"
		status=1
	else
		echo "ok - spot $script"
	fi
done
exit $status
