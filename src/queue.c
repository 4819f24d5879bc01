#include "compat.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "guc.h"
PG_FUNCTION_INFO_V1(airflow_schema_setting);
Datum
airflow_schema_setting(PG_FUNCTION_ARGS)
{
	if (guc_airflow_schema == NULL || guc_airflow_schema[0] == '\0')
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(guc_airflow_schema));
}
