#!/bin/bash
# What we cost a real scheduler: tasks a minute, WAL and processor time of a task, memory; needs the extension installed.
# usage: costs.sh [HELD]...   0, 1000 and 50000 unless given
# ROUNDS, ROUND: how often each side has its turn, and seconds of it.
set -eu -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=$("$here/../setup.sh" airflow 3.3.2)
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" "$here/costs.py" "$@"
