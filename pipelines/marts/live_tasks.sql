-- Which tasks are in HiringCenter now?
-- One row per task that isn't flagged deleted.
--
-- *: the columns of `tasks`, without `_hc_deleted_at` and `_hc_hash`
SELECT * EXCLUDE (_hc_deleted_at, _hc_hash)
FROM tasks
WHERE _hc_deleted_at IS NULL
