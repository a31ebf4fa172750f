-- Who is in HiringCenter now?
-- One row per prospect that isn't flagged deleted.
--
-- *: the columns of `prospects`, without `_hc_deleted_at` and `_hc_hash`
-- labels: as a list, not as JSON; null if it is none
SELECT * EXCLUDE (_hc_deleted_at, _hc_hash) REPLACE (TRY_CAST(labels AS VARCHAR[]) AS labels)
FROM prospects
WHERE _hc_deleted_at IS NULL
