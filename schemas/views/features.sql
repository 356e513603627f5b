-- Every item with the pool_3 computed for it last; items without one have nulls there.
-- weights_kind says when features come from random weights.
select
    i.*,
    p.extractor_id,
    e.weights,
    e.weights_kind,
    p.pool_3,
    p.norm,
    p.extracted_at
from images i
left join (
    select p.*
    from pool_3 p
    semi join (
        select image_id, arg_max(extractor_id, (extracted_at, extractor_id)) as extractor_id
        from pool_3
        where "view" = 'identity'
        group by image_id
    ) newest on newest.image_id = p.image_id and newest.extractor_id = p.extractor_id
    where p."view" = 'identity'
) p on p.image_id = i.image_id
left join extractors e on e.extractor_id = p.extractor_id
