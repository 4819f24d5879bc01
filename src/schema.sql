-- CREATE EXTENSION makes the schema; nobody but its owner may use it until grant_reader() or grant_operator() says so.
COMMENT ON SCHEMA airflow_bp IS 'Queue analysis and admission control for Apache Airflow';

