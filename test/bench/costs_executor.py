"""An executor whose tasks end at once: what is left is the work of the scheduler, and what an API server writes."""

import os

import psycopg2
from airflow.configuration import conf
from airflow.executors.base_executor import BaseExecutor

STARTS = "UPDATE task_instance SET state = 'running', start_date = now(), last_heartbeat_at = now(), updated_at = now() WHERE id = %s"
ENDS = "UPDATE task_instance SET state = 'success', end_date = now(), duration = 0, updated_at = now() WHERE id = %s"


class AtOnce(BaseExecutor):
    def start(self):
        self.connection = psycopg2.connect(conf.get("database", "sql_alchemy_conn").replace("+psycopg2", ""))
        self.connection.autocommit = True
        self.file = os.open(f"{os.environ['AIRFLOW_HOME']}/ended", os.O_RDWR | os.O_CREAT)
        self.ended = 0

    def _process_workloads(self, workload_items):
        with self.connection.cursor() as cursor:
            for workload in workload_items:
                del self.queued_tasks[workload.ti.key]
                for write in (STARTS, ENDS):
                    cursor.execute(write, (str(workload.ti.id),))
                self.success(workload.ti.key)
        self.ended += len(workload_items)
        os.pwrite(self.file, b"%12d" % self.ended, 0)

    def end(self):
        self.connection.close()

    terminate = end
