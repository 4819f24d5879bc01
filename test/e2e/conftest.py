"""Fixtures: `stack` starts an Airflow for one test, `shared_stack` one for all tests of a file.

Templates are made once per session and version.
"""

import contextlib
import os

import harness
import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only in make check-e2e-long")
    config.addinivalue_line("markers", "matrix: on each version of Airflow, in make check-airflow-matrix")
    harness.leave_nothing_behind()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    global reporter
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")


@pytest.fixture(scope="session")
def templates():
    """template(version) gives the data directory of a migrated, parsed Airflow."""
    directory = harness.scratch()
    made = {}

    def template(version):
        if version not in made:
            if not harness.venv(version).exists():
                pytest.skip(f"Airflow {version} is not installed: test/setup.sh airflow {version}")
            made[version] = harness.make_template(directory / version, version)
        return made[version]

    yield template
    harness.discard(directory)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    for node in (item, item.parent):
        node.failed_once = getattr(node, "failed_once", False) or outcome.get_result().failed


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_logreport(report):
    """The reason of a failure in one line below its test."""
    yield
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = " ".join((crash.message if crash else str(report.longrepr)).split())
        reporter.ensure_newline()
        reporter.write_line(f"# {reason[:600]}")


@contextlib.contextmanager
def stacks(node, templates):
    """start(version, schedulers=1, extension=True, ...) returns a running Airflow."""
    directories = []

    def start(version=harness.NEWEST, schedulers=1, extension=True, components=True, **settings):
        directory = harness.scratch()
        directories.append(directory)
        preload = {"shared_preload_libraries": "airflow_bp", "airflow_bp__database": "airflow"} if extension else {}
        pg = harness.Postgres(directory, templates(version.split("-")[0])).start(**preload, **settings)
        airflow = harness.Airflow(directory, pg, version)
        if extension:
            pg.rows("CREATE EXTENSION airflow_bp")
        if components:
            names = ["api-server", *["scheduler", "scheduler-2"][:schedulers]]
            airflow.start(*names).wait_ready()
        return airflow

    yield start
    harness.kill_all()
    for directory in directories:
        if getattr(node, "failed_once", False) or os.environ.get("KEEP"):
            print(f"logs are kept in {directory}")
        else:
            harness.discard(directory)


@pytest.fixture
def stack(request, templates):
    with stacks(request.node, templates) as start:
        yield start


@pytest.fixture(scope="module")
def shared_stack(request, templates):
    with stacks(request.node, templates) as start:
        yield start
