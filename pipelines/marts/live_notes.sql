-- Which notes are in HiringCenter now?
-- One row per note that isn't flagged deleted.
--
-- *: the columns of `notes`, without `_hc_deleted_at` and `_hc_hash`
SELECT * EXCLUDE (_hc_deleted_at, _hc_hash)
FROM notes
WHERE _hc_deleted_at IS NULL
