"""Create runs as the API server does, without its round trips. One JSON request per line."""

import json
import os
import sys
from datetime import datetime, timezone

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Airflow logs to standard output

from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

number = 0
for line in sys.stdin:
    request = json.loads(line)
    run_ids = []
    with create_session() as session:
        dag = SerializedDagModel.get_dag(request["dag_id"], session=session)
        for _ in range(request["count"]):
            number += 1
            run_ids.append(f"many__{os.getpid()}_{number:06d}")
            dag.create_dagrun(
                run_id=run_ids[-1],
                run_after=datetime.now(timezone.utc),
                conf=request["conf"],
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.REST_API,
                state=DagRunState.QUEUED,
                session=session,
            )
    answers.write(json.dumps(run_ids) + "\n")
    answers.flush()
