-- One row an extractor and view of pool_3: values that are not finite, channels that are zero for every image, and
-- images whose norm lies more than four standard deviations from the mean.
with norms as (
    select extractor_id, "view", avg(norm order by image_id) as mean_norm,
        coalesce(stddev_samp(norm order by image_id), 0) as sd_norm
    from pool_3
    where isfinite(norm)
    group by all
),
images_of as (
    select
        p.extractor_id,
        p."view",
        count(*) as images,
        count(*) filter (not isfinite(list_sum(p.pool_3))) as not_finite,
        count(*) filter (
            isfinite(p.norm) and abs(p.norm - n.mean_norm) > 4 * n.sd_norm and n.sd_norm > 0
        ) as norm_outliers,
        min(p.norm) filter (isfinite(p.norm)) as min_norm,
        any_value(n.mean_norm) as mean_norm,
        max(p.norm) filter (isfinite(p.norm)) as max_norm
    from pool_3 p
    left join norms n on n.extractor_id = p.extractor_id and n."view" = p."view"
    group by all
),
channels as (
    select extractor_id, "view", count(*) filter (largest = 0) as dead_channels
    from (
        select extractor_id, "view", channel, max(abs(value)) as largest
        from (
            select extractor_id, "view", unnest(pool_3) as value, generate_subscripts(pool_3, 1) as channel
            from pool_3
        )
        group by all
    )
    group by all
)
select
    i.extractor_id, i."view", e.weights_kind, i.images, i.not_finite, c.dead_channels, i.norm_outliers,
    i.min_norm, i.mean_norm, i.max_norm
from images_of i
join channels c on c.extractor_id = i.extractor_id and c."view" = i."view"
left join extractors e on e.extractor_id = i.extractor_id
