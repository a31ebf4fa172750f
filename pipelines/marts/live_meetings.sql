-- Which meetings are in HiringCenter now?
-- One row per meeting that isn't flagged deleted.
--
-- *: the columns of `meetings`, without `_hc_deleted_at` and `_hc_hash`
SELECT * EXCLUDE (_hc_deleted_at, _hc_hash)
FROM meetings
WHERE _hc_deleted_at IS NULL
