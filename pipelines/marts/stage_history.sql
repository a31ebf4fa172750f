-- Who was in which stage, from when to when?
-- One row per stay: one prospect in one stage, without a break.
--
-- prospect_id: whose stay
-- stay: number of the prospect's stay, from 1
-- stage: name of the stage; the last one, if the stage was renamed meanwhile
-- stage_id: id of the stage
-- former_stage: where the prospect was before; null: not known
-- next_stage: where the prospect went; null: still here, or deleted
-- is_start_known: whether we saw the stay begin; false: it had begun before the history did
-- entered_at: when a pull requested the row that first showed the prospect here
-- entered_after: the stay began after this; null: not known
-- entered_before: the stay had begun by then: that row had arrived
-- outcome: `moved` or `deleted`; null: still here
-- left_at: when a pull requested the row that first showed the next stay, or found the prospect deleted; null: still here
-- left_after: the stay ended after this; null: still here
-- left_before: the stay was over by then; null: still here
-- hours_at_least: how long the stay was at least; null: still here
-- hours_at_most: how long it was at most; null: still here, or not known
WITH changed AS (  -- the others have one version, and that is one stay
    SELECT DISTINCT id FROM prospects_history WHERE _hc_valid_to IS NOT NULL
),
versions AS (
    SELECT
        id, current_stage, current_stage_id, created_at,
        _hc_valid_from, _hc_valid_to, _hc_changed_after, _hc_changed_before,
        lag(current_stage) OVER prospect AS former_stage,
        lag(current_stage_id) OVER prospect AS former_stage_id,
        lag(_hc_valid_to) OVER prospect AS former_to,
        lead(current_stage) OVER prospect AS next_stage,
        lead(current_stage_id) OVER prospect AS next_stage_id,
        lead(_hc_valid_from) OVER prospect AS next_from
    FROM prospects_history
    WHERE id IN (SELECT id FROM changed)
    WINDOW prospect AS (PARTITION BY id ORDER BY _hc_valid_from)
),
marked AS (  -- a stage whose id stays the same was only renamed
    SELECT
        *,
        former_to IS DISTINCT FROM _hc_valid_from OR CASE
            WHEN current_stage_id IS NOT NULL AND former_stage_id IS NOT NULL
                THEN current_stage_id <> former_stage_id
            ELSE current_stage IS DISTINCT FROM former_stage
        END AS begins,
        next_from IS NULL OR _hc_valid_to IS DISTINCT FROM next_from OR CASE
            WHEN current_stage_id IS NOT NULL AND next_stage_id IS NOT NULL
                THEN current_stage_id <> next_stage_id
            ELSE current_stage IS DISTINCT FROM next_stage
        END AS ends
    FROM versions
),
paired AS (  -- a stay's first version next to its last one
    SELECT
        *,
        CASE WHEN ends THEN current_stage ELSE lead(current_stage) OVER prospect END AS stage,
        CASE WHEN ends THEN current_stage_id ELSE lead(current_stage_id) OVER prospect END
            AS stage_id,
        CASE WHEN ends THEN _hc_valid_from ELSE lead(_hc_valid_from) OVER prospect END
            AS last_seen_at,
        CASE WHEN ends THEN _hc_valid_to ELSE lead(_hc_valid_to) OVER prospect END AS ended_at
    FROM marked
    WHERE begins OR ends
    WINDOW prospect AS (PARTITION BY id ORDER BY _hc_valid_from)
),
stays AS (
    SELECT
        id,
        stage,
        stage_id,
        created_at,
        _hc_valid_from AS entered_at,
        _hc_changed_after AS entered_after,
        coalesce(_hc_changed_before, _hc_valid_from) AS entered_before,
        last_seen_at,
        ended_at,
        row_number() OVER prospect AS stay,
        lag(stage) OVER prospect AS stage_before,
        lag(ended_at) OVER prospect AS stage_before_to,
        lead(stage) OVER prospect AS stage_after,
        lead(_hc_valid_from) OVER prospect AS next_at,
        lead(_hc_changed_after) OVER prospect AS next_after,
        lead(coalesce(_hc_changed_before, _hc_valid_from)) OVER prospect AS next_before
    FROM paired
    WHERE begins
    WINDOW prospect AS (PARTITION BY id ORDER BY _hc_valid_from)
    UNION ALL
    SELECT
        id,
        current_stage,
        current_stage_id,
        created_at,
        _hc_valid_from,
        _hc_changed_after,
        coalesce(_hc_changed_before, _hc_valid_from),
        _hc_valid_from,
        NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL
    FROM prospects_history
    WHERE NOT EXISTS (SELECT 1 FROM changed WHERE changed.id = prospects_history.id)
),
settled AS (
    SELECT
        *,
        CASE WHEN stay = 1 THEN coalesce(entered_after, created_at) ELSE entered_after END
            AS begun_after,
        CASE WHEN ended_at IS NULL THEN NULL WHEN next_at = ended_at THEN 'moved' ELSE 'deleted' END
            AS outcome
    FROM stays
),
bounded AS (
    SELECT
        *,
        CASE
            WHEN outcome = 'moved' THEN greatest(next_after, last_seen_at)
            WHEN outcome = 'deleted' THEN last_seen_at
        END AS here_at,
        CASE WHEN outcome = 'moved' THEN next_before ELSE ended_at END AS gone_at
    FROM settled
)
SELECT
    id AS prospect_id,
    stay,
    stage,
    stage_id,
    CASE WHEN stage_before_to = entered_at THEN stage_before END AS former_stage,
    CASE WHEN outcome = 'moved' THEN stage_after END AS next_stage,
    stay > 1 OR coalesce(created_at >= (SELECT min(_hc_valid_from) FROM prospects_history), FALSE)
        AS is_start_known,
    entered_at,
    begun_after AS entered_after,
    entered_before,
    outcome,
    ended_at AS left_at,
    here_at AS left_after,
    gone_at AS left_before,
    CASE
        WHEN here_at > entered_before
            THEN floor(EXTRACT(EPOCH FROM (here_at - entered_before)) / 36) / 100
        WHEN here_at IS NOT NULL THEN 0
    END AS hours_at_least,
    ceil(EXTRACT(EPOCH FROM (gone_at - begun_after)) / 36) / 100 AS hours_at_most
FROM bounded
