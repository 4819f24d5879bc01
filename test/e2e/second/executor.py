"""An executor under another name, as a deployment with several has them."""

from airflow.executors.local_executor import LocalExecutor


class SecondExecutor(LocalExecutor):
    """Runs tasks as the first does."""
