"""HiringCenter every hour, in Dagster: four assets, loaded by the dlt source.

Needs `dagster-dlt` and this project in one environment:
    dagster dev --module-name pipelines.dags.hiringcenter_dagster

The key, the ledger and the like come from where the dlt source looks (`SOURCES__HIRINGCENTER__…`,
`HIRINGCENTER_…`), the destination's credentials from dlt's configuration. It is a pipeline of its
own: load it into another dataset than `hiringcenter pull` does.

Loading is in chunks of a minute, so a run that is killed repeats a minute. While a run is at work,
the schedule starts no other one: two at once would share the pipeline's working folder.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dlt
from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetSelection,
    AssetSpec,
    Config,
    DagsterRunStatus,
    Definitions,
    MaterializeResult,
    RunRequest,
    RunsFilter,
    ScheduleEvaluationContext,
    SkipReason,
    define_asset_job,
    schedule,
)
from dagster_dlt import DagsterDltResource, DagsterDltTranslator, dlt_assets
from dagster_dlt.translator import DltResourceTranslatorData

from connector.source import flag_deleted, hiringcenter, unfinished

CHUNK_S = 60
_AT_WORK = [DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED,
            DagsterRunStatus.CANCELING]  # fmt: skip


def own_pipeline() -> dlt.Pipeline:
    return dlt.pipeline(
        "hiringcenter_assets",
        destination=os.environ.get("HIRINGCENTER_DESTINATION", "duckdb"),
        dataset_name=os.environ.get("HIRINGCENTER_DATASET", "hiringcenter_dagster"),
    )


class _Keys(DagsterDltTranslator):
    """Assets are called `hiringcenter/prospects` and so on, and depend on nothing in Dagster."""

    def get_asset_spec(self, data: DltResourceTranslatorData) -> AssetSpec:
        key = AssetKey(["hiringcenter", data.resource.name])
        return super().get_asset_spec(data).replace_attributes(key=key, deps=[])


class ScanConfig(Config):
    """full: read every list in full, whatever the scan plan says."""

    full: bool = False


@dlt_assets(
    # only its names count here: definitions load without a key, also where they are just checked
    dlt_source=hiringcenter(api_key="unused"),
    dlt_pipeline=own_pipeline(),
    name="hiringcenter",
    group_name="hiringcenter",
    dagster_dlt_translator=_Keys(),
    pool="hiringcenter",
)
def hiringcenter_assets(
    context: AssetExecutionContext, config: ScanConfig, loader: DagsterDltResource
) -> Iterator[MaterializeResult[Any]]:
    """Load the selected lists, then flag the rows that full scans prove deleted."""
    left = [key.path[-1] for key in context.selected_asset_keys]
    pipeline = own_pipeline()
    results: dict[AssetKey, MaterializeResult[Any]] = {}
    rows: Counter[AssetKey] = Counter()  # of all chunks
    while left:
        source = hiringcenter(full=config.full).with_resources(*left)
        for loaded in loader.run(
            context=context,
            dlt_source=source.add_limit(max_time=CHUNK_S),
            dlt_pipeline=pipeline,
            dagster_dlt_translator=_Keys(),
            loader_file_format="parquet",
        ):
            results[loaded.asset_key] = loaded
            count = (loaded.metadata or {}).get("rows_loaded")
            rows[loaded.asset_key] += count.value if count else 0
        left = [name for name in unfinished(pipeline) if name in left]
    deleted = flag_deleted(pipeline)
    for key, result in results.items():
        flagged = deleted.get(key.path[-1], 0)
        counts = {"rows_loaded": rows[key], "rows_flagged_deleted": flagged}
        yield MaterializeResult(asset_key=key, metadata={**(result.metadata or {}), **counts})


hiringcenter_job = define_asset_job(
    "hiringcenter_job", selection=AssetSelection.groups("hiringcenter")
)


@schedule(job=hiringcenter_job, cron_schedule="7 * * * *")
def hiringcenter_hourly(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
    at_work = context.instance.get_runs(
        RunsFilter(job_name=hiringcenter_job.name, statuses=_AT_WORK), limit=1
    )
    if at_work:
        return SkipReason(f"Run {at_work[0].run_id} is still at work; the next one resumes.")
    return RunRequest()


defs = Definitions(
    assets=[hiringcenter_assets],
    jobs=[hiringcenter_job],
    schedules=[hiringcenter_hourly],
    resources={"loader": DagsterDltResource()},
)
