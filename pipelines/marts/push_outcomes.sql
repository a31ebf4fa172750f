-- What became of each push?
-- One row per push and kind of record.
--
-- run_id: the push
-- kind: `push`, `apply` or `undo`
-- record_kind: `prospects`, `notes`, `tasks` or `meetings`
-- status: how the push ended: `ok`, `failed` or `stopped`
-- started_at: when the push began
-- first_row_at: when its first row was settled
-- last_row_at: when its last row was settled
-- input_rows: rows of the input
-- created: rows that created a record
-- updated: rows that changed one
-- unchanged: rows that HiringCenter had already
-- rejected: rows that couldn't be sent
-- failed: rows that were sent and not accepted, or are in conflict
-- with_kept_fields: rows of which a field was kept as it is in HiringCenter
-- percent_settled: rows created, updated or unchanged, in percent
SELECT
    results.run_id,
    runs.kind,
    coalesce(results.record_kind, 'prospects') AS record_kind,
    runs.status,
    runs.started_at,
    min(results.pushed_at) AS first_row_at,
    max(results.pushed_at) AS last_row_at,
    count(*) AS input_rows,
    count(*) FILTER (WHERE results.status = 'created') AS created,
    count(*) FILTER (WHERE results.status = 'updated') AS updated,
    count(*) FILTER (WHERE results.status = 'unchanged') AS unchanged,
    count(*) FILTER (WHERE results.status = 'rejected') AS rejected,
    count(*) FILTER (WHERE results.status = 'failed') AS failed,
    count(*) FILTER (WHERE results.kept_fields IS NOT NULL) AS with_kept_fields,
    CAST(round(
        100.0 * count(*) FILTER (WHERE results.status IN ('created', 'updated', 'unchanged'))
        / count(*), 1
    ) AS DOUBLE) AS percent_settled
FROM _hc_push_results AS results
LEFT JOIN _hc_runs AS runs ON runs.run_id = results.run_id
GROUP BY results.run_id, runs.kind, coalesce(results.record_kind, 'prospects'), runs.status,
    runs.started_at
